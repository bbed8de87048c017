// Manifold-constrained hyper-connections (§2.2): what a sub-layer reads from the streams, and how its output and the
// streams mix afterwards.
#include <cmath>

#include "backend/reference/maths.h"
#include "backend/reference/reference_backend.h"

namespace ds4 {

using reference::sigmoid;

namespace {

/// m = (fn · v) / rms(v) for the concatenated streams v of one token.
std::vector<double> controls(const float* v, const HyperConnectionWeights& hc, float rms_eps) {
  const std::int64_t width = hc.fn.in;
  const double r =
      1.0 / std::sqrt(reference::dot(v, v, width) / static_cast<double>(width) + static_cast<double>(rms_eps));
  std::vector<double> m;
  std::vector<float> space;
  for (std::int64_t j = 0; j < hc.fn.out; ++j)
    m.push_back(reference::dot(reference::weight_row(hc.fn, j, 0, space), v, width) * r);
  return m;
}

/// Row soft-max, then columns and rows in turn, ending on columns: nearly doubly stochastic.
void sinkhorn(std::vector<double>& c, int n, int iterations, double eps) {
  const auto at = [&](int j, int k) -> double& { return c[static_cast<std::size_t>(j * n + k)]; };
  const auto columns = [&] {
    for (int k = 0; k < n; ++k) {
      double sum = eps;
      for (int j = 0; j < n; ++j) sum += at(j, k);
      for (int j = 0; j < n; ++j) at(j, k) /= sum;
    }
  };
  const auto rows = [&] {
    for (int j = 0; j < n; ++j) {
      double sum = eps;
      for (int k = 0; k < n; ++k) sum += at(j, k);
      for (int k = 0; k < n; ++k) at(j, k) /= sum;
    }
  };
  for (int j = 0; j < n; ++j) {
    double largest = at(j, 0);
    for (int k = 1; k < n; ++k) largest = std::max(largest, at(j, k));
    double sum = 0;
    for (int k = 0; k < n; ++k) sum += at(j, k) = std::exp(at(j, k) - largest);
    for (int k = 0; k < n; ++k) at(j, k) = at(j, k) / sum + eps;
  }
  columns();
  for (int i = 1; i < iterations; ++i) {
    rows();
    columns();
  }
}

/// y = Σ_j w[j] · X[j]
void mix(const float* streams, const std::vector<double>& w, int hidden, float* y) {
  for (int c = 0; c < hidden; ++c) {
    double sum = 0;
    for (std::size_t j = 0; j < w.size(); ++j)
      sum += w[j] * static_cast<double>(streams[j * static_cast<std::size_t>(hidden) + c]);
    y[c] = static_cast<float>(sum);
  }
}

}  // namespace

void ReferenceBackend::hc_pre(const HcPreArgs& args) {
  const int n = config_.dims.hc;
  const auto base = reference::weight_vector(args.hc.base);
  const auto scale = reference::weight_vector(args.hc.scale);
  const double eps = config_.dims.hc_eps;
  for (int r = 0; r < batch_.rows; ++r) {
    const float* streams = args.streams.data + r * args.streams.cols;
    const auto m = controls(streams, args.hc, config_.dims.rms_eps);
    const auto scaled = [&](int i, int group) {
      return m[static_cast<std::size_t>(i)] * static_cast<double>(scale[group]) + static_cast<double>(base[i]);
    };
    std::vector<double> pre;
    for (int j = 0; j < n; ++j) {
      pre.push_back(sigmoid(scaled(j, 0)) + eps);
      args.post.data[r * n + j] = static_cast<float>(2.0 * sigmoid(scaled(n + j, 1)));
    }
    std::vector<double> c;
    for (int i = 0; i < n * n; ++i) c.push_back(scaled(2 * n + i, 2));
    sinkhorn(c, n, config_.dims.sinkhorn_iterations, eps);
    for (int i = 0; i < n * n; ++i) args.comb.data[r * n * n + i] = static_cast<float>(c[static_cast<std::size_t>(i)]);
    mix(streams, pre, config_.dims.hidden, args.y.data + r * args.y.cols);
  }
}

void ReferenceBackend::hc_post(const HcPostArgs& args) {
  const int n = config_.dims.hc;
  const int hidden = config_.dims.hidden;
  std::vector<double> mixed(static_cast<std::size_t>(n));
  for (int r = 0; r < batch_.rows; ++r) {
    float* streams = args.streams.data + r * args.streams.cols;
    const float* post = args.post.data + r * n;
    const float* comb = args.comb.data + r * n * n;
    for (int c = 0; c < hidden; ++c) {
      for (int k = 0; k < n; ++k) {
        double sum = static_cast<double>(post[k]) * static_cast<double>(args.o.data[r * hidden + c]);
        for (int j = 0; j < n; ++j)
          sum += static_cast<double>(comb[j * n + k]) * static_cast<double>(streams[j * hidden + c]);
        mixed[static_cast<std::size_t>(k)] = sum;
      }
      for (int k = 0; k < n; ++k) streams[k * hidden + c] = static_cast<float>(mixed[static_cast<std::size_t>(k)]);
    }
  }
}

void ReferenceBackend::hc_head(const HcHeadArgs& args) {
  const auto base = reference::weight_vector(args.hc.base);
  const auto scale = reference::weight_vector(args.hc.scale);
  for (std::size_t i = 0; i < batch_.logit_rows.size(); ++i) {
    const float* streams = args.streams.data + batch_.logit_rows[i] * args.streams.cols;
    std::vector<double> w = controls(streams, args.hc, config_.dims.rms_eps);
    for (std::size_t j = 0; j < w.size(); ++j)
      w[j] = sigmoid(w[j] * static_cast<double>(scale[0]) + static_cast<double>(base[j])) +
             static_cast<double>(config_.dims.hc_eps);
    mix(streams, w, config_.dims.hidden, args.h.data + static_cast<std::int64_t>(i) * args.h.cols);
  }
}

}  // namespace ds4
