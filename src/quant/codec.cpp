#include "quant/codec.h"

#include <bit>
#include <cstring>

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
  static constexpr float kValues[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                        -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
  const float scale = e8m0_to_f32(block[0]);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * kValues[block[1 + i] & 15];
    out[16 + i] = scale * kValues[block[1 + i] >> 4];
  }
}

void decode_f32(Bytes value, float* out) { *out = load<float>(value); }
void decode_f16(Bytes value, float* out) { *out = load_f16(value); }
void decode_bf16(Bytes value, float* out) { *out = bf16_to_f32(load<std::uint16_t>(value)); }

/// Template parameters, so that the compiler sees through the call: for the plain types a block is one element.
template <DType type, void (*decode_block)(Bytes, float*)>
void decode_blocks(Bytes source, float* destination, std::size_t elements) {
  const DTypeInfo info = dtype_info(type);
  for (std::size_t i = 0; i < elements; i += info.block_elements, source += info.block_bytes)
    decode_block(source, destination + i);
}

}  // namespace

// ---- Rows ----------------------------------------------------------------------------------------------------------

void decode_row(DType type, const void* source, float* destination, std::size_t elements) {
  DS4_CHECK(elements % dtype_info(type).block_elements == 0);
  const Bytes bytes = static_cast<Bytes>(source);
  switch (type) {
    case DType::kF32: return decode_blocks<DType::kF32, decode_f32>(bytes, destination, elements);
    case DType::kF16: return decode_blocks<DType::kF16, decode_f16>(bytes, destination, elements);
    case DType::kBF16: return decode_blocks<DType::kBF16, decode_bf16>(bytes, destination, elements);
    case DType::kQ8_0: return decode_blocks<DType::kQ8_0, decode_q8_0>(bytes, destination, elements);
    case DType::kQ4_K: return decode_blocks<DType::kQ4_K, decode_q4_k>(bytes, destination, elements);
    case DType::kQ2_K: return decode_blocks<DType::kQ2_K, decode_q2_k>(bytes, destination, elements);
    case DType::kIQ2_XXS: return decode_blocks<DType::kIQ2_XXS, decode_iq2_xxs>(bytes, destination, elements);
    case DType::kMXFP4: return decode_blocks<DType::kMXFP4, decode_mxfp4>(bytes, destination, elements);
    case DType::kI32: break;
  }
  check_failed("a type of real numbers", __FILE__, __LINE__);
}

}  // namespace ds4
