#include "convert/tensor_copy.h"

#include <algorithm>
#include <span>

#include "base/text.h"
#include "quant/codec.h"

namespace ds4 {
namespace {

constexpr std::uint64_t kPieceElements = 1 << 20;

/// Nanoseconds for one element, roughly; only their ratios matter.
std::uint64_t cost_of(DType type) {
  switch (type) {
    case DType::kQ2_K: return 60;
    case DType::kQ4_K: return 60;
    case DType::kIQ2_XXS: return 60;
    case DType::kMXFP4: return 4;
    default: return 1;
  }
}

}  // namespace

Result<TensorCopy> TensorCopy::make(const InputTensor& input, DType type, const Imatrix* importance) {
  TensorCopy copy;
  copy.input_ = &input;
  copy.type_ = type;
  if (!input.rows.empty()) {
    const RowSource& source = input.rows[0];
    copy.pieces_ = input.rows.size() * ((source.rows() + copy.rows_per_piece() - 1) / copy.rows_per_piece());
  }
  const Imatrix::Entry* entry = importance == nullptr ? nullptr : importance->find(input.name);
  if (entry == nullptr || !uses_weights(type)) return copy;
  const std::uint64_t columns = input.dims[0];
  if (entry->size() != columns && entry->size() != columns * input.rows.size())
    return importance->entry_error(*entry, cat("expected ", columns, " values, or ", columns * input.rows.size(),
                                               " for ", input.rows.size(), " experts, found ", entry->size()));
  copy.entry_ = entry;
  return copy;
}

void TensorCopy::declare(gguf::Writer& writer) { index_ = writer.add_tensor(input_->name, type_, input_->dims); }

std::uint64_t TensorCopy::output_bytes() const { return row_bytes(type_, input_->elements()); }

std::uint64_t TensorCopy::rows_per_piece() const {
  const RowSource& source = input_->rows[0];
  return std::clamp<std::uint64_t>(kPieceElements / source.columns(), 1, source.rows());
}

TensorCopy::Rows TensorCopy::rows_of(std::uint64_t piece) const {
  const std::uint64_t per_piece = rows_per_piece();
  const std::uint64_t rows = input_->rows[0].rows();
  const std::uint64_t per_matrix = (rows + per_piece - 1) / per_piece;
  const std::uint64_t first = piece % per_matrix * per_piece;
  return {piece / per_matrix, first, std::min(per_piece, rows - first)};
}

std::uint64_t TensorCopy::piece_cost(std::uint64_t piece) const {
  if (input_->rows.empty()) return input_->elements();
  const Rows rows = rows_of(piece);
  return rows.count * input_->dims[0] * (input_->stored == type_ ? 1 : cost_of(type_));
}

Result<std::uint64_t> TensorCopy::run(std::uint64_t piece, gguf::Writer& writer) const {
  if (input_->rows.empty()) {
    DS4_ASSIGN_OR_RETURN(const std::vector<std::int32_t> ids, input_->experts_of());
    DS4_RETURN_IF_ERROR(writer.write_data(index_, 0, std::as_bytes(std::span(ids))));
    return std::uint64_t{ids.size() * sizeof(std::int32_t)};
  }
  const Rows rows = rows_of(piece);
  const RowSource& source = input_->rows[rows.matrix];
  const std::uint64_t columns = source.columns();
  const std::size_t row_size = row_bytes(type_, columns);
  const std::uint64_t offset = (rows.matrix * source.rows() + rows.first) * row_size;
  if (const auto stored = source.stored(type_, rows.first, rows.count); !stored.empty()) {
    DS4_RETURN_IF_ERROR(writer.write_data(index_, offset, stored));
    return std::uint64_t{stored.size()};
  }
  std::vector<float> values(rows.count * columns);
  source.read(rows.first, rows.count, values.data());
  std::vector<float> weights;  // of the columns
  if (entry_ != nullptr) {
    weights.resize(columns);
    Imatrix::read(*entry_, entry_->size() == columns ? 0 : rows.matrix * columns, weights);
  }
  std::vector<std::byte> encoded(rows.count * row_size);
  for (std::uint64_t row = 0; row < rows.count; ++row) {
    const float* source_row = values.data() + row * columns;
    encode_row(type_, source_row, encoded.data() + row * row_size, columns,
               entry_ == nullptr ? nullptr : weights.data());
  }
  DS4_RETURN_IF_ERROR(writer.write_data(index_, offset, encoded));
  return std::uint64_t{encoded.size()};
}

void TensorCopy::release() const {
  for (const RowSource& source : input_->rows) source.release();
}

}  // namespace ds4
