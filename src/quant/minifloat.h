// The 8- and 4-bit floats of the checkpoint and of the KV rounding: e4m3 (fn), e2m1, e8m0 (spec section 4.2, 9).
// Round to nearest, ties to the even code; inputs beyond the largest magnitude clamp to it. Pure functions, any thread.
#pragma once

#include <cstdint>

namespace ds4 {

/// 0x7f and 0xff are NaN.
float e4m3_to_f32(std::uint8_t code);
std::uint8_t f32_to_e4m3(float value);  // |value| clamps to 448

/// The low four bits of `code`: sign, then an index into 0 .5 1 1.5 2 3 4 6.
float e2m1_to_f32(std::uint8_t code);
std::uint8_t f32_to_e2m1(float value);  // |value| clamps to 6

/// 2^(code - 127); 255 is NaN, 0 is the subnormal 2^-127.
float e8m0_to_f32(std::uint8_t code);

/// The code of 2^ceil(log2(value)), from the bits of a positive normal f32: exponent, plus one if the mantissa is not
/// zero.
std::uint8_t pow2_ceil_e8m0(float value);

}  // namespace ds4
