// Writing a GGUF v3 file, one tensor at a time, so that peak memory is one tensor. The header is planned first: all
// metadata and all tensor shapes are declared, then begin() writes the header, then write_data() fills the tensors in
// any order and in any pieces. The bytes go to PATH.part; finish() checks that every tensor is complete, syncs and
// renames. A Writer that is destroyed without finish() removes the partial file, unless it was told to keep it: then
// another Writer with the same declarations can resume() it. One thread at a time; write_data() may run in parallel.
//
// What the reader would refuse is refused here: begin() returns the first error of all declarations. Calls in the wrong
// order, or bytes outside a tensor, are bugs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/result.h"
#include "gguf/file.h"
#include "quant/dtype.h"

namespace ds4::gguf {

class Writer {
 public:
  /// `disk` must outlive the Writer. An alignment other than 32 is declared as general.alignment.
  explicit Writer(std::string path, std::uint32_t alignment = 32, FileSystem& disk = FileSystem::real());
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
  /// A copy of an entry of an open file, of any type.
  void add_value(const Value& value);

  /// Declares a tensor; dims[0] is contiguous. Returns its index for write_data().
  std::size_t add_tensor(std::string_view name, DType type, std::span<const std::uint64_t> dims);
  std::uint64_t tensor_bytes(std::size_t tensor) const;
  /// Size of the finished file (known once everything is declared).
  std::uint64_t file_bytes() const;

  /// Creates PATH.part with its final size (a sparse file) and writes the header.
  Status begin();
  /// In place of begin(): goes on with the PATH.part that another Writer kept or could not finish. An Error if there is
  /// none, or one with another header or size. What it holds of the tensors is for the caller to judge.
  Status resume();
  /// PATH.part stays when this Writer is destroyed without finish().
  void keep_partial();
  /// Where the bytes of a tensor begin in the file; after begin() or resume().
  std::uint64_t tensor_offset(std::size_t tensor) const;
  /// Writes `bytes` at `offset` inside the tensor.
  Status write_data(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> bytes);
  /// Leaves the tensor as it is: a hole of zeros (synthetic files), or what a resumed file holds.
  void skip_data(std::size_t tensor);
  Status finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4::gguf
