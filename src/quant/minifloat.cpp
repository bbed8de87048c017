#include "quant/minifloat.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace ds4 {
namespace {

/// 2^exponent, also below the normal range of a float.
float power_of_two(int exponent) { return std::ldexp(1.0f, exponent); }

/// The code (without sign) nearest to a finite, not negative value, ties to the even code. All codes of one exponent
/// are equidistant, and the code after the last of them is the first of the next exponent: the step count carries over.
std::uint8_t nearest_code(float magnitude, int mantissa_bits, int bias) {
  const int lowest = 1 - bias;  // the exponent of the smallest normal value and of all subnormal ones
  const int exponent = magnitude == 0.0f ? lowest : std::max(std::ilogb(magnitude), lowest);
  const double steps = std::ldexp(static_cast<double>(magnitude), mantissa_bits - exponent);  // exact
  int count = static_cast<int>(steps);
  const double rest = steps - count;
  if (rest > 0.5 || (rest == 0.5 && count % 2 != 0)) ++count;
  return static_cast<std::uint8_t>(count + ((exponent - lowest) << mantissa_bits));
}

float decode(unsigned code, int mantissa_bits, int bias) {
  const int mantissa = static_cast<int>(code & ((1u << mantissa_bits) - 1));
  const int exponent = static_cast<int>(code >> mantissa_bits);
  const int leading = exponent == 0 ? 0 : 1 << mantissa_bits;
  return std::ldexp(static_cast<float>(leading + mantissa), std::max(exponent, 1) - bias - mantissa_bits);
}

}  // namespace

float e4m3_to_f32(std::uint8_t code) {
  const unsigned magnitude = code & 0x7f;
  if (magnitude == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  return std::copysign(decode(magnitude, 3, 7), code & 0x80 ? -1.0f : 1.0f);
}

std::uint8_t f32_to_e4m3(float value) {
  const std::uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | 0x7f;
  return sign | nearest_code(std::min(std::fabs(value), 448.0f), 3, 7);
}

float e2m1_to_f32(std::uint8_t code) { return std::copysign(decode(code & 7, 1, 1), code & 8 ? -1.0f : 1.0f); }

std::uint8_t f32_to_e2m1(float value) {
  const std::uint8_t sign = std::signbit(value) ? 8 : 0;
  if (std::isnan(value)) return sign | 7;  // the format has no NaN; the scale of the block carries it
  return sign | nearest_code(std::min(std::fabs(value), 6.0f), 1, 1);
}

float e8m0_to_f32(std::uint8_t code) {
  return code == 255 ? std::numeric_limits<float>::quiet_NaN() : power_of_two(code - 127);
}

std::uint8_t pow2_ceil_e8m0(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value) & 0x7fffffffu;
  const std::uint32_t exponent = bits >> 23;
  const bool above = (bits & 0x7fffffu) != 0;
  return static_cast<std::uint8_t>(std::min(exponent + (above ? 1u : 0u), 255u));  // infinity and NaN give NaN
}

}  // namespace ds4
