#include "quant/codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "quant/minifloat.h"

namespace ds4 {

static_assert(std::endian::native == std::endian::little, "model files are little-endian and read in place");

// ---- 16-bit floats -------------------------------------------------------------------------------------------------

float f16_to_f32(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = half >> 10 & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;  // exact, and normal as an f32
  return sign ? -subnormal : subnormal;
}

std::uint16_t f32_to_f16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));  // NaN
  if (magnitude >= 0x47800000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // >= 2^16, or inf
  if (magnitude >= 0x38800000u) {                                                   // >= 2^-14: normal
    const std::uint32_t rebased = magnitude - (112u << 23);
    const std::uint32_t rounded = (rebased + 0xfffu + (rebased >> 13 & 1u)) >> 13;  // may carry into infinity: right
    return static_cast<std::uint16_t>(sign | rounded);
  }
  if (magnitude < 0x33000000u) return static_cast<std::uint16_t>(sign);  // < 2^-25, half of the smallest subnormal
  const std::uint32_t shift = 126u - (magnitude >> 23);                  // 14 .. 24
  const std::uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const std::uint32_t rest = mantissa & ((1u << shift) - 1);
  const std::uint32_t halfway = 1u << (shift - 1);
  std::uint32_t half = mantissa >> shift;
  if (rest > halfway || (rest == halfway && (half & 1u) != 0)) ++half;
  return static_cast<std::uint16_t>(sign | half);
}

float bf16_to_f32(std::uint16_t half) { return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16); }

std::uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);  // NaN, made quiet
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// ---- Blocks --------------------------------------------------------------------------------------------------------

std::uint8_t iq2_xxs_signs(unsigned index) {
  const unsigned parity = static_cast<unsigned>(std::popcount(index & 0x7fu)) & 1u;
  return static_cast<std::uint8_t>((index & 0x7fu) | parity << 7);
}

namespace {

using Bytes = const std::uint8_t*;

template <typename T>
T load(Bytes at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float load_f16(Bytes at) { return f16_to_f32(load<std::uint16_t>(at)); }

// Each decoder turns one block into block_elements values. Every product below is exact in f32 (11 bits of an f16 times
// at most 11), so the only rounding is the subtraction of the minimum in the K formats.

void decode_q8_0(Bytes block, float* out) {
  const float scale = load_f16(block);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(load<std::int8_t>(block + 2 + i));
}

void decode_q4_k(Bytes block, float* out) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  const Bytes s = block + 4;
  const Bytes quants = block + 16;
  for (int j = 0; j < 8; ++j) {
    // The first four sub-blocks have their 6 bits in one byte; the others borrow the upper two bits of those bytes.
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
    for (int i = 0; i < 32; ++i) {
      const int byte = quants[32 * (j / 2) + i];
      const int q = j % 2 == 0 ? byte & 15 : byte >> 4;
      out[32 * j + i] = d * static_cast<float>(scale * q) - dmin * static_cast<float>(minimum);
    }
  }
}

void decode_q2_k(Bytes block, float* out) {
  const Bytes s = block;
  const Bytes quants = block + 16;
  const float d = load_f16(block + 80);
  const float dmin = load_f16(block + 82);
  for (int j = 0; j < 16; ++j) {
    const int half = j / 8;  // which 32 bytes
    const int shift = j / 2 % 4 * 2;
    const int first = j % 2 * 16;  // which 16 of them
    for (int i = 0; i < 16; ++i) {
      const int q = quants[32 * half + first + i] >> shift & 3;
      out[16 * j + i] = d * static_cast<float>((s[j] & 15) * q) - dmin * static_cast<float>(s[j] >> 4);
    }
  }
}

void decode_iq2_xxs(Bytes block, float* out) {
  const float d = load_f16(block);
  for (int group = 0; group < 8; ++group) {
    const Bytes packed = block + 2 + 8 * group;
    const auto word = load<std::uint32_t>(packed + 4);
    const float scale = d * (0.5f + static_cast<float>(word >> 28)) * 0.25f;
    for (int octet = 0; octet < 4; ++octet) {
      const std::uint64_t grid = iq2_xxs_grid()[packed[octet]];
      const unsigned signs = iq2_xxs_signs(word >> (7 * octet));
      for (int i = 0; i < 8; ++i) {
        const float magnitude = scale * static_cast<float>(grid >> (8 * i) & 0xff);
        out[32 * group + 8 * octet + i] = (signs >> i & 1) != 0 ? -magnitude : magnitude;
      }
    }
  }
}

void decode_mxfp4(Bytes block, float* out) {
  const float scale = e8m0_to_f32(block[0]);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * e2m1_to_f32(block[1 + i]);
    out[16 + i] = scale * e2m1_to_f32(block[1 + i] >> 4);
  }
}

/// The official rule for FP4 (§4.2): the smallest power of two that keeps the largest magnitude within 6. Values that are
/// on such a grid already come back exactly.
void encode_mxfp4(const float* values, std::uint8_t* block) {
  float absmax = 0;
  bool finite = true;
  for (int i = 0; i < 32; ++i) {
    finite = finite && std::isfinite(values[i]);
    absmax = std::max(absmax, std::fabs(values[i]));
  }
  std::memset(block, 0, 17);
  if (!finite) {
    block[0] = 0xff;  // decodes as NaN instead of as plausible numbers
    return;
  }
  block[0] = pow2_ceil_e8m0(std::max(absmax / 6.0f, 0x1p-126f));
  const float scale = e8m0_to_f32(block[0]);
  for (int i = 0; i < 16; ++i) {
    const unsigned low = f32_to_e2m1(values[i] / scale) & 15u;
    const unsigned high = f32_to_e2m1(values[16 + i] / scale) & 15u;
    block[1 + i] = static_cast<std::uint8_t>(low | high << 4);
  }
}

void encode_q8_0(const float* values, std::uint8_t* block) {
  std::int32_t largest = 0;  // the bits of the largest magnitude: they order as the magnitudes do, with NaN on top
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::bit_cast<std::int32_t>(values[i]) & 0x7fffffff);
  const float absmax = std::bit_cast<float>(largest);
  const bool finite = largest < 0x7f800000;
  // A block that cannot be represented decodes as NaN instead of as plausible numbers. A scale too large for f16
  // saturates.
  const float wanted = finite ? std::min(absmax / 127.0f, 65504.0f) : std::numeric_limits<float>::quiet_NaN();
  std::uint16_t stored = f32_to_f16(wanted);
  // Subnormal halves are so coarse that the scale may round down by several percent and clip the largest value.
  if (stored < 0x7bffu && absmax > 127.5f * f16_to_f32(stored)) ++stored;
  std::memcpy(block, &stored, sizeof stored);
  if (!finite || stored == 0) {
    std::memset(block + 2, 0, 32);
    return;
  }
  // The quotient uses the scale as stored: with the unrounded one the error would grow by up to 127 half steps of f16.
  const float scale = f16_to_f32(stored);
  constexpr float kToInteger = 0x1.8p23f;  // a sum with it has no bits below one left: rounds to nearest even
  for (int i = 0; i < 32; ++i) {
    const float steps = std::clamp(values[i] / scale, -127.0f, 127.0f) + kToInteger - kToInteger;
    block[2 + i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(steps));
  }
}

void decode_f32(Bytes value, float* out) { *out = load<float>(value); }
void decode_f16(Bytes value, float* out) { *out = load_f16(value); }
void decode_bf16(Bytes value, float* out) { *out = bf16_to_f32(load<std::uint16_t>(value)); }

void encode_f32(const float* value, std::uint8_t* out) { std::memcpy(out, value, sizeof *value); }
void encode_f16(const float* value, std::uint8_t* out) {
  const std::uint16_t half = f32_to_f16(*value);
  std::memcpy(out, &half, sizeof half);
}
void encode_bf16(const float* value, std::uint8_t* out) {
  const std::uint16_t half = f32_to_bf16(*value);
  std::memcpy(out, &half, sizeof half);
}

/// Template parameters, so that the compiler sees through the call: for the plain types a block is one element.
template <DType type, void (*decode_block)(Bytes, float*)>
void decode_blocks(Bytes source, float* destination, std::size_t elements) {
  const DTypeInfo info = dtype_info(type);
  for (std::size_t i = 0; i < elements; i += info.block_elements, source += info.block_bytes)
    decode_block(source, destination + i);
}

template <DType type, void (*encode_block)(const float*, std::uint8_t*)>
void encode_blocks(const float* source, std::uint8_t* destination, std::size_t elements) {
  const DTypeInfo info = dtype_info(type);
  for (std::size_t i = 0; i < elements; i += info.block_elements, destination += info.block_bytes)
    encode_block(source + i, destination);
}

}  // namespace

// ---- Rows ----------------------------------------------------------------------------------------------------------

void decode_row(DType type, const void* source, float* destination, std::size_t elements) {
  DS4_CHECK(elements % dtype_info(type).block_elements == 0);
  const Bytes bytes = static_cast<Bytes>(source);
  switch (type) {
    case DType::kF32:
      return decode_blocks<DType::kF32, decode_f32>(bytes, destination, elements);
    case DType::kF16:
      return decode_blocks<DType::kF16, decode_f16>(bytes, destination, elements);
    case DType::kBF16:
      return decode_blocks<DType::kBF16, decode_bf16>(bytes, destination, elements);
    case DType::kQ8_0:
      return decode_blocks<DType::kQ8_0, decode_q8_0>(bytes, destination, elements);
    case DType::kQ4_K:
      return decode_blocks<DType::kQ4_K, decode_q4_k>(bytes, destination, elements);
    case DType::kQ2_K:
      return decode_blocks<DType::kQ2_K, decode_q2_k>(bytes, destination, elements);
    case DType::kIQ2_XXS:
      return decode_blocks<DType::kIQ2_XXS, decode_iq2_xxs>(bytes, destination, elements);
    case DType::kMXFP4:
      return decode_blocks<DType::kMXFP4, decode_mxfp4>(bytes, destination, elements);
    case DType::kI32:
      break;
  }
  check_failed("a type of real numbers", __FILE__, __LINE__);
}

bool can_encode(DType type) {
  return type == DType::kF32 || type == DType::kF16 || type == DType::kBF16 || type == DType::kQ8_0 ||
         type == DType::kMXFP4;
}

void encode_row(DType type, const float* source, void* destination, std::size_t elements) {
  DS4_CHECK(elements % dtype_info(type).block_elements == 0);
  auto* bytes = static_cast<std::uint8_t*>(destination);
  switch (type) {
    case DType::kF32:
      return encode_blocks<DType::kF32, encode_f32>(source, bytes, elements);
    case DType::kF16:
      return encode_blocks<DType::kF16, encode_f16>(source, bytes, elements);
    case DType::kBF16:
      return encode_blocks<DType::kBF16, encode_bf16>(source, bytes, elements);
    case DType::kQ8_0:
      return encode_blocks<DType::kQ8_0, encode_q8_0>(source, bytes, elements);
    case DType::kMXFP4:
      return encode_blocks<DType::kMXFP4, encode_mxfp4>(source, bytes, elements);
    default:
      check_failed("a type that can_encode() knows", __FILE__, __LINE__);
  }
}

}  // namespace ds4
