// The CSA indexer (§2.7): scores every visible row and keeps the best. Rows that can see no more than index_topk take
// them all, without queries or scores.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/rotation.h"
#include "backend/cpu/top_k.h"

namespace ds4::cpu {

void CpuBackend::index_topk(const IndexTopkArgs& args) {
  const Dims& dims = config_.dims;
  const LayerKvLayout& kv = layer(args.layer);
  const auto scratch = lay_out<IndexScratch>();
  const auto visible_of = [&](std::int64_t r) {
    return (std::int64_t{batch_.positions[static_cast<std::size_t>(r)]} + 1) / kv.ratio;
  };

  std::int64_t choosing = 0;
  for (std::int64_t r = 0; r < batch_.rows; ++r) {
    const std::int64_t visible = visible_of(r);
    args.count.data[r] = static_cast<std::int32_t>(std::min<std::int64_t>(visible, dims.index_topk));
    if (visible > dims.index_topk) scratch.index[choosing++] = static_cast<std::int32_t>(r);
    else
      std::iota(args.selected.data + r * args.selected.cols, args.selected.data + r * args.selected.cols + visible, 0);
  }
  if (choosing == 0) return;

  // Queries and head weights of the choosing rows, packed together.
  const std::int64_t query_width = std::int64_t{dims.index_heads} * dims.index_dim;
  const Activations qr{args.qr.data, dims.q_lora, batch_.rows, dims.q_lora, scratch.qr};
  const Activations x{args.x.data, dims.hidden, batch_.rows, dims.hidden, scratch.x};
  Product products[] = {product(args.q_b, qr, scratch.queries), product(args.proj, x, scratch.head_weights)};
  for (Product& p : products) {
    p.index = scratch.index;
    p.count = choosing;
  }
  products_.quantise_and_run(pool_, products, scratch.products);

  const float scale =
      1.0F / std::sqrt(static_cast<float>(dims.index_dim)) / std::sqrt(static_cast<float>(dims.index_heads));
  for_row_parts(choosing, dims.index_heads, [&](int, std::int64_t i, std::int64_t part, std::int64_t parts) {
    const Rotation rotation(args.rope, batch_.positions[static_cast<std::size_t>(scratch.index[i])]);
    for (const auto h : share_of(dims.index_heads, static_cast<int>(part), static_cast<int>(parts))) {
      float* query = scratch.queries + i * query_width + h * dims.index_dim;
      rotation.apply(query, dims.index_dim);
      round_index_query(config_.kv.format, query, dims.index_dim);
      scratch.head_weights[i * dims.index_heads + h] *= scale;
    }
  });

  // A few rows of one sequence at a time, so that a block of keys is decoded once for all of them.
  for (std::int64_t first = 0; first < choosing;) {
    const Segment& segment = segment_of(scratch.index[first]);
    std::int64_t last = first + 1;
    while (last < choosing && last - first < kIndexRows && &segment_of(scratch.index[last]) == &segment) ++last;
    const std::int64_t most = visible_of(scratch.index[last - 1]);
    pool_.run([&](int thread, int) {
      float* room = scratch.keys + std::int64_t{thread} * kKeyBlock * dims.index_dim;
      const std::int64_t blocks = (most + kKeyBlock - 1) / kKeyBlock;
      for (auto block = pool_.take_task(); block < blocks; block = pool_.take_task()) {
        const std::int64_t start = block * kKeyBlock;
        const float* keys[kKeyBlock];
        for (std::int64_t b = start; b < std::min(most, start + kKeyBlock); ++b)
          keys[b - start] = read_index_row(kernels_, config_.kv.format, row_in_pages(kv_, segment, kv.index, b), dims,
                                           room + (b - start) * dims.index_dim);
        for (std::int64_t i = first; i < last; ++i) {
          const std::int64_t count = std::min<std::int64_t>(kKeyBlock, visible_of(scratch.index[i]) - start);
          if (count <= 0) continue;
          kernels_.index_scores({.q = scratch.queries + i * query_width,
                                 .weights = scratch.head_weights + i * dims.index_heads,
                                 .heads = dims.index_heads,
                                 .dim = dims.index_dim,
                                 .keys = keys,
                                 .count = static_cast<int>(count),
                                 .products = scratch.key_products + std::int64_t{thread} * dims.index_heads * kKeyBlock,
                                 .scores = scratch.scores + (i - first) * scratch.visible + start});
        }
      }
      pool_.sync();
      for (auto task = pool_.take_task(); task < last - first; task = pool_.take_task()) {
        const std::int64_t r = scratch.index[first + task];
        select_top(scratch.scores + task * scratch.visible, visible_of(r), dims.index_topk,
                   args.selected.data + r * args.selected.cols, scratch.histogram + std::int64_t{thread} * kSelectBins);
      }
    });
    first = last;
  }
}

}  // namespace ds4::cpu
