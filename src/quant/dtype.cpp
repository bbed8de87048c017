#include "quant/dtype.h"

#include <array>

#include "base/check.h"

namespace ds4 {

namespace {
constexpr std::array kTypes = {
    DTypeInfo{DType::kF32, "f32", 1, 4},       DTypeInfo{DType::kF16, "f16", 1, 2},
    DTypeInfo{DType::kQ8_0, "q8_0", 32, 34},   DTypeInfo{DType::kQ2_K, "q2_k", 256, 84},
    DTypeInfo{DType::kQ4_K, "q4_k", 256, 144}, DTypeInfo{DType::kIQ2_XXS, "iq2_xxs", 256, 66},
    DTypeInfo{DType::kI32, "i32", 1, 4},       DTypeInfo{DType::kBF16, "bf16", 1, 2},
    DTypeInfo{DType::kMXFP4, "mxfp4", 32, 17},
};
}  // namespace

std::optional<DTypeInfo> dtype_info(std::uint32_t gguf_id) {
  for (const DTypeInfo& info : kTypes)
    if (static_cast<std::uint32_t>(info.type) == gguf_id) return info;
  return std::nullopt;
}

const DTypeInfo& dtype_info(DType type) {
  for (const DTypeInfo& info : kTypes)
    if (info.type == type) return info;
  check_failed("a supported dtype", __FILE__, __LINE__);
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeInfo& info : kTypes)
    if (info.name == name) return info.type;
  return std::nullopt;
}

}  // namespace ds4
