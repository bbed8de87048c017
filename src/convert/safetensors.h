// A safetensors file, open for reading: an 8-byte header length, a JSON header, the data. parse() checks everything the
// header says: its length against the file, names, types, shapes, sizes, and that the tensors fill the data without gap
// or overlap. After that the object is immutable and any thread may read it. Data stay in the mapping.
//
// Errors name the file, the tensor or byte offset, what was expected and what was found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"

namespace ds4 {

enum class SafeType : std::uint8_t {
  kBool,
  kU8,
  kI8,
  kF8_E5M2,
  kF8_E4M3,
  kF8_E8M0,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64,
};

/// As in the header: "F8_E4M3".
std::string_view safe_type_name(SafeType type);
std::size_t safe_type_bytes(SafeType type);

/// One tensor: a view into the file. shape[0] is the slowest dimension. The data need not be aligned.
struct SafeTensor {
  std::string name;
  SafeType type{};
  std::vector<std::uint64_t> shape;
  std::uint64_t offset = 0;  // of the data, in the file
  std::span<const std::byte> data;
  std::uint64_t elements() const { return data.size() / safe_type_bytes(type); }
};

/// "F8_E4M3 [512, 128]", as error messages print a tensor.
std::string describe(const SafeTensor& tensor);
std::string describe_shape(std::span<const std::uint64_t> shape);

class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::string& path);
  /// The same checks over bytes in memory; `bytes` must outlive the object.
  static Result<SafetensorsFile> parse(std::span<const std::byte> bytes, const std::string& name);

  const std::string& path() const { return path_; }
  /// In the order of their data.
  std::span<const SafeTensor> tensors() const { return tensors_; }
  const SafeTensor* find(std::string_view name) const;

  /// An Error about `tensor` in this file: "model.safetensors: tensor x at byte 123: <what>".
  Error tensor_error(const SafeTensor& tensor, std::string_view what) const;

 private:
  std::optional<MappedFile> mapping_;
  std::string path_;
  std::vector<SafeTensor> tensors_;
  std::unordered_map<std::string_view, std::size_t> index_;
};

}  // namespace ds4
