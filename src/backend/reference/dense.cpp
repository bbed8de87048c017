// The ops without state: embedding (§2.1), RMSNorm (§2.3), query heads (§2.5), grouped output projection, logits
// (§2.10).
#include <algorithm>

#include "backend/reference/maths.h"
#include "backend/reference/reference_backend.h"

namespace ds4 {

void ReferenceBackend::embed(const EmbedArgs& args) {
  for (int r = 0; r < batch_.rows; ++r) {
    const auto row = reference::weight_row(args.table, batch_.tokens[r]);
    for (int k = 0; k < config_.dims.hc; ++k)
      std::copy(row.begin(), row.end(), args.streams.data + r * args.streams.cols + k * config_.dims.hidden);
  }
}

void ReferenceBackend::rms_norm(const RmsNormArgs& args) {
  const auto weight = reference::weight_vector(args.weight);
  for (std::int64_t r = 0; r < args.x.rows; ++r) {
    float* y = args.y.data + r * args.y.cols;
    if (y != args.x.data + r * args.x.cols) std::copy_n(args.x.data + r * args.x.cols, args.x.cols, y);
    reference::rms_normalise({y, static_cast<std::size_t>(args.y.cols)}, weight, config_.dims.rms_eps);
  }
}

void ReferenceBackend::query_heads(const QueryHeadsArgs& args) {
  const auto& dims = config_.dims;
  const auto norm = reference::weight_vector(args.q_a_norm);
  const std::span<const float> frequencies{args.rope.data, static_cast<std::size_t>(args.rope.cols)};
  reference::matmul(args.q_a, 0, args.x.data, batch_.rows, args.qr.data);
  for (int r = 0; r < batch_.rows; ++r)
    reference::rms_normalise({args.qr.data + r * args.qr.cols, norm.size()}, norm, dims.rms_eps);
  reference::matmul(args.q_b, 0, args.qr.data, batch_.rows, args.q.data);
  for (int r = 0; r < batch_.rows; ++r) {
    for (int h = 0; h < dims.heads; ++h) {
      const std::span<float> head{args.q.data + (std::int64_t{r} * dims.heads + h) * dims.head_dim,
                                  static_cast<std::size_t>(dims.head_dim)};
      reference::rms_normalise(head, {}, dims.rms_eps);
      reference::rotate(head, frequencies, batch_.positions[r]);
    }
  }
}

void ReferenceBackend::attention_output(const AttentionOutputArgs& args) {
  const auto& dims = config_.dims;
  const std::int64_t group_in = args.output_a.in;
  std::vector<float> u(static_cast<std::size_t>(batch_.rows) * dims.o_groups * dims.o_lora);
  for (int g = 0; g < dims.o_groups; ++g)  // group g: its heads' outputs side by side, its own o_lora rows of output_a
    reference::matmul(args.output_a, 0, std::int64_t{g} * dims.o_lora, dims.o_lora, args.o.data + g * group_in,
                      args.o.cols, batch_.rows, u.data() + g * dims.o_lora, std::int64_t{dims.o_groups} * dims.o_lora);
  reference::matmul(args.output_b, 0, u.data(), batch_.rows, args.y.data);
}

void ReferenceBackend::logits(const LogitsArgs& args) {
  reference::matmul(args.output, 0, args.h.data, args.h.rows, args.logits.data);
}

}  // namespace ds4
