#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "quant/codec.h"
#include "quant/encode_block.h"
#include "quant/minifloat.h"

namespace ds4 {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// The bits of the largest magnitude: they order as the magnitudes do, infinity and NaN on top.
std::int32_t largest_bits(const float* values, int count) {
  std::int32_t largest = 0;
  for (int i = 0; i < count; ++i) {
    const std::int32_t bits = std::bit_cast<std::int32_t>(values[i]) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}
constexpr std::int32_t kInfinityBits = 0x7f800000;

// ---- Floats --------------------------------------------------------------------------------------------------------

void encode_f32(const float* values, const float*, std::uint8_t* out) { std::memcpy(out, values, sizeof *values); }
void encode_f16(const float* values, const float*, std::uint8_t* out) {
  const std::uint16_t half = f32_to_f16(*values);
  std::memcpy(out, &half, sizeof half);
}
void encode_bf16(const float* values, const float*, std::uint8_t* out) {
  const std::uint16_t half = f32_to_bf16(*values);
  std::memcpy(out, &half, sizeof half);
}

// ---- Q8_0 ----------------------------------------------------------------------------------------------------------

void encode_q8_0(const float* values, const float*, std::uint8_t* block) {
  const std::int32_t largest = largest_bits(values, 32);
  const float absmax = std::bit_cast<float>(largest);
  const bool finite = largest < kInfinityBits;
  // A block that cannot be represented decodes as NaN instead of as plausible numbers. A scale too large for f16
  // saturates.
  std::uint16_t stored = f32_to_f16(finite ? std::min(absmax / 127.0F, 65504.0F) : kNan);
  // Subnormal halves are so coarse that the scale may round down by several percent and clip the largest value.
  if (stored < 0x7bffU && absmax > 127.5F * f16_to_f32(stored)) ++stored;
  std::memcpy(block, &stored, sizeof stored);
  if (!finite || stored == 0) {
    std::memset(block + 2, 0, 32);
    return;
  }
  // The quotient uses the scale as stored: with the unrounded one the error would grow by up to 127 half steps of f16.
  const float inverse = 1.0F / f16_to_f32(stored);
  constexpr float kToInteger = 0x1.8p23F;  // a sum with it has no bits below one left: rounds to nearest even
  std::int32_t codes[32];
  for (int i = 0; i < 32; ++i) {
    float steps = values[i] * inverse;
    steps = steps < -127.0F ? -127.0F : steps;
    steps = steps > 127.0F ? 127.0F : steps;
    codes[i] = std::bit_cast<std::int32_t>(steps + kToInteger);
  }
  for (int i = 0; i < 32; ++i) block[2 + i] = static_cast<std::uint8_t>(codes[i] & 0xff);
}

// ---- MXFP4 ---------------------------------------------------------------------------------------------------------

/// The nearest of 0 .5 1 1.5 2 3 4 6 to each |x|, ties to the even code, as codes; and the weighted squared error.
float round_e2m1(const float* values, const float* weights, float inverse, std::uint8_t* codes) {
  float errors[32];
  for (int i = 0; i < 32; ++i) {
    const float x = std::fabs(values[i]) * inverse;
    // Below 2 the codes are half steps, below 4 whole ones, then there are 4 and 6.
    int code = (x > 0.25F) + (x >= 0.75F) + (x > 1.25F) + (x >= 1.75F) + (x > 2.5F) + (x >= 3.5F) + (x > 5.0F);
    const float low = static_cast<float>(code) * 0.5F;
    const float high = code == 7 ? 6.0F : static_cast<float>(code - 2);
    const float off = (code < 4 ? low : high) - x;
    errors[i] = weights[i] * off * off;
    codes[i] = static_cast<std::uint8_t>(code);
  }
  float sum = 0;
  for (int i = 0; i < 32; ++i) sum += errors[i];
  return sum;
}

/// The power of two that the official rule takes (§4.2: the smallest that keeps the largest magnitude within 6) or the
/// one below it, which clips the largest values to make the steps of all others finer.
void encode_mxfp4(const float* values, const float* weights, std::uint8_t* block) {
  const std::int32_t largest = largest_bits(values, 32);
  std::memset(block, 0, 17);
  if (largest >= kInfinityBits) {
    block[0] = 0xff;
    return;
  }
  constexpr float kAlike[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  if (weights == nullptr || *std::max_element(weights, weights + 32) <= 0) weights = kAlike;
  const std::uint8_t whole = pow2_ceil_e8m0(std::max(std::bit_cast<float>(largest) / 6.0F, 0x1p-126F));
  const float inverse = 1.0F / e8m0_to_f32(whole);
  std::uint8_t codes[32];
  std::uint8_t clipped[32];
  float error = round_e2m1(values, weights, inverse, codes);
  block[0] = whole;
  // In units of the finer scale an error counts a quarter.
  if (error > 0 && whole > 1 && 0.25F * round_e2m1(values, weights, 2.0F * inverse, clipped) < error) {
    std::memcpy(codes, clipped, sizeof codes);
    block[0] = static_cast<std::uint8_t>(whole - 1);
  }
  for (int i = 0; i < 32; ++i) codes[i] |= std::signbit(values[i]) ? std::uint8_t{8} : std::uint8_t{0};
  for (int i = 0; i < 16; ++i) block[1 + i] = static_cast<std::uint8_t>(codes[i] | codes[16 + i] << 4);
}

// ---- Rows ----------------------------------------------------------------------------------------------------------

/// A search block with a value that is not finite: its scale is NaN.
template <void (*encode)(const float*, const float*, std::uint8_t*), int bytes, int scale_at>
void encode_finite(const float* values, const float* weights, std::uint8_t* block) {
  if (largest_bits(values, kSuperBlock) < kInfinityBits) return encode(values, weights, block);
  std::memset(block, 0, bytes);
  const std::uint16_t nan = f32_to_f16(kNan);
  std::memcpy(block + scale_at, &nan, sizeof nan);
}

template <DType type, void (*encode_block)(const float*, const float*, std::uint8_t*)>
void encode_blocks(const float* source, const float* weights, std::uint8_t* destination, std::size_t elements) {
  const DTypeInfo info = dtype_info(type);
  for (std::size_t i = 0; i < elements; i += info.block_elements, destination += info.block_bytes)
    encode_block(source + i, weights == nullptr ? nullptr : weights + i, destination);
}

}  // namespace

bool can_encode(DType type) { return type != DType::kI32; }

bool uses_weights(DType type) {
  return type == DType::kQ2_K || type == DType::kQ4_K || type == DType::kIQ2_XXS || type == DType::kMXFP4;
}

void encode_row(DType type, const float* source, void* destination, std::size_t elements, const float* weights) {
  DS4_CHECK(elements % dtype_info(type).block_elements == 0);
  auto* bytes = static_cast<std::uint8_t*>(destination);
  switch (type) {
    case DType::kF32: return encode_blocks<DType::kF32, encode_f32>(source, weights, bytes, elements);
    case DType::kF16: return encode_blocks<DType::kF16, encode_f16>(source, weights, bytes, elements);
    case DType::kBF16: return encode_blocks<DType::kBF16, encode_bf16>(source, weights, bytes, elements);
    case DType::kQ8_0: return encode_blocks<DType::kQ8_0, encode_q8_0>(source, weights, bytes, elements);
    case DType::kMXFP4: return encode_blocks<DType::kMXFP4, encode_mxfp4>(source, weights, bytes, elements);
    case DType::kQ2_K:
      return encode_blocks<DType::kQ2_K, encode_finite<encode_q2_k, 84, 80>>(source, weights, bytes, elements);
    case DType::kQ4_K:
      return encode_blocks<DType::kQ4_K, encode_finite<encode_q4_k, 144, 0>>(source, weights, bytes, elements);
    case DType::kIQ2_XXS:
      return encode_blocks<DType::kIQ2_XXS, encode_finite<encode_iq2_xxs, 66, 0>>(source, weights, bytes, elements);
    case DType::kI32: break;
  }
  check_failed("a type that can_encode() knows", __FILE__, __LINE__);
}

}  // namespace ds4
