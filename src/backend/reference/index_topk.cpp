// The CSA indexer (§2.7): scores every visible row and keeps the best.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "backend/reference/maths.h"
#include "backend/reference/reference_backend.h"
#include "backend/reference/rows.h"

namespace ds4 {

void ReferenceBackend::index_topk(const IndexTopkArgs& args) {
  const auto& dims = config_.dims;
  const LayerKvLayout& layer = config_.kv.layers[static_cast<std::size_t>(args.layer)];
  const std::span<const float> frequencies{args.rope.data, static_cast<std::size_t>(args.rope.cols)};
  const auto width = static_cast<std::size_t>(dims.index_dim);

  std::vector<float> queries(static_cast<std::size_t>(batch_.rows) * dims.index_heads * width);
  std::vector<float> head_weights(static_cast<std::size_t>(batch_.rows) * dims.index_heads);
  reference::matmul(args.q_b, 0, args.qr.data, batch_.rows, queries.data());
  reference::matmul(args.proj, 0, args.x.data, batch_.rows, head_weights.data());
  const double scale =
      1.0 / std::sqrt(static_cast<double>(dims.index_dim)) / std::sqrt(static_cast<double>(dims.index_heads));

  for (const Segment& segment : batch_.segments) {
    std::vector<float> keys;  // decoded as far as the rows before needed them
    for (int i = 0; i < segment.rows; ++i) {
      const int r = segment.first_row + i;
      const std::int64_t position = segment.first_position + i;
      const std::int64_t visible = (position + 1) / layer.ratio;
      for (auto b = static_cast<std::int64_t>(keys.size() / width); b < visible; ++b) {
        const auto place = reference::row_in_pages(kv_, segment, layer.index, b);
        keys.resize(keys.size() + width);
        decode_index_row(config_.kv.format, place.main, place.scale, dims.index_dim, keys.data() + keys.size() - width);
      }
      std::vector<double> score(static_cast<std::size_t>(visible), 0.0);
      for (int h = 0; h < dims.index_heads; ++h) {
        float* query = queries.data() + (static_cast<std::size_t>(r) * dims.index_heads + h) * width;
        reference::rotate({query, width}, frequencies, position);
        round_index_query(config_.kv.format, query, dims.index_dim);
        const double w = scale * static_cast<double>(head_weights[static_cast<std::size_t>(r) * dims.index_heads + h]);
        for (std::size_t b = 0; b < score.size(); ++b)
          score[b] += w * std::max(0.0, reference::dot(query, keys.data() + b * width, dims.index_dim));
      }
      std::vector<std::int32_t> order(score.size());
      std::iota(order.begin(), order.end(), 0);
      const auto kept = std::min<std::size_t>(order.size(), static_cast<std::size_t>(dims.index_topk));
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return score[a] > score[b]; });
      std::sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept));
      std::copy_n(order.begin(), kept, args.selected.data + r * args.selected.cols);
      args.count.data[r] = static_cast<std::int32_t>(kept);
    }
  }
}

}  // namespace ds4
