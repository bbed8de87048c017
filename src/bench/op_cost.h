// What every op of the forward pass must at least move and compute, from its arguments and the batch. "At least" means:
// each weight, each KV row and each activation once, in the format it is stored in. A device that reads more is further
// from the roof, not nearer. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "backend/backend.h"

namespace ds4::bench {

struct Cost {
  double weight_bytes = 0;
  double kv_bytes = 0;
  double activation_bytes = 0;
  double quantised_flops = 0;  // products with weights in block formats: 8-bit integers will do
  double float_flops = 0;      // everything else

  double bytes() const { return weight_bytes + kv_bytes + activation_bytes; }
  double flops() const { return quantised_flops + float_flops; }
  Cost& operator+=(const Cost& other);
};

/// What the formulas need beside the arguments of an op.
struct StepView {
  const BackendConfig* config = nullptr;
  std::span<const Segment> segments;
  const LayerKvLayout& layer(int index) const { return config->kv.layers[static_cast<std::size_t>(index)]; }
};

Cost cost_of(const EmbedArgs& args, const StepView& step);
Cost cost_of(const HcPreArgs& args, const StepView& step);
Cost cost_of(const RmsNormArgs& args, const StepView& step);
Cost cost_of(const QueryHeadsArgs& args, const StepView& step);
Cost cost_of(const WindowKvArgs& args, const StepView& step);
Cost cost_of(const CompressArgs& args, const StepView& step);
Cost cost_of(const IndexTopkArgs& args, const StepView& step);
Cost cost_of(const SparseAttentionArgs& args, const StepView& step);
Cost cost_of(const AttentionOutputArgs& args, const StepView& step);
Cost cost_of(const HcPostArgs& args, const StepView& step);
Cost cost_of(const RouteArgs& args, const StepView& step);
/// `distinct`: how many experts the rows of the batch chose together.
Cost cost_of(const ExpertsArgs& args, const StepView& step, std::int64_t distinct);
Cost cost_of(const HcHeadArgs& args, const StepView& step);
Cost cost_of(const LogitsArgs& args, const StepView& step);

}  // namespace ds4::bench
