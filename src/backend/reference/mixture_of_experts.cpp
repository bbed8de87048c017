// Router and experts (§2.9).
#include <algorithm>
#include <cmath>
#include <compare>
#include <numeric>

#include "backend/reference/maths.h"
#include "backend/reference/reference_backend.h"

namespace ds4 {

namespace {

double softplus(double t) { return std::max(t, 0.0) + std::log1p(std::exp(-std::abs(t))); }

/// W2 · (silu(min(W1 x, limit)) * clamp(W3 x, ±limit) * weight), added to `sum`; returns what W2 was multiplied with.
std::vector<float> add_expert(const Weight& gate, const Weight& up, const Weight& down, std::int64_t index,
                              const float* x, float limit, double weight, std::vector<double>& sum) {
  std::vector<float> g(static_cast<std::size_t>(gate.out));
  std::vector<float> u(g.size());
  reference::matmul(gate, index, x, 1, g.data());
  reference::matmul(up, index, x, 1, u.data());
  for (std::size_t i = 0; i < g.size(); ++i) {
    const double a = std::min(g[i], limit);
    const double b = std::clamp(u[i], -limit, limit);
    g[i] = static_cast<float>(a * reference::sigmoid(a) * b * weight);
  }
  std::vector<float> y(sum.size());
  reference::matmul(down, index, g.data(), 1, y.data());
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(y[i]);
  return g;
}

}  // namespace

void ReferenceBackend::route(const RouteArgs& args) {
  const auto& dims = config_.dims;
  const auto used = static_cast<std::size_t>(dims.experts_used);
  std::vector<float> logits(static_cast<std::size_t>(batch_.rows) * dims.experts);
  reference::matmul(args.gate, 0, args.x.data, batch_.rows, logits.data());
  const auto bias = args.bias.present() ? reference::weight_vector(args.bias)
                                        : std::vector<float>(static_cast<std::size_t>(dims.experts), 0.0F);
  for (int r = 0; r < batch_.rows; ++r) {
    std::vector<double> score(static_cast<std::size_t>(dims.experts));
    for (std::size_t e = 0; e < score.size(); ++e)
      score[e] = std::sqrt(softplus(logits[static_cast<std::size_t>(r) * score.size() + e]));
    std::vector<std::int32_t> order(score.size());
    if (args.token_experts.present()) {
      const auto* table = static_cast<const std::int32_t*>(args.token_experts.data);
      order.assign(table + batch_.tokens[r] * static_cast<std::int64_t>(used),
                   table + (batch_.tokens[r] + 1) * static_cast<std::int64_t>(used));
    } else {
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
        return score[a] + static_cast<double>(bias[a]) > score[b] + static_cast<double>(bias[b]);
      });
    }
    double sum = 0;
    for (std::size_t i = 0; i < used; ++i) sum += score[static_cast<std::size_t>(order[i])];
    for (std::size_t i = 0; i < used; ++i) {
      const auto at = static_cast<std::size_t>(r) * used + i;
      args.experts.data[at] = order[i];
      args.weights.data[at] =
          static_cast<float>(score[static_cast<std::size_t>(order[i])] / sum * static_cast<double>(dims.route_scale));
    }
  }
}

void ReferenceBackend::experts(const ExpertsArgs& args) {
  const auto used = static_cast<std::size_t>(config_.dims.experts_used);
  for (int r = 0; r < batch_.rows; ++r) {
    const float* x = args.x.data + r * args.x.cols;
    struct Chosen {
      std::int32_t expert;
      float weight;
      std::int64_t at;  // [rows, experts_used]
      auto operator<=>(const Chosen&) const = default;
    };
    std::vector<Chosen> chosen;
    for (std::size_t i = 0; i < used; ++i) {
      const auto at = static_cast<std::size_t>(r) * used + i;
      chosen.push_back({args.experts.data[at], args.weights.data[at], static_cast<std::int64_t>(at)});
    }
    std::sort(chosen.begin(), chosen.end());
    std::vector<double> sum(static_cast<std::size_t>(config_.dims.hidden), 0.0);
    for (const auto& [expert, weight, at] : chosen) {
      const std::vector<float> inner =
          add_expert(args.gate, args.up, args.down, expert, x, args.limit, static_cast<double>(weight), sum);
      if (args.inner.data != nullptr) std::copy(inner.begin(), inner.end(), args.inner.data + at * args.gate.out);
    }
    add_expert(args.shared_gate, args.shared_up, args.shared_down, 0, x, args.shared_limit, 1.0, sum);
    for (std::size_t c = 0; c < sum.size(); ++c)
      args.y.data[r * args.y.cols + static_cast<std::int64_t>(c)] = static_cast<float>(sum[c]);
  }
}

}  // namespace ds4
