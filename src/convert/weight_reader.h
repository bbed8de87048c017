// One weight of a checkpoint as rows of f32, whatever it is stored in (spec sections 5.4, 9):
//   F32, F16, BF16   as they are
//   F8_E4M3 [out, in]    with X.scale F8_E8M0 [ceil(out/128), ceil(in/128)], one scale per tile
//   I8 [out, in/2]       two e2m1 per byte, the even element in the low nibble, with X.scale F8_E8M0 [out, in/32]
// A vector counts as one row. A view: the Checkpoint must outlive it. Any thread may read.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/result.h"
#include "convert/checkpoint.h"

namespace ds4 {

class WeightReader {
 public:
  /// Checks type, shape and scales of tensor `name`, which must have the logical `shape` ([out, in] or [n]).
  static Result<WeightReader> open(const Checkpoint& checkpoint, const std::string& name,
                                   std::span<const std::uint64_t> shape);

  std::uint64_t rows() const { return rows_; }
  std::uint64_t columns() const { return columns_; }

  /// Decodes rows [first, first + count) into `out`, rows * columns values.
  void read(std::uint64_t first, std::uint64_t count, float* out) const;

  /// What is behind the weight: the tensor itself, and its scales (empty without).
  std::string_view name() const { return weight_->name; }
  std::span<const std::byte> data() const { return weight_->data; }
  std::string_view scale_name() const { return scale_ == nullptr ? std::string_view() : scale_->name; }
  std::span<const std::byte> scales() const { return scale_ == nullptr ? std::span<const std::byte>() : scale_->data; }

 private:
  WeightReader() = default;
  void read_fp8_row(std::uint64_t row, float* out) const;
  void read_fp4_row(std::uint64_t row, float* out) const;

  const SafeTensor* weight_ = nullptr;
  const SafeTensor* scale_ = nullptr;
  std::uint64_t rows_ = 1;
  std::uint64_t columns_ = 0;
  std::uint64_t scale_columns_ = 0;
};

}  // namespace ds4
