#include <algorithm>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/select.h"
#include "backend/cuda/sparse_attention.h"

namespace ds4::cuda {

Scratch carve_scratch(const BackendConfig& config, int multiprocessors, std::byte* base) {
  const Dims& d = config.dims;
  const std::int64_t rows = config.max_rows;
  const std::int64_t pairs = rows * d.experts_used;
  std::uint64_t used = 0;
  const auto take = [&]<typename T>(T*& to, std::int64_t count) {
    to = base == nullptr ? nullptr : reinterpret_cast<T*>(base + used);
    used += (static_cast<std::uint64_t>(std::max<std::int64_t>(count, 1)) * sizeof(T) + 255) / 256 * 256;
  };
  std::size_t row_bytes = 0;
  for (const LayerKvLayout& layer : config.kv.layers) row_bytes = std::max(row_bytes, layer.window.row.total());
  const std::int64_t heads_width = std::int64_t{d.heads} * d.head_dim;
  const std::int64_t low_rank = std::int64_t{d.o_groups} * d.o_lora;
  const std::int64_t most_indexed = (config.max_context / 4 + 127) / 128 * 128;

  Scratch s{};
  s.score_rows = static_cast<int>(std::clamp<std::int64_t>(
      (std::int64_t{32} << 20) / std::max<std::int64_t>(most_indexed, 1), 16, std::max<std::int64_t>(rows, 16)));
  take(s.mixed_half, 2 * rows * d.hidden);
  take(s.qr_half, rows * d.q_lora);
  take(s.low_rank_query, std::min<std::int64_t>(rows, kNormedRows) * d.q_lora);
  take(s.wide_half, rows * std::max({heads_width, low_rank, std::int64_t{2} * d.hidden}));
  take(s.query_half, rows * heads_width);
  take(s.low_rank, rows * low_rank);
  take(s.low_rank_half, rows * low_rank);
  take(s.kv, rows * d.head_dim);
  take(s.z, rows * 2 * std::max(d.head_dim, d.index_dim));
  take(s.g, rows * 2 * std::max(d.head_dim, d.index_dim));
  take(s.index_z, rows * 2 * d.index_dim);
  take(s.index_g, rows * 2 * d.index_dim);
  take(s.fresh_rows, rows * static_cast<std::int64_t>(row_bytes));
  take(s.index_queries, rows * d.index_heads * d.index_dim);
  take(s.index_half, rows * d.index_heads * d.index_dim);
  take(s.index_weights, rows * d.index_heads);
  take(s.index_scores, most_indexed * s.score_rows);
  take(s.index_maxima, maxima_pitch(most_indexed) * s.score_rows);
  take(s.attention_parts, static_cast<std::int64_t>(attention_scratch_floats(d.heads, d.head_dim, multiprocessors)));
  take(s.route_logits, 2 * rows * d.experts);
  take(s.hidden, pairs * d.expert_ff);
  take(s.shared_hidden, rows * d.shared_ff);
  take(s.pair_out, pairs * std::max(d.hidden, d.expert_ff));
  take(s.shared_float, rows * d.shared_ff);
  take(s.cursors, d.experts);
  take(s.pair_row, pairs);
  take(s.pair_weight, pairs);
  take(s.place_of, pairs);
  take(s.items, pairs / 64 + d.experts);
  take(s.item_count, 1);
  // Other shapes than the usual take kHcSlices slices for many rows, too.
  take(s.hc_sums, rows * kHcSlices * kMaxHcSums);
  take(s.head_half, std::int64_t{config.max_logit_rows} * d.hidden);
  take(s.top, std::int64_t{config.max_logit_rows} * (2 * TopLogits::kMost + 1));
  take(s.top_maxima, config.max_logit_rows * maxima_pitch(d.vocab));
  s.bytes = used;
  return s;
}

}  // namespace ds4::cuda
