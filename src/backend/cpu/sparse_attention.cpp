// Attention of every query over its compressed rows and its window (§2.5 steps 8 to 10, §2.8). Keys are taken in blocks
// of kKeyBlock from the query's own list, compressed rows first, both in ascending order, with a running softmax: what
// is computed for one head depends on nothing but that list.
#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/rotation.h"

namespace ds4::cpu {

namespace {

/// The keys of one query: `compressed` rows (their numbers in `selected`, or 0, 1, 2, ...), then window positions.
struct KeyList {
  std::int64_t compressed = 0;
  const std::int32_t* selected = nullptr;
  std::int64_t first_position = 0;
  std::int64_t last_position = 0;
  std::int64_t count() const { return compressed + last_position - first_position + 1; }
};

}  // namespace

void CpuBackend::sparse_attention(const SparseAttentionArgs& args) {
  const Dims& dims = config_.dims;
  const LayerKvLayout& kv = layer(args.layer);
  const auto scratch = lay_out<AttentionScratch>();
  const auto* sinks = static_cast<const float*>(args.sinks.data);
  const float scale = 1.0F / std::sqrt(static_cast<float>(dims.head_dim));

  const auto keys_of = [&](std::int64_t r) {
    const std::int64_t position = batch_.positions[static_cast<std::size_t>(r)];
    KeyList list{.first_position = std::max<std::int64_t>(0, position - dims.window + 1), .last_position = position};
    if (args.selected.data != nullptr && kv.ratio == 4) {
      list.compressed = args.count.data[r];
      list.selected = args.selected.data + r * args.selected.cols;
    } else if (kv.ratio != 0) {
      list.compressed = (position + 1) / kv.ratio;
    }
    return list;
  };

  for_row_parts(batch_.rows, dims.heads, [&](int thread, std::int64_t r, std::int64_t part, std::int64_t parts) {
    const Share heads = share_of(dims.heads, static_cast<int>(part), static_cast<int>(parts));
    const auto head_count = static_cast<int>(heads.last - heads.first);
    const Segment& segment = segment_of(r);
    const KeyList list = keys_of(r);
    float* room = scratch.keys + std::int64_t{thread} * kKeyBlock * dims.head_dim;
    float* out = args.o.data + (r * dims.heads + heads.first) * dims.head_dim;
    float* largest = scratch.largest + std::int64_t{thread} * dims.heads;
    float* total = scratch.total + std::int64_t{thread} * dims.heads;
    std::fill_n(out, std::int64_t{head_count} * dims.head_dim, 0.0F);
    std::fill_n(largest, head_count, -std::numeric_limits<float>::infinity());
    std::fill_n(total, head_count, 0.0F);

    for (std::int64_t start = 0; start < list.count(); start += kKeyBlock) {
      const float* keys[kKeyBlock];
      const auto count = static_cast<int>(std::min<std::int64_t>(kKeyBlock, list.count() - start));
      for (int i = 0; i < count; ++i) {
        const std::int64_t n = start + i;
        const std::int64_t row = list.selected != nullptr && n < list.compressed ? list.selected[n] : n;
        const RowPlace place = n < list.compressed
                                   ? row_in_pages(kv_, segment, kv.compressed, row)
                                   : window_row(segment, kv, list.first_position + (n - list.compressed));
        keys[i] = read_kv_row(kernels_, config_.kv.format, place, dims, room + std::int64_t{i} * dims.head_dim);
      }
      kernels_.attend({.q = args.q.data + (r * dims.heads + heads.first) * dims.head_dim,
                       .heads = head_count,
                       .dim = dims.head_dim,
                       .scale = scale,
                       .keys = keys,
                       .count = count,
                       .scores = scratch.scores + std::int64_t{thread} * dims.heads * kKeyBlock,
                       .largest = largest,
                       .total = total,
                       .out = out});
    }

    const Rotation rotation(args.rope, batch_.positions[static_cast<std::size_t>(r)]);
    for (int h = 0; h < head_count; ++h) {
      // The sink takes part in the maximum: it may be far above every score.
      const float sink = sinks[heads.first + h];
      const float top = std::max(largest[h], sink);
      const float shrink = std::exp(largest[h] - top);
      const float factor = shrink / (total[h] * shrink + std::exp(sink - top));
      float* head = out + std::int64_t{h} * dims.head_dim;
      kernels_.scale(head, factor, nullptr, head, dims.head_dim);
      rotation.undo(head, dims.head_dim);
    }
  });
  keep_window_rows(kv);
}

}  // namespace ds4::cpu
