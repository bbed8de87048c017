// Rows of f32 from either kind of input: a weight of a checkpoint, or a matrix of a model file. A view: the input must
// outlive it. Any thread may read.
#pragma once

#include <cstdint>
#include <span>
#include <variant>

#include "convert/weight_reader.h"
#include "gguf/file.h"

namespace ds4 {

class RowSource {
 public:
  explicit RowSource(WeightReader weight) : source_(weight) {}
  /// Matrix `matrix` of a tensor [in, out] or [in, out, matrices]; a vector counts as one row.
  RowSource(const gguf::TensorInfo& tensor, std::uint64_t matrix);

  std::uint64_t rows() const;
  std::uint64_t columns() const;
  /// Decodes rows [first, first + count) into `out`, rows * columns values.
  void read(std::uint64_t first, std::uint64_t count, float* out) const;
  /// The rows as they are stored, when that is as `type`; otherwise empty.
  std::span<const std::byte> stored(DType type, std::uint64_t first, std::uint64_t count) const;

  std::uint64_t bytes() const;
  /// The checkpoint weight behind it, if it is one.
  const WeightReader* weight() const { return std::get_if<WeightReader>(&source_); }
  /// Gives the pages back to the system: an input is larger than memory, and mapped pages count as ours.
  void release() const;

 private:
  struct Matrix {
    DType type;
    std::uint64_t rows;
    std::uint64_t columns;
    std::span<const std::byte> data;
    std::span<const std::byte> slice(std::uint64_t first, std::uint64_t count) const {
      const std::size_t row = row_bytes(type, columns);
      return data.subspan(first * row, count * row);
    }
  };
  std::variant<WeightReader, Matrix> source_;
};

/// Of mapped bytes that will not be read again soon.
void release_pages(std::span<const std::byte> data);

}  // namespace ds4
