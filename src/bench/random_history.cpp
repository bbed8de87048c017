#include "bench/random_history.h"

#include <cstring>
#include <span>
#include <vector>

#include "base/rng.h"
#include "base/thread_pool.h"
#include "model/kv_state.h"
#include "quant/random_weights.h"

namespace ds4::bench {

namespace {

constexpr std::size_t kTable = std::size_t{1} << 16;

/// Rows are windows into one table of normal values, at random places: a row costs its encoding only, and no two
/// are the same.
class RandomRows {
 public:
  RandomRows(const Dims& dims, KvFormat format, std::uint64_t seed)
      : dims_(dims),
        format_(format),
        seed_(seed),
        values_(kTable + static_cast<std::size_t>(dims.head_dim + dims.index_dim)) {
    fill_random_vector(seed, 1.0F, values_);
  }

  /// `stream` tells stores apart.
  void kv_rows(std::span<std::byte> out, const RowStore& store, std::uint64_t stream) const {
    for (int i = 0; i < store.rows; ++i)
      encode_kv_row(format_, row(stream, i), dims_.head_dim, dims_.rope_dim, main(out, store, i), scale(out, store, i));
  }
  void index_rows(std::span<std::byte> out, const RowStore& store, std::uint64_t stream) const {
    for (int i = 0; i < store.rows; ++i)
      encode_index_row(format_, row(stream, i), dims_.index_dim, main(out, store, i), scale(out, store, i));
  }
  void states(std::span<std::byte> out, const StateRing& ring, std::uint64_t stream) const {
    std::vector<float> states(static_cast<std::size_t>(2 * ring.slots * ring.width));
    if (states.empty()) return;
    fill_random_vector(random_bits(seed_, stream), 1.0F, states);
    std::memcpy(out.data() + ring.offset, states.data(), states.size() * sizeof(float));
  }

 private:
  const float* row(std::uint64_t stream, int i) const {
    return values_.data() + random_bits(seed_, stream, static_cast<std::uint64_t>(i) + 1) % kTable;
  }
  static std::byte* main(std::span<std::byte> out, const RowStore& store, int row) {
    return out.data() + store.offset + static_cast<std::size_t>(row) * store.row.main_bytes;
  }
  static std::byte* scale(std::span<std::byte> out, const RowStore& store, int row) {
    return out.data() + store.offset + static_cast<std::size_t>(store.rows) * store.row.main_bytes +
           static_cast<std::size_t>(row) * store.row.scale_bytes;
  }

  const Dims& dims_;
  KvFormat format_;
  std::uint64_t seed_;
  std::vector<float> values_;
};

std::vector<std::byte> random_pages(const RandomRows& rows, const KvLayout& layout, std::int64_t tokens, int threads) {
  const std::int64_t count = (tokens + kPageTokens - 1) / kPageTokens;
  const std::uint64_t layers = layout.layers.size();
  std::vector<std::byte> pages(static_cast<std::size_t>(count) * layout.page_bytes);
  ThreadPool pool(threads, "ds4-fill");
  pool.run([&](int, int) {
    for (auto i = pool.take_task(); i < count; i = pool.take_task()) {
      const auto page = std::span(pages).subspan(static_cast<std::size_t>(i) * layout.page_bytes, layout.page_bytes);
      for (std::uint64_t layer = 0; layer < layers; ++layer) {
        const std::uint64_t stream = (static_cast<std::uint64_t>(i) * layers + layer) * 2;
        rows.kv_rows(page, layout.layers[layer].compressed, stream);
        rows.index_rows(page, layout.layers[layer].index, stream + 1);
      }
    }
  });
  return pages;
}

std::vector<std::byte> random_tail(const RandomRows& rows, const KvLayout& layout) {
  std::vector<std::byte> tail(layout.tail_bytes);
  for (std::uint64_t layer = 0; layer < layout.layers.size(); ++layer) {
    const std::uint64_t stream = (std::uint64_t{1} << 40) + layer * 3;  // beyond those of any page
    rows.kv_rows(tail, layout.layers[layer].window, stream);
    rows.states(tail, layout.layers[layer].state, stream + 1);
    rows.states(tail, layout.layers[layer].index_state, stream + 2);
  }
  return tail;
}

}  // namespace

SequenceImage random_history(const ModelShape& shape, const ModelOptions& options, int devices, std::int64_t tokens,
                             std::uint64_t seed, int threads) {
  const RandomRows rows(shape.dims, options.kv, seed);
  SequenceImage image;
  image.length = image.written = tokens;
  for (int device = 0; device < devices; ++device) {
    std::vector<bool> mine;
    for (std::size_t layer = 0; layer < shape.layers.size(); ++layer)
      mine.push_back(options.layer_backend.empty() ? device == 0 : options.layer_backend[layer] == device);
    const KvLayout layout = make_kv_layout(shape, options.kv, mine);
    image.pages.push_back(random_pages(rows, layout, tokens, threads));
    image.tails.push_back(random_tail(rows, layout));
  }
  return image;
}

}  // namespace ds4::bench
