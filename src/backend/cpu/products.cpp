#include "backend/cpu/products.h"

#include <algorithm>

#include "quant/codec.h"

namespace ds4::cpu {

namespace {

bool is_float(DType type) { return type == DType::kF32 || type == DType::kF16 || type == DType::kBF16; }

std::int64_t bytes_of_row(const Weight& w) {
  return static_cast<std::int64_t>(row_bytes(w.type, static_cast<std::size_t>(w.in)));
}

/// The first row of the tile as the file holds it.
const std::uint8_t* rows_of(const OutputTile& tile) {
  const Weight& w = *tile.weight;
  const void* data = w.layout == kTiles ? static_cast<const TiledMatrix*>(w.data)->rows : w.data;
  return static_cast<const std::uint8_t*>(data) + (tile.matrix * w.out + tile.first) * bytes_of_row(w);
}

/// How many of the rows from index[0] on are equally far apart.
int straight_run(const std::int32_t* index, int count) {
  if (count < 3) return count;
  int n = 2;
  while (n < count && index[n] - index[n - 1] == index[1] - index[0]) ++n;
  return n;
}

}  // namespace

Products::Products(const KernelTable& kernels, bool quality)
    : kernels_(kernels), quality_(quality), iq2_(iq2_tables()) {}

bool Products::uses_int8(const Weight& weight, bool exact) const {
  return !exact && !quality_ && !is_float(weight.type);
}

void Products::quantise(const Activations& x, int thread, int threads) const {
  for (const auto r : share_of(x.rows, thread, threads)) kernels_.quantise(x.x + r * x.stride, x.cols, x.blocks + r, x.rows);
}

void Products::tile(const OutputTile& tile, const Activations& x, const std::int32_t* index, int count, bool exact,
                    ProductScratch& scratch, float (*out)[kTileOutputs]) const {
  if (is_float(tile.weight->type)) float_tile(tile, x, index, count, out);
  else if (uses_int8(*tile.weight, exact)) int8_tile(tile, x, index, count, scratch, out);
  else exact_tile(tile, x, index, count, scratch, out);
}

void Products::float_tile(const OutputTile& tile, const Activations& x, const std::int32_t* index, int count,
                          float (*out)[kTileOutputs]) const {
  const DType type = tile.weight->type;
  const auto dot = type == DType::kF32 ? kernels_.dot_f32 : type == DType::kF16 ? kernels_.dot_f16 : kernels_.dot_bf16;
  dot({.weights = rows_of(tile),
       .weight_stride = bytes_of_row(*tile.weight),
       .outputs = tile.outputs,
       .depth = tile.weight->in,
       .x = x.x,
       .x_stride = x.stride,
       .index = index,
       .count = count,
       .out = out[0],
       .add = false});
}

void Products::exact_tile(const OutputTile& tile, const Activations& x, const std::int32_t* index, int count,
                          ProductScratch& scratch, float (*out)[kTileOutputs]) const {
  const Weight& w = *tile.weight;
  const std::uint8_t* rows = rows_of(tile);
  for (std::int64_t start = 0; start < w.in; start += kPanelDepth) {
    const int depth = static_cast<int>(std::min<std::int64_t>(kPanelDepth, w.in - start));
    const std::uint8_t* block = rows + row_bytes(w.type, static_cast<std::size_t>(start));
    for (int o = 0; o < tile.outputs; ++o)
      decode_row(w.type, block + o * bytes_of_row(w), scratch.decoded[o], static_cast<std::size_t>(depth));
    kernels_.dot_f32({.weights = scratch.decoded,
                      .weight_stride = sizeof scratch.decoded[0],
                      .outputs = tile.outputs,
                      .depth = depth,
                      .x = x.x + start,
                      .x_stride = x.stride,
                      .index = index,
                      .count = count,
                      .out = out[0],
                      .add = start > 0});
  }
}

void Products::int8_tile(const OutputTile& tile, const Activations& x, const std::int32_t* index, int count,
                         ProductScratch& scratch, float (*out)[kTileOutputs]) const {
  const Weight& w = *tile.weight;
  const PanelFormat format = panel_format(w.type);
  const TileShape shape(w.type, w.in, w.out);
  const bool wide = kernels_.wide_rows != 0 && count >= kernels_.wide_rows;
  const auto unpack = wide ? kernels_.unpack_wide[format] : kernels_.unpack[format];
  const auto dot = wide ? kernels_.wide_dot[format] : kernels_.panel_dot[format];
  const bool packed = w.layout == kTiles && tile.first % kTileOutputs == 0;
  std::uint8_t* at = nullptr;
  if (packed) {
    auto* base = reinterpret_cast<std::uint8_t*>(static_cast<const TiledMatrix*>(w.data)->memory.data());
    at = base + (tile.matrix * shape.tiles + tile.first / kTileOutputs) * shape.tile_bytes();
  }
  std::fill_n(out[0], std::int64_t{count} * kTileOutputs, 0.0F);
  for (std::int64_t b = 0; b < shape.blocks; ++b) {
    const std::int64_t start = b * kPanelDepth;
    const int depth = static_cast<int>(std::min<std::int64_t>(kPanelDepth, w.in - start));
    UnpackArgs from{scratch.main, scratch.side, iq2_};
    if (packed) {
      from.main = shape.main(at, b);
      from.side = shape.side(at, b);
    } else {
      kernels_.pack[format]({.weights = rows_of(tile) + row_bytes(w.type, static_cast<std::size_t>(start)),
                             .stride = bytes_of_row(w),
                             .outputs = tile.outputs,
                             .depth = depth,
                             .iq2 = iq2_,
                             .main = scratch.main,
                             .side = scratch.side});
    }
    unpack(from, &scratch.panel);
    for (int i = 0; i < count;) {
      const int run = straight_run(index + i, count - i);
      dot({.panel = &scratch.panel,
           .depth = depth,
           .x = x.blocks + b * x.rows + index[i],
           .step = run > 1 ? index[i + 1] - index[i] : 0,
           .count = run,
           .out = out[i]});
      i += run;
    }
  }
}

std::int64_t Products::run_length(const Product& product) const {
  // Few rows: what counts is reading, in straight runs that are worth taking. Many: what counts is that all threads end
  // together.
  constexpr std::int64_t kRunBytes = 64 << 10;
  if (product.count > 4) return 1;
  return std::max<std::int64_t>(1, kRunBytes / (bytes_of_row(*product.weight) * kTileOutputs));
}

std::int64_t Products::tasks(const Product& product) const {
  const std::int64_t rows = row_block(*product.weight, product.exact);
  const std::int64_t outputs = run_length(product) * kTileOutputs;
  return (product.count + rows - 1) / rows * ((product.outputs + outputs - 1) / outputs);
}

void Products::one_task(const Product& p, std::int64_t task, ProductScratch& scratch) const {
  const std::int64_t run = run_length(p) * kTileOutputs;
  const std::int64_t runs = (p.outputs + run - 1) / run;
  const std::int64_t row = task / runs * row_block(*p.weight, p.exact);
  const int count = static_cast<int>(std::min<std::int64_t>(row_block(*p.weight, p.exact), p.count - row));
  const std::int64_t first = task % runs * run;
  for (std::int64_t output = first; output < std::min(p.outputs, first + run); output += kTileOutputs) {
    const int outputs = static_cast<int>(std::min<std::int64_t>(kTileOutputs, p.outputs - output));
    tile({p.weight, p.matrix, p.first_output + output, outputs}, *p.x, p.index + row, count, p.exact, scratch, scratch.tile);
    for (int i = 0; i < count; ++i) std::copy_n(scratch.tile[i], outputs, p.y + (row + i) * p.y_stride + output);
  }
}

void Products::share_tasks(ThreadPool& pool, std::span<const Product> products, ProductScratch& scratch) const {
  std::int64_t first = 0;  // task number where products[p] begins
  std::size_t p = 0;
  for (std::int64_t task = pool.take_task();; task = pool.take_task()) {
    while (p < products.size() && task >= first + tasks(products[p])) first += tasks(products[p++]);
    if (p == products.size()) return;
    one_task(products[p], task - first, scratch);
  }
}

void Products::run(ThreadPool& pool, std::span<const Product> products, ProductScratch* scratch) const {
  pool.run([&](int thread, int) { share_tasks(pool, products, scratch[thread]); });
}

void Products::quantise_and_run(ThreadPool& pool, std::span<const Product> products, ProductScratch* scratch) const {
  pool.run([&](int thread, int threads) {
    bool quantised = false;
    for (std::size_t i = 0; i < products.size(); ++i) {
      const auto same = [&](const Product& other) { return other.x == products[i].x && uses_int8(*other.weight, other.exact); };
      const auto before = products.first(i);
      if (!same(products[i]) || std::any_of(before.begin(), before.end(), same)) continue;
      quantise(*products[i].x, thread, threads);
      quantised = true;
    }
    if (quantised) pool.sync();
    share_tasks(pool, products, scratch[thread]);
  });
}

}  // namespace ds4::cpu
