// A GGUF v3 model file, open for reading (spec section 5.1). Everything that the header says is validated in open():
// counts against the bytes that are there, types, shapes, alignment, offsets, overlaps, duplicates. After that the
// object is immutable and any thread may read it. Tensor data stay in the mapping and are not touched by open().
//
// Errors name the file, the field or tensor, the byte offset, what was expected and what was found. Nothing is
// allocated beyond a small multiple of the header bytes really present.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/result.h"
#include "quant/dtype.h"

namespace ds4::gguf {

enum class ValueType : std::uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};
std::string_view value_type_name(ValueType type);
/// Bytes of a number or bool of this type; 0 for strings and arrays.
std::uint32_t value_type_bytes(ValueType type);

/// One metadata entry: a view into the mapping. `element` and `count` describe an array; a scalar has count 1.
struct Value {
  std::string_view key;
  ValueType type;     // of the entry; kArray for arrays
  ValueType element;  // == type for scalars
  std::uint64_t count = 1;
  std::uint64_t offset = 0;        // of the payload in the file
  std::span<const std::byte> raw;  // the payload (array: the elements; string: its bytes without the length)
};

/// One tensor: a view into the mapping. dims[0] is contiguous ("in"), as in the file.
struct TensorInfo {
  std::string_view name;
  DType type;
  int n_dims = 0;  // 1..4
  std::uint64_t dims[4] = {1, 1, 1, 1};
  std::uint64_t offset = 0;  // of the data: absolute, in the file
  std::uint64_t entry = 0;   // of its entry in the directory: absolute, in the file
  std::span<const std::byte> data;
  std::uint64_t elements() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
};

/// "[4096, 1024] q8_0", as error messages print a tensor.
std::string describe(const TensorInfo& tensor);

class File {
 public:
  static Result<File> open(const std::string& path);
  /// The same checks over bytes in memory (tests, fuzzing); `bytes` must outlive the File.
  static Result<File> parse(std::span<const std::byte> bytes, const std::string& name);

  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }
  std::uint64_t alignment() const { return alignment_; }

  std::span<const Value> values() const { return values_; }
  const Value* find_value(std::string_view key) const;

  std::span<const TensorInfo> tensors() const { return tensors_; }
  /// Says that these bytes of tensors will hardly be read again: their pages leave this process's memory.
  void release(std::span<const std::byte> bytes) const {
    if (mapping_) mapping_->release(bytes);
  }
  const TensorInfo* find_tensor(std::string_view name) const;

  /// Oddities that are not errors, one sentence each: long unused stretches of the file.
  const std::vector<std::string>& notes() const { return notes_; }

  // Typed access. A missing key is nullopt; a present one of the wrong type or out of range is an Error that names
  // the file, the key, its byte offset, the expected and the found type or value.
  // Integers: any integer type that holds the value; floats: f32 or f64; bools: bool, or an integer 0/1.
  Result<std::optional<std::uint64_t>> get_uint(std::string_view key) const;
  Result<std::optional<double>> get_float(std::string_view key) const;
  Result<std::optional<bool>> get_bool(std::string_view key) const;
  Result<std::optional<std::string_view>> get_string(std::string_view key) const;
  /// Arrays. A scalar is not accepted for an array.
  Result<std::optional<std::vector<std::int64_t>>> get_int_array(std::string_view key) const;
  Result<std::optional<std::vector<float>>> get_float_array(std::string_view key) const;
  Result<std::optional<std::vector<std::string_view>>> get_string_array(std::string_view key) const;

  /// An Error about `key` in this file: "model.gguf: key x at byte 123: <what>"; without the byte if there is no such
  /// key.
  Error key_error(std::string_view key, std::string_view what) const;
  /// An Error about `tensor` in this file: "model.gguf: tensor x at byte 123: <what>" (its entry).
  Error tensor_error(const TensorInfo& tensor, std::string_view what) const;

 private:
  friend class Parser;
  std::optional<MappedFile> mapping_;
  std::string path_;
  std::uint64_t size_ = 0;
  std::uint64_t alignment_ = 32;
  std::vector<Value> values_;
  std::vector<TensorInfo> tensors_;
  // Sorted by name: unlike a hash table these cannot be made slow by chosen names.
  std::vector<std::uint32_t> values_by_key_;
  std::vector<std::uint32_t> tensors_by_name_;
  std::vector<std::string> notes_;
};

}  // namespace ds4::gguf
