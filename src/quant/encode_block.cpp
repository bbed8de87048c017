#include "quant/encode_block.h"

#include <algorithm>
#include <cmath>

#include "quant/codec.h"

namespace ds4 {

void ScaledBlock::load(const float* values, const float* weights) {
  float largest = 0;
  float heaviest = 0;
  for (int i = 0; i < kSuperBlock; ++i) {
    largest = std::max(largest, std::fabs(values[i]));
    if (weights != nullptr) heaviest = std::max(heaviest, weights[i]);
  }
  constexpr float kVanishing = 0x1p-60F;  // far below the smallest f16: no block can say anything but 0
  zero = largest < kVanishing;
  if (zero) return;
  unit = std::ldexp(1.0F, std::min(std::ilogb(largest), 126));
  const float inverse = 1.0F / unit;
  for (int i = 0; i < kSuperBlock; ++i) x[i] = values[i] * inverse;
  if (!(heaviest > 0)) {  // no weights, or all 0: all alike
    std::fill_n(w, kSuperBlock, 1.0F);
    return;
  }
  // A weight of 0 would leave a sub-block without a best choice.
  constexpr float kLeast = 0x1p-20F;
  for (int i = 0; i < kSuperBlock; ++i) w[i] = std::max(weights[i] / heaviest, kLeast);
}

std::uint16_t ScaledBlock::half(float value) const {
  constexpr float kLargestHalf = 65504.0F;
  return f32_to_f16(std::min(value * unit, kLargestHalf));
}

float ScaledBlock::rounded(float value) const { return f16_to_f32(half(value)) / unit; }

float ScaledBlock::step(float value) const {
  constexpr float kSmallestHalf = 0x1p-24F;
  return value > 0 ? std::max(rounded(value), kSmallestHalf / unit) : 0.0F;
}

}  // namespace ds4
