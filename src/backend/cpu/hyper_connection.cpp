// Manifold-constrained hyper-connections (§2.2): what a sub-layer reads from the streams, and how its output and the
// streams mix afterwards.
#include <algorithm>
#include <cmath>

#include "backend/cpu/cpu_backend.h"

namespace ds4::cpu {

namespace {

float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }

/// Row soft-max, then columns and rows in turn, ending on columns: nearly doubly stochastic.
void sinkhorn(float* c, int n, int iterations, float eps) {
  const auto normalise = [&](int line_step, int item_step) {
    for (int line = 0; line < n; ++line) {
      float* first = c + line * line_step;
      float sum = eps;
      for (int i = 0; i < n; ++i) sum += first[i * item_step];
      for (int i = 0; i < n; ++i) first[i * item_step] /= sum;
    }
  };
  for (int j = 0; j < n; ++j) {
    float* row = c + j * n;
    const float largest = *std::max_element(row, row + n);
    float sum = 0;
    for (int k = 0; k < n; ++k) sum += row[k] = std::exp(row[k] - largest);
    for (int k = 0; k < n; ++k) row[k] = row[k] / sum + eps;
  }
  normalise(1, n);
  for (int i = 1; i < iterations; ++i) {
    normalise(n, 1);
    normalise(1, n);
  }
}

struct Controls {
  float pre[kMaxStreams];
  float post[kMaxStreams];
  float comb[kMaxStreams * kMaxStreams];
};

/// The least work worth a part of its own.
constexpr std::int64_t kColumnGrain = 256;

Share columns_of(std::int64_t hidden, std::int64_t part, std::int64_t parts) {
  return share_of(hidden, static_cast<int>(part), static_cast<int>(parts), 64);
}

}  // namespace

/// scratch.controls[i] = (fn · v) for the listed rows; the normaliser 1 / rms(v) is still missing.
void CpuBackend::hyper_connection_controls(const Tensor& streams, const HyperConnectionWeights& hc,
                                           const std::int32_t* rows, std::int64_t count,
                                           const HyperConnectionScratch& scratch) {
  const Activations v{streams.data, streams.cols, streams.rows, streams.cols, nullptr};
  Product controls = product(hc.fn, v, scratch.controls, true);
  controls.index = rows;
  controls.count = count;
  products_.run(pool_, {&controls, 1}, scratch.products);
}

void CpuBackend::hc_pre(const HcPreArgs& args) {
  const Dims& dims = config_.dims;
  const int n = dims.hc;
  const auto scratch = lay_out<HyperConnectionScratch>();
  hyper_connection_controls(args.streams, args.hc, iota_, batch_.rows, scratch);

  const auto* base = static_cast<const float*>(args.hc.base.data);
  const auto* scale = static_cast<const float*>(args.hc.scale.data);
  const auto controls_of = [&](std::int64_t r, const float* v) {
    const float* m = scratch.controls + r * dims.hc_controls();
    const float mean = kernels_.sum_squares(v, args.streams.cols) / static_cast<float>(args.streams.cols);
    const float norm = 1.0F / std::sqrt(mean + dims.rms_eps);
    Controls c;
    for (int j = 0; j < n; ++j) c.pre[j] = sigmoid(m[j] * norm * scale[0] + base[j]) + dims.hc_eps;
    for (int j = 0; j < n; ++j) c.post[j] = 2.0F * sigmoid(m[n + j] * norm * scale[1] + base[n + j]);
    for (int i = 0; i < n * n; ++i) c.comb[i] = m[2 * n + i] * norm * scale[2] + base[2 * n + i];
    sinkhorn(c.comb, n, dims.sinkhorn_iterations, dims.hc_eps);
    return c;
  };
  // Every part of a row works out the controls again: a few microseconds, less than waiting for one another.
  for_row_parts(batch_.rows, std::max<std::int64_t>(1, dims.hidden / kColumnGrain),
                [&](int, std::int64_t r, std::int64_t part, std::int64_t parts) {
                  const float* v = args.streams.data + r * args.streams.cols;
                  const Controls c = controls_of(r, v);
                  if (part == 0) {
                    std::copy_n(c.post, n, args.post.data + r * n);
                    std::copy_n(c.comb, n * n, args.comb.data + r * n * n);
                  }
                  const Share columns = columns_of(dims.hidden, part, parts);
                  const float* inputs[kMaxStreams];
                  for (int j = 0; j < n; ++j) inputs[j] = v + std::int64_t{j} * dims.hidden + columns.first;
                  kernels_.mix(inputs, c.pre, n, args.y.data + r * args.y.cols + columns.first,
                               columns.last - columns.first);
                });
}

void CpuBackend::hc_post(const HcPostArgs& args) {
  const std::int64_t hidden = config_.dims.hidden;
  const int n = config_.dims.hc;
  for_row_parts(batch_.rows, std::max<std::int64_t>(1, hidden / kColumnGrain),
                [&](int, std::int64_t r, std::int64_t part, std::int64_t parts) {
                  const Share columns = columns_of(hidden, part, parts);
                  kernels_.mix_streams(args.o.data + r * args.o.cols + columns.first, args.post.data + r * n,
                                       args.comb.data + r * n * n, n,
                                       args.streams.data + r * args.streams.cols + columns.first, hidden,
                                       columns.last - columns.first);
                });
}

void CpuBackend::hc_head(const HcHeadArgs& args) {
  const Dims& dims = config_.dims;
  const auto count = static_cast<std::int64_t>(batch_.logit_rows.size());
  if (count == 0) return;
  const auto scratch = lay_out<HyperConnectionScratch>();
  hyper_connection_controls(args.streams, args.hc, batch_.logit_rows.data(), count, scratch);
  const auto* base = static_cast<const float*>(args.hc.base.data);
  const auto* scale = static_cast<const float*>(args.hc.scale.data);
  for_rows(count, [&](std::int64_t i) {
    const float* v = args.streams.data + batch_.logit_rows[static_cast<std::size_t>(i)] * args.streams.cols;
    const float mean = kernels_.sum_squares(v, args.streams.cols) / static_cast<float>(args.streams.cols);
    const float norm = 1.0F / std::sqrt(mean + dims.rms_eps);
    float weights[kMaxStreams];
    const float* inputs[kMaxStreams];
    for (int j = 0; j < dims.hc; ++j) {
      weights[j] = sigmoid(scratch.controls[i * dims.hc + j] * norm * scale[0] + base[j]) + dims.hc_eps;
      inputs[j] = v + std::int64_t{j} * dims.hidden;
    }
    kernels_.mix(inputs, weights, dims.hc, args.h.data + i * args.h.cols, dims.hidden);
  });
}

}  // namespace ds4::cpu
