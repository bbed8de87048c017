// The shapes of the published models with any number of layers, and the types their weights are published in: enough to
// write the header of a model file that costs what the real one costs. Pure functions.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "model/shape.h"
#include "model/weights.h"
#include "quant/dtype.h"

namespace ds4::bench {

enum class ModelFamily { kFlash, kPro };

/// The routed experts; everything else is the same in all mixes (spec section 5.4).
enum class WeightMix {
  kQ2,     // gate and up IQ2_XXS, down Q2_K
  kQ4,     // Q4_K
  kMxfp4,  // as in the official checkpoint
};

struct SyntheticSpec {
  ModelFamily family = ModelFamily::kFlash;
  int layers = 43;
  WeightMix mix = WeightMix::kQ2;

  /// "synthetic flash:43 q2"
  std::string name() const;
};

/// "flash:43", "pro:4"; "flash" and "pro" alone have the layers of the real one.
Result<SyntheticSpec> parse_synthetic(std::string_view text);
std::string_view mix_name(WeightMix mix);
Result<WeightMix> parse_mix(std::string_view text);

/// The dims of the real model. Layer i is of the kind that layer i of the real one has; beyond its last layer the
/// alternation goes on.
ModelShape synthetic_shape(const SyntheticSpec& spec);

/// The type in which `weight` is published.
DType published_type(const WeightSpec& weight, WeightMix mix);

}  // namespace ds4::bench
