#include "bench/synthetic_shape.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/text.h"

namespace ds4::bench {

namespace {

constexpr int kMaxLayers = 1000;

/// What both published models have in common (spec section 1.1).
Dims family_dims() {
  Dims d;
  d.vocab = 129280;
  d.head_dim = 512;
  d.rope_dim = 64;
  d.o_lora = 1024;
  d.window = 128;
  d.index_heads = 64;
  d.index_dim = 128;
  d.experts_used = 6;
  d.hc = 4;
  d.sinkhorn_iterations = 20;
  d.hc_eps = 1e-6F;
  d.rms_eps = 1e-6F;
  return d;
}

Dims flash_dims() {
  Dims d = family_dims();
  d.hidden = 4096;
  d.heads = 64;
  d.q_lora = 1024;
  d.o_groups = 8;
  d.index_topk = 512;
  d.experts = 256;
  d.expert_ff = d.shared_ff = 2048;
  d.route_scale = 1.5F;
  return d;
}

Dims pro_dims() {
  Dims d = family_dims();
  d.hidden = 7168;
  d.heads = 128;
  d.q_lora = 1536;
  d.o_groups = 16;
  d.index_topk = 1024;
  d.experts = 384;
  d.expert_ff = d.shared_ff = 3072;
  d.route_scale = 2.5F;
  return d;
}

LayerShape layer_shape(ModelFamily family, int layer) {
  const int first = family == ModelFamily::kFlash ? 0 : 128;  // of layers 0 and 1 (spec section 1.2)
  const int ratio = layer < 2 ? first : layer % 2 == 0 ? 4 : 128;
  const LayerKind kind = ratio == 0   ? LayerKind::kWindow
                         : ratio == 4 ? LayerKind::kCompressedSparse
                                      : LayerKind::kHeavilyCompressed;
  return {kind, ratio, layer < 3, 10.0F, 10.0F};
}

}  // namespace

std::string SyntheticSpec::name() const {
  return cat("synthetic ", family == ModelFamily::kFlash ? "flash" : "pro", ":", layers, " ", mix_name(mix));
}

Result<SyntheticSpec> parse_synthetic(std::string_view text) {
  const auto refuse = [&] {
    return Error{ErrorCode::kUsage, cat("--synthetic: expected flash:N or pro:N with 1 to ", kMaxLayers,
                                        " layers, found \"", escaped(text), "\"")};
  };
  SyntheticSpec spec;
  const std::size_t colon = text.find(':');
  const std::string_view family = text.substr(0, colon);
  if (family == "pro") {
    spec.family = ModelFamily::kPro;
    spec.layers = 61;
  } else if (family != "flash") {
    return refuse();
  }
  if (colon == std::string_view::npos) return spec;
  const std::string_view number = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), spec.layers);
  if (error != std::errc() || end != number.data() + number.size() || spec.layers < 1 || spec.layers > kMaxLayers)
    return refuse();
  return spec;
}

std::string_view mix_name(WeightMix mix) {
  switch (mix) {
    case WeightMix::kQ2: return "q2";
    case WeightMix::kQ4: return "q4";
    case WeightMix::kMxfp4: return "mxfp4";
  }
  check_failed("a mix of weight formats", __FILE__, __LINE__);
}

Result<WeightMix> parse_mix(std::string_view text) {
  for (const WeightMix mix : {WeightMix::kQ2, WeightMix::kQ4, WeightMix::kMxfp4})
    if (mix_name(mix) == text) return mix;
  return Error{ErrorCode::kUsage, cat("--mix: expected q2, q4 or mxfp4, found \"", escaped(text), "\"")};
}

ModelShape synthetic_shape(const SyntheticSpec& spec) {
  ModelShape shape;
  shape.name = spec.name();
  shape.dims = spec.family == ModelFamily::kFlash ? flash_dims() : pro_dims();
  for (int layer = 0; layer < spec.layers; ++layer) shape.layers.push_back(layer_shape(spec.family, layer));
  shape.context_length = std::int64_t{1} << 21;  // twice the real one: room to decode after a million tokens
  shape.rope = {10000.0F, 160000.0F, 16.0F, 65536, 32.0F, 1.0F};
  return shape;
}

DType published_type(const WeightSpec& weight, WeightMix mix) {
  if (weight.role == WeightRole::kVector) return DType::kF32;
  if (weight.role == WeightRole::kTable) return DType::kI32;
  const std::string& name = weight.name;
  if (name.ends_with("_exps.weight")) {
    if (mix == WeightMix::kMxfp4) return DType::kMXFP4;
    if (mix == WeightMix::kQ4) return DType::kQ4_K;
    return name.ends_with("down_exps.weight") ? DType::kQ2_K : DType::kIQ2_XXS;
  }
  constexpr std::array kQ8 = {".attn_q_a.weight",      ".attn_q_b.weight",      ".attn_kv.weight",
                              ".attn_output_a.weight", ".attn_output_b.weight", ".ffn_gate_shexp.weight",
                              ".ffn_up_shexp.weight",  ".ffn_down_shexp.weight"};
  const bool indexer = name.find(".indexer.") != std::string::npos;
  const bool q8 = name == "output.weight" ||
                  (!indexer && std::ranges::any_of(kQ8, [&](const char* end) { return name.ends_with(end); }));
  return q8 ? DType::kQ8_0 : DType::kF16;
}

}  // namespace ds4::bench
