// Window rows and attention over them and the compressed rows (§2.5 steps 5-10, §2.8).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/reference/maths.h"
#include "backend/reference/reference_backend.h"
#include "backend/reference/rows.h"

namespace ds4 {

void ReferenceBackend::window_kv(const WindowKvArgs& args) {
  const auto& dims = config_.dims;
  const RowLayout& layout = config_.kv.layers[static_cast<std::size_t>(args.layer)].window.row;
  const auto norm = reference::weight_vector(args.kv_norm);
  const std::span<const float> frequencies{args.rope.data, static_cast<std::size_t>(args.rope.cols)};
  std::vector<float> rows(static_cast<std::size_t>(batch_.rows) * norm.size());
  reference::matmul(args.kv, 0, args.x.data, batch_.rows, rows.data());
  fresh_rows_.assign(static_cast<std::size_t>(batch_.rows) * layout.total(), std::byte{0});
  for (int r = 0; r < batch_.rows; ++r) {
    const std::span<float> row{rows.data() + static_cast<std::size_t>(r) * norm.size(), norm.size()};
    reference::rms_normalise(row, norm, dims.rms_eps);
    reference::rotate(row, frequencies, batch_.positions[r]);
    std::byte* fresh = fresh_rows_.data() + static_cast<std::size_t>(r) * layout.total();
    encode_kv_row(config_.kv.format, row.data(), dims.head_dim, dims.rope_dim, fresh, fresh + layout.main_bytes);
  }
}

namespace {

/// Soft-max over the keys and the sink (which has no value), then the weighted sum of the keys, which are the values.
void attend(std::span<const float> q, const std::vector<float>& keys, float sink, float* o) {
  const std::size_t width = q.size();
  const std::size_t count = keys.size() / width;
  const double scale = 1.0 / std::sqrt(static_cast<double>(width));
  std::vector<double> score(count);
  double largest = sink;
  for (std::size_t n = 0; n < count; ++n) {
    score[n] = reference::dot(q.data(), keys.data() + n * width, static_cast<std::int64_t>(width)) * scale;
    largest = std::max(largest, score[n]);
  }
  double denominator = std::exp(static_cast<double>(sink) - largest);
  std::vector<double> sum(width, 0.0);
  for (std::size_t n = 0; n < count; ++n) {
    const double weight = std::exp(score[n] - largest);
    denominator += weight;
    for (std::size_t i = 0; i < width; ++i) sum[i] += weight * static_cast<double>(keys[n * width + i]);
  }
  for (std::size_t i = 0; i < width; ++i) o[i] = static_cast<float>(sum[i] / denominator);
}

}  // namespace

void ReferenceBackend::sparse_attention(const SparseAttentionArgs& args) {
  const auto& dims = config_.dims;
  const LayerKvLayout& layer = config_.kv.layers[static_cast<std::size_t>(args.layer)];
  const RowLayout& row_layout = layer.window.row;
  const auto sinks = reference::weight_vector(args.sinks);
  const std::span<const float> frequencies{args.rope.data, static_cast<std::size_t>(args.rope.cols)};
  const auto width = static_cast<std::size_t>(dims.head_dim);

  for (const Segment& segment : batch_.segments) {
    std::byte* tail = kv_.tail(segment.tail).data();
    std::vector<float> keys;
    const auto add_key = [&](const std::byte* main, const std::byte* scale) {
      keys.resize(keys.size() + width);
      decode_kv_row(config_.kv.format, main, scale, dims.head_dim, dims.rope_dim, keys.data() + keys.size() - width);
    };
    const auto fresh_row = [&](std::int64_t position) {
      const auto r = static_cast<std::size_t>(segment.first_row + (position - segment.first_position));
      return fresh_rows_.data() + r * row_layout.total();
    };
    for (int i = 0; i < segment.rows; ++i) {
      const int r = segment.first_row + i;
      const std::int64_t position = segment.first_position + i;
      keys.clear();
      const std::int64_t visible = layer.ratio == 0 ? 0 : (position + 1) / layer.ratio;
      const bool selects = layer.ratio != 0 && args.selected.data != nullptr;
      const std::int64_t compressed = selects ? args.count.data[r] : visible;
      for (std::int64_t n = 0; n < compressed; ++n) {
        const std::int64_t b = selects ? args.selected.data[r * args.selected.cols + n] : n;
        const auto place = reference::row_in_pages(kv_, segment, layer.compressed, b);
        add_key(place.main, place.scale);
      }
      for (std::int64_t p = std::max<std::int64_t>(0, position - dims.window + 1); p <= position; ++p) {
        if (p >= segment.first_position) {
          add_key(fresh_row(p), fresh_row(p) + row_layout.main_bytes);
        } else {
          const auto place = reference::row_in_store(tail, layer.window, p % layer.window.rows);
          add_key(place.main, place.scale);
        }
      }
      for (int h = 0; h < dims.heads; ++h) {
        const std::int64_t at = (std::int64_t{r} * dims.heads + h) * dims.head_dim;
        attend({args.q.data + at, width}, keys, sinks[static_cast<std::size_t>(h)], args.o.data + at);
        reference::rotate({args.o.data + at, width}, frequencies, position, /*inverse=*/true);
      }
    }
    // Only now may the new rows replace old ones in the ring.
    const std::int64_t end = segment.end_position();
    for (std::int64_t p = std::max(segment.first_position, end - layer.window.rows); p < end; ++p) {
      const auto place = reference::row_in_store(tail, layer.window, p % layer.window.rows);
      std::memcpy(place.main, fresh_row(p), row_layout.main_bytes);
      std::memcpy(place.scale, fresh_row(p) + row_layout.main_bytes, row_layout.scale_bytes);
    }
  }
}

}  // namespace ds4
