#include "quant/finite.h"

#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "quant/codec.h"

namespace ds4 {

namespace {

bool finite_f32(const std::byte* p) {
  std::uint32_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return (bits & 0x7F800000U) != 0x7F800000U;
}

std::uint16_t half_bits(const std::byte* p) {
  std::uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}
bool finite_f16(const std::byte* p) { return (half_bits(p) & 0x7C00U) != 0x7C00U; }
bool finite_bf16(const std::byte* p) { return (half_bits(p) & 0x7F80U) != 0x7F80U; }

/// 255 is NaN; the largest scales, times up to 6, may leave the range of f32.
bool finite_mxfp4(const std::byte* p) {
  if (*p < std::byte{253}) return true;
  float values[32];
  decode_row(DType::kMXFP4, p, values, 32);
  for (const float& value : values)
    if (!finite_f32(reinterpret_cast<const std::byte*>(&value))) return false;
  return true;
}

/// Whether the scales of the block at `p` are finite (§9 has the layouts).
bool finite_block(DType type, const std::byte* p) {
  switch (type) {
    case DType::kF32: return finite_f32(p);
    case DType::kF16: return finite_f16(p);
    case DType::kBF16: return finite_bf16(p);
    case DType::kQ8_0:
    case DType::kIQ2_XXS: return finite_f16(p);
    case DType::kQ4_K: return finite_f16(p) && finite_f16(p + 2);
    case DType::kQ2_K: return finite_f16(p + 80) && finite_f16(p + 82);
    case DType::kMXFP4: return finite_mxfp4(p);
    case DType::kI32: return true;
  }
  check_failed("a supported dtype", __FILE__, __LINE__);
}

}  // namespace

std::optional<std::size_t> first_non_finite(DType type, const void* data, std::size_t elements) {
  const DTypeInfo& info = dtype_info(type);
  const auto* block = static_cast<const std::byte*>(data);
  for (std::size_t i = 0; i < elements; i += info.block_elements, block += info.block_bytes)
    if (!finite_block(type, block)) return i;
  return std::nullopt;
}

}  // namespace ds4
