// One tensor on its way from the input to the model file, cut into pieces that any thread can do.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "convert/model_input.h"
#include "gguf/writer.h"
#include "quant/dtype.h"
#include "quant/imatrix.h"

namespace ds4 {

class TensorCopy {
 public:
  /// The input must outlive this. `importance` may be null; its entry must fit the tensor.
  static Result<TensorCopy> make(const InputTensor& input, DType type, const Imatrix* importance);

  void declare(gguf::Writer& writer);
  const InputTensor& input() const { return *input_; }
  DType type() const { return type_; }
  std::size_t index() const { return index_; }  // in the writer, after declare()
  std::uint64_t output_bytes() const;
  bool weighted() const { return entry_ != nullptr; }

  std::uint64_t pieces() const { return pieces_; }
  /// How much work a piece is, in units of copying one element: for telling how long the rest will take.
  std::uint64_t piece_cost(std::uint64_t piece) const;
  /// Reads, encodes and writes one piece, a few megabytes. Returns the bytes written.
  Result<std::uint64_t> run(std::uint64_t piece, gguf::Writer& writer) const;
  /// The input will not be read again.
  void release() const;

 private:
  struct Rows {
    std::uint64_t matrix;
    std::uint64_t first;
    std::uint64_t count;
  };
  Rows rows_of(std::uint64_t piece) const;
  std::uint64_t rows_per_piece() const;

  const InputTensor* input_ = nullptr;
  DType type_{};
  const Imatrix::Entry* entry_ = nullptr;
  std::size_t index_ = 0;
  std::uint64_t pieces_ = 1;
};

}  // namespace ds4
