// ForwardOptions::expert_tap: what the matrices of the routed experts are multiplied with.
#include "base/text.h"
#include "model/test_forward.h"
#include "quant/codec.h"

namespace ds4 {
namespace {

using namespace testing;

struct TappedLayer {
  std::vector<float> x;
  std::vector<std::int32_t> experts;
  std::vector<float> inner;
  int used = 0;
};

std::vector<TappedLayer> tap_experts(const DeviceChoice& choice, std::span<const std::int32_t> tokens) {
  ModelOptions options = default_options();
  options.expert_tap = true;
  const auto model = load(choice, options);
  Sequence sequence = std::move(*model->new_sequence());
  std::vector<BatchRow> rows;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    rows.push_back({&sequence, tokens[i], static_cast<std::int64_t>(i), false});
  std::vector<TappedLayer> layers;
  ForwardOptions forward;
  forward.expert_tap = [&](const ExpertInputs& inputs) {
    EXPECT_EQ(inputs.layer, static_cast<int>(layers.size()));
    layers.push_back({{inputs.x.begin(), inputs.x.end()},
                      {inputs.experts.begin(), inputs.experts.end()},
                      {inputs.inner.begin(), inputs.inner.end()},
                      inputs.experts_used});
  };
  EXPECT_TRUE(model->forward(rows, {}, forward).ok());
  return layers;
}

std::vector<float> values_of(const std::string& tensor) {
  const gguf::TensorInfo* info = model_file().find_tensor(tensor);
  std::vector<float> values(info->elements());
  decode_row(info->type, info->data.data(), values.data(), values.size());
  return values;
}

/// silu(W1 x) * (W3 x), before the routing weight; the clamp is far away.
std::vector<double> swiglu(const std::vector<float>& gate, const std::vector<float>& up, std::size_t expert,
                           std::size_t width, std::span<const float> x) {
  std::vector<double> out(width);
  for (std::size_t o = 0; o < width; ++o) {
    double a = 0, b = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      a += static_cast<double>(gate[(expert * width + o) * x.size() + i]) * static_cast<double>(x[i]);
      b += static_cast<double>(up[(expert * width + o) * x.size() + i]) * static_cast<double>(x[i]);
    }
    out[o] = a / (1 + std::exp(-a)) * b;
  }
  return out;
}

TEST(ExpertTap, ShowsWhatTheExpertsAreMultipliedWith) {
  const auto tokens = random_tokens(20);
  const auto layers = tap_experts({"reference", ""}, tokens);
  const auto model = load({"reference", ""});
  const Dims& dims = model->shape().dims;
  ASSERT_EQ(layers.size(), model->shape().layers.size());
  const auto hidden = static_cast<std::size_t>(dims.hidden);
  const auto width = static_cast<std::size_t>(dims.expert_ff);
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const std::vector<float> gate = values_of(cat("blk.", l, ".ffn_gate_exps.weight"));
    const std::vector<float> up = values_of(cat("blk.", l, ".ffn_up_exps.weight"));
    const auto used = static_cast<std::size_t>(layers[l].used);
    ASSERT_EQ(layers[l].x.size(), tokens.size() * hidden);
    ASSERT_EQ(layers[l].inner.size(), tokens.size() * used * width);
    for (std::size_t r = 0; r < tokens.size(); ++r) {
      double weights = 0;
      for (std::size_t i = 0; i < used; ++i) {
        const auto expert = static_cast<std::size_t>(layers[l].experts[r * used + i]);
        const auto expected = swiglu(gate, up, expert, width, std::span(layers[l].x).subspan(r * hidden, hidden));
        const float* inner = layers[l].inner.data() + (r * used + i) * width;
        double dot = 0, norm = 0;
        for (std::size_t o = 0; o < width; ++o) {
          dot += expected[o] * static_cast<double>(inner[o]);
          norm += expected[o] * expected[o];
        }
        const double weight = dot / norm;  // of the expert in this row
        for (std::size_t o = 0; o < width; ++o)
          ASSERT_NEAR(inner[o], weight * expected[o], 1e-4 * std::sqrt(norm)) << l << " " << r << " " << i;
        weights += weight;
      }
      EXPECT_NEAR(weights, dims.route_scale, 1e-3) << "the routing weights of a row add up to their scale";
    }
  }
}

TEST(ExpertTap, DevicesAgree) {
  const auto tokens = random_tokens(33);
  const auto expected = tap_experts({"reference", ""}, tokens);
  for (const DeviceChoice& choice : devices()) {
    const auto found = tap_experts(choice, tokens);
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t l = 0; l < found.size(); ++l) {
      ASSERT_EQ(found[l].experts, expected[l].experts) << choice.device << choice.isa << " layer " << l;
      ASSERT_EQ(found[l].inner.size(), expected[l].inner.size());
      double off = 0, norm = 0;
      for (std::size_t i = 0; i < found[l].inner.size(); ++i) {
        off += std::pow(static_cast<double>(found[l].inner[i]) - static_cast<double>(expected[l].inner[i]), 2);
        norm += std::pow(static_cast<double>(expected[l].inner[i]), 2);
      }
      EXPECT_LT(off, 1e-4 * norm) << choice.device << choice.isa << " layer " << l;
    }
  }
}

}  // namespace
}  // namespace ds4
