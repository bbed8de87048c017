#include "model/kv_blocks.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace ds4 {

namespace {

/// One stretch of bytes that a piece takes out of a slot (a page or a tail). `at` < 0: from before the history, zeros.
struct Stretch {
  std::int64_t at = 0;
  std::size_t bytes = 0;
};

/// Calls `visit` with the stretches of block `part`, in order.
template <typename Visit>
void visit_block(const KvLayout& layout, int part, Visit visit) {
  const auto rows_of = [&](const RowStore& store) {
    if (store.rows == 0) return;
    const int rows = store.rows / kPageBlocks;
    const auto start = static_cast<std::int64_t>(store.offset);
    const auto first = static_cast<std::int64_t>(part) * rows;
    const auto main = static_cast<std::int64_t>(store.row.main_bytes);
    const auto scale = static_cast<std::int64_t>(store.row.scale_bytes);
    visit(Stretch{start + first * main, static_cast<std::size_t>(rows * main)});
    if (scale > 0) visit(Stretch{start + store.rows * main + first * scale, static_cast<std::size_t>(rows * scale)});
  };
  for (const LayerKvLayout& layer : layout.layers) {
    rows_of(layer.compressed);
    rows_of(layer.index);
  }
}

/// The same for the point at `at`.
template <typename Visit>
void visit_point(const KvLayout& layout, std::int64_t at, Visit visit) {
  const auto window_of = [&](const RowStore& store) {
    const int rows = store.rows - kRewindSlack;
    const auto start = static_cast<std::int64_t>(store.offset);
    const auto rows_at = [&](std::int64_t base, std::int64_t bytes) {
      for (std::int64_t p = at - rows; bytes > 0 && p < at; ++p)
        visit(Stretch{p < 0 ? -1 : base + p % store.rows * bytes, static_cast<std::size_t>(bytes)});
    };
    rows_at(start, store.row.main_bytes);
    rows_at(start + store.rows * std::int64_t{store.row.main_bytes}, store.row.scale_bytes);
  };
  const auto states_of = [&](const StateRing& ring, int ratio) {
    // Without overlap the next row begins afresh. With it the block before enters with the first half of its channels.
    if (ring.slots != 2 * ratio + kRewindSlack) return;
    const std::int64_t row = std::int64_t{ring.width} * static_cast<std::int64_t>(sizeof(float));
    for (std::int64_t p = at - ratio; p < at; ++p) {
      const std::int64_t z = static_cast<std::int64_t>(ring.offset) + p % ring.slots * row;
      visit(Stretch{z, static_cast<std::size_t>(row / 2)});
      visit(Stretch{z + ring.slots * row, static_cast<std::size_t>(row / 2)});
    }
  };
  for (const LayerKvLayout& layer : layout.layers) {
    if (layer.window.rows > 0) window_of(layer.window);
    if (layer.state.slots > 0) states_of(layer.state, layer.ratio);
    if (layer.index_state.slots > 0) states_of(layer.index_state, layer.ratio);
  }
}

/// Fills a piece from a slot.
class Gather {
 public:
  Gather(std::span<const std::byte> slot, std::span<std::byte> piece) : slot_(slot), piece_(piece) {}
  void operator()(const Stretch& part) {
    DS4_CHECK(used_ + part.bytes <= piece_.size());
    if (part.at < 0) std::memset(piece_.data() + used_, 0, part.bytes);
    else std::memcpy(piece_.data() + used_, slot_.data() + part.at, part.bytes);
    used_ += part.bytes;
  }

 private:
  std::span<const std::byte> slot_;
  std::span<std::byte> piece_;
  std::size_t used_ = 0;
};

/// Fills a slot from a piece.
class Scatter {
 public:
  Scatter(std::span<const std::byte> piece, std::span<std::byte> slot) : piece_(piece), slot_(slot) {}
  void operator()(const Stretch& part) {
    DS4_CHECK(used_ + part.bytes <= piece_.size());
    if (part.at >= 0) std::memcpy(slot_.data() + part.at, piece_.data() + used_, part.bytes);
    used_ += part.bytes;
  }

 private:
  std::span<const std::byte> piece_;
  std::span<std::byte> slot_;
  std::size_t used_ = 0;
};

}  // namespace

std::uint64_t block_bytes(const KvLayout& layout) {
  std::uint64_t bytes = 0;
  visit_block(layout, 0, [&](const Stretch& part) { bytes += part.bytes; });
  return bytes;
}

std::uint64_t point_bytes(const KvLayout& layout) {
  std::uint64_t bytes = 0;
  visit_point(layout, kBlockTokens, [&](const Stretch& part) { bytes += part.bytes; });
  return bytes;
}

void read_block(const KvLayout& layout, int part, std::span<const std::byte> page, std::span<std::byte> block) {
  visit_block(layout, part, Gather(page, block));
}

void write_block(const KvLayout& layout, int part, std::span<const std::byte> block, std::span<std::byte> page) {
  visit_block(layout, part, Scatter(block, page));
}

void read_point(const KvLayout& layout, std::int64_t at, std::span<const std::byte> tail, std::span<std::byte> point) {
  visit_point(layout, at, Gather(tail, point));
}

void write_point(const KvLayout& layout, std::int64_t at, std::span<const std::byte> point, std::span<std::byte> tail) {
  visit_point(layout, at, Scatter(point, tail));
}

}  // namespace ds4
