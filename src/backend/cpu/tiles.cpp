#include "backend/cpu/tiles.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "quant/codec.h"

namespace ds4::cpu {

namespace {

/// Bit i of the sign byte to byte i.
const std::uint64_t* sign_octets() {
  static const std::array<std::uint64_t, 128> table = [] {
    std::array<std::uint64_t, 128> octets{};
    for (unsigned t = 0; t < 128; ++t)
      for (unsigned i = 0; i < 8; ++i)
        if ((iq2_xxs_signs(t) >> i & 1) != 0) octets[t] |= std::uint64_t{0xff} << (8 * i);
    return octets;
  }();
  return table.data();
}

/// The codebook with two bits for a value: 0, 1, 2 for 8, 25, 43.
const std::uint8_t* grid_levels() {
  static const std::array<std::uint8_t, 512> table = [] {
    std::array<std::uint8_t, 512> levels{};
    for (unsigned entry = 0; entry < 256; ++entry)
      for (unsigned i = 0; i < 8; ++i) {
        const unsigned value = iq2_xxs_grid()[entry] >> (8 * i) & 0xff;
        const unsigned level = value == 8 ? 0 : value == 25 ? 1 : 2;
        levels[256 * (i / 4) + entry] |= static_cast<std::uint8_t>(level << (2 * (i % 4)));
      }
    return levels;
  }();
  return table.data();
}

/// Rows of the file that are read before their pages are given back.
constexpr std::int64_t kReadBytes = std::int64_t{32} << 20;

}  // namespace

bool has_tiles(DType type) {
  return type == DType::kQ8_0 || type == DType::kMXFP4 || type == DType::kIQ2_XXS || type == DType::kQ4_K ||
         type == DType::kQ2_K;
}

PanelFormat panel_format(DType type) {
  switch (type) {
    case DType::kQ8_0: return kPanelQ8_0;
    case DType::kMXFP4: return kPanelMXFP4;
    case DType::kIQ2_XXS: return kPanelIQ2_XXS;
    case DType::kQ4_K: return kPanelQ4_K;
    case DType::kQ2_K: return kPanelQ2_K;
    default: check_failed("a quantised weight", __FILE__, __LINE__);
  }
}

Iq2Tables iq2_tables() { return {iq2_xxs_grid(), sign_octets(), grid_levels()}; }

std::uint64_t tiled_bytes(const HostWeight& weight) {
  const TileShape shape(weight.type, weight.in, weight.out);
  return static_cast<std::uint64_t>(shape.tile_bytes() * shape.tiles * weight.count);
}

Result<TiledMatrix> pack_tiles(const HostWeight& weight, const KernelTable& kernels, ThreadPool& pool) {
  const TileShape shape(weight.type, weight.in, weight.out);
  const PanelFormat format = panel_format(weight.type);
  const auto row = static_cast<std::int64_t>(row_bytes(weight.type, static_cast<std::size_t>(weight.in)));
  const auto block = static_cast<std::int64_t>(row_bytes(weight.type, kPanelDepth));
  TiledMatrix matrix;
  matrix.rows = weight.data;
  for (int group = 0; group < pool.groups(); ++group) {
    const Share tiles = tiles_of_group(shape.tiles, group, pool.groups());
    const std::int64_t bytes = shape.tile_bytes() * (tiles.last - tiles.first) * weight.count;
    DS4_ASSIGN_OR_RETURN(HugeMemory memory, HugeMemory::allocate(static_cast<std::size_t>(bytes)));
    matrix.parts.push_back({tiles, std::move(memory)});
  }
  const auto pack = [&](std::int64_t which, std::int64_t tile) {
    const std::int64_t output = which * weight.out + tile * kTileOutputs;
    std::uint8_t* to = matrix.tile(shape, which, tile);
    for (std::int64_t b = 0; b < shape.blocks; ++b)
      kernels.pack[format](
          {.weights = reinterpret_cast<const std::uint8_t*>(weight.data) + output * row + b * block,
           .stride = row,
           .outputs = static_cast<int>(std::min<std::int64_t>(kTileOutputs, weight.out - tile * kTileOutputs)),
           .depth = static_cast<int>(std::min<std::int64_t>(kPanelDepth, weight.in - b * kPanelDepth)),
           .iq2 = iq2_tables(),
           .main = shape.main(to, b),
           .side = shape.side(to, b)});
  };
  const std::int64_t all = shape.tiles * weight.count;
  const std::int64_t some = std::max<std::int64_t>(1, kReadBytes / (row * kTileOutputs));
  for (std::int64_t first = 0; first < all; first += some) {
    const std::int64_t last = std::min(all, first + some);
    // Nobody helps another group here: memory is where it was first written.
    pool.run([&](int thread, int) {
      const int group = pool.group_of(thread);
      const Share own = matrix.parts[static_cast<std::size_t>(group)].tiles;
      const std::int64_t width = own.last - own.first;
      const auto before = [&](std::int64_t number) {  // tiles of this group among the first `number` of all
        return number / shape.tiles * width + std::clamp<std::int64_t>(number % shape.tiles - own.first, 0, width);
      };
      for (std::int64_t i = before(first) + pool.take_task(group); i < before(last);
           i = before(first) + pool.take_task(group))
        pack(i / width, own.first + i % width);
    });
    if (weight.done_with) {
      const auto rows_before = [&](std::int64_t tile) {
        return tile / shape.tiles * weight.out + std::min(tile % shape.tiles * kTileOutputs, weight.out);
      };
      weight.done_with({weight.data + rows_before(first) * row, weight.data + rows_before(last) * row});
    }
  }
  return matrix;
}

}  // namespace ds4::cpu
