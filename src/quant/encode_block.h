// One block of a search format at a time: the inside of encode_row(). Each minimises sum(weights[i] * (values[i] -
// decoded [i])^2) over what the block can say. Values are finite, weights finite and not negative; the caller sees to
// both. Pure functions, any thread; the same input gives the same block on every machine.
#pragma once

#include <cstdint>

namespace ds4 {

inline constexpr int kSuperBlock = 256;

void encode_q2_k(const float* values, const float* weights, std::uint8_t* block);
void encode_q4_k(const float* values, const float* weights, std::uint8_t* block);
void encode_iq2_xxs(const float* values, const float* weights, std::uint8_t* block);

/// The values and weights of a block brought to a common size, so that no sum of squares overflows and all tolerances
/// are relative: values by a power of two (exactly), weights to at most 1 and never quite 0.
struct ScaledBlock {
  float x[kSuperBlock];
  float w[kSuperBlock];
  float unit = 1;     // values[i] == x[i] * unit
  bool zero = false;  // nothing but zeros: x is not set

  void load(const float* values, const float* weights);
  /// `value` (in units of the block) as an f16 of the file, and what that is worth again.
  std::uint16_t half(float value) const;
  float rounded(float value) const;
  /// The same for a step to begin with: one that would vanish is the smallest that there is.
  float step(float value) const;
};

}  // namespace ds4
