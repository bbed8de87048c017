#include "model/kv_state.h"

#include "base/check.h"

namespace ds4 {

namespace {

constexpr std::uint64_t kStoreAlignment = 64;  // a cache line; fast readers load whole vectors

std::uint64_t place(std::uint64_t& end, std::uint64_t bytes) {
  const std::uint64_t offset = (end + kStoreAlignment - 1) / kStoreAlignment * kStoreAlignment;
  end = offset + bytes;
  return offset;
}

RowStore place_rows(std::uint64_t& end, int rows, RowLayout row) {
  RowStore store{0, rows, row};
  store.offset = place(end, store.bytes());
  return store;
}

StateRing place_states(std::uint64_t& end, int ratio, int row_width) {
  // Ratio 4 pools the previous block too; kRewindSlack tokens can be taken back (§3.4).
  StateRing ring{0, (ratio == 4 ? 2 * ratio : ratio) + kRewindSlack, ratio == 4 ? 2 * row_width : row_width};
  ring.offset = place(end, ring.bytes());
  return ring;
}

}  // namespace

KvLayout make_kv_layout(const ModelShape& shape, KvFormat format, const std::vector<bool>& on_backend) {
  const Dims& dims = shape.dims;
  const RowLayout kv_row = kv_row_layout(format, dims.head_dim, dims.rope_dim);
  const RowLayout index_row = index_row_layout(format, dims.index_dim);
  KvLayout layout;
  layout.format = format;
  for (std::size_t i = 0; i < shape.layers.size(); ++i) {
    LayerKvLayout& layer = layout.layers.emplace_back();
    layer.ratio = shape.layers[i].ratio;
    if (!on_backend[i]) continue;
    layer.window = place_rows(layout.tail_bytes, dims.window + kRewindSlack, kv_row);
    if (layer.ratio == 0) continue;
    layer.compressed = place_rows(layout.page_bytes, kPageTokens / layer.ratio, kv_row);
    layer.state = place_states(layout.tail_bytes, layer.ratio, dims.head_dim);
    if (shape.layers[i].kind != LayerKind::kCompressedSparse) continue;
    layer.index = place_rows(layout.page_bytes, kPageTokens / layer.ratio, index_row);
    layer.index_state = place_states(layout.tail_bytes, layer.ratio, dims.index_dim);
  }
  return layout;
}

int& PagePool::count(std::int32_t page) {
  if (counts_.size() <= static_cast<std::size_t>(page)) counts_.resize(static_cast<std::size_t>(page) + 1, 0);
  return counts_[static_cast<std::size_t>(page)];
}

Result<std::int32_t> PagePool::take() {
  DS4_ASSIGN_OR_RETURN(const std::int32_t page, backend_->new_page());
  count(page) = 1;
  return page;
}

void PagePool::release(std::int32_t page) {
  DS4_CHECK(count(page) > 0);
  if (--count(page) == 0) backend_->free_page(page);
}

Result<std::int32_t> PagePool::make_writable(std::int32_t page) {
  if (count(page) == 1) return page;
  DS4_ASSIGN_OR_RETURN(const std::int32_t copy, take());
  backend_->copy_page(copy, page);
  release(page);
  return copy;
}

}  // namespace ds4
