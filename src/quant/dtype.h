// The element types of the tensors in a model file, and the size of their blocks (GGUF type ids, spec section 5.1, 9).
// A row of n elements takes n / block_elements blocks; n must be a multiple of block_elements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace ds4 {

enum class DType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ4_K = 12,
  kIQ2_XXS = 16,
  kI32 = 26,
  kBF16 = 30,
  kMXFP4 = 39,
};

struct DTypeInfo {
  DType type;
  std::string_view name;         // as messages and --type print it: "q8_0"
  std::uint32_t block_elements;  // elements in one block
  std::uint32_t block_bytes;     // bytes of one block
};

/// The description of a supported type; nullopt for every other id, retired ones included.
std::optional<DTypeInfo> dtype_info(std::uint32_t gguf_id);

/// The same for a value known to be supported.
const DTypeInfo& dtype_info(DType type);

/// The type with this name ("q8_0"), if supported.
std::optional<DType> dtype_from_name(std::string_view name);

/// Bytes of a row of `elements`, a multiple of the block.
inline std::size_t row_bytes(DType type, std::size_t elements) {
  const DTypeInfo& info = dtype_info(type);
  return elements / info.block_elements * info.block_bytes;
}

}  // namespace ds4
