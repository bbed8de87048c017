// Writing a GGUF v3 file, one tensor at a time, so that peak memory is one tensor. The header is planned first: all
// metadata and all tensor shapes are declared, then begin() writes the header, then write_data() fills the tensors in
// any order and in any pieces. The bytes go to PATH.part; finish() checks that every tensor is complete, syncs and
// renames. A Writer that is destroyed without finish() removes the partial file. One thread at a time; write_data() of
// different tensors may run in parallel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "quant/dtype.h"

namespace ds4::gguf {

class Writer {
 public:
  explicit Writer(std::string path, std::uint32_t alignment = 32);
  ~Writer();
  Writer(Writer&&) noexcept;
  Writer& operator=(Writer&&) noexcept;

  void add_u32(std::string_view key, std::uint32_t value);
  void add_u64(std::string_view key, std::uint64_t value);
  void add_f32(std::string_view key, float value);
  void add_bool(std::string_view key, bool value);
  void add_string(std::string_view key, std::string_view value);
  void add_i32_array(std::string_view key, std::span<const std::int32_t> values);
  void add_u32_array(std::string_view key, std::span<const std::uint32_t> values);
  void add_f32_array(std::string_view key, std::span<const float> values);
  void add_string_array(std::string_view key, std::span<const std::string> values);

  /// Declares a tensor; dims[0] is contiguous. Returns its index for write_data().
  std::size_t add_tensor(std::string_view name, DType type, std::span<const std::uint64_t> dims);
  std::uint64_t tensor_bytes(std::size_t tensor) const;
  /// Size of the finished file (known once everything is declared).
  std::uint64_t file_bytes() const;

  /// Creates PATH.part with its final size (a sparse file) and writes the header.
  Status begin();
  /// Writes `bytes` at `offset` inside the tensor.
  Status write_data(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> bytes);
  /// Leaves the tensor as a hole of zeros (synthetic files).
  void skip_data(std::size_t tensor);
  Status finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::gguf
