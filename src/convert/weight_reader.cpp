#include "convert/weight_reader.h"

#include <algorithm>
#include <array>
#include <vector>

#include "base/text.h"
#include "quant/codec.h"
#include "quant/minifloat.h"

namespace ds4 {
namespace {

constexpr std::uint64_t kTile = 128;
constexpr std::uint64_t kFp4Block = 32;

using Table = std::array<float, 256>;

Table make_table(float (*decode)(std::uint8_t)) {
  Table table{};
  for (int code = 0; code < 256; ++code) table[code] = decode(static_cast<std::uint8_t>(code));
  return table;
}

const Table& e4m3_table() {
  static const Table table = make_table(e4m3_to_f32);
  return table;
}

const Table& e8m0_table() {
  static const Table table = make_table(e8m0_to_f32);
  return table;
}

const Table& e2m1_table() {  // indexed by a byte; the upper nibble is ignored
  static const Table table = make_table(e2m1_to_f32);
  return table;
}

bool is_plain(SafeType type) { return type == SafeType::kF32 || type == SafeType::kF16 || type == SafeType::kBF16; }

DType plain_dtype(SafeType type) {
  if (type == SafeType::kF32) return DType::kF32;
  return type == SafeType::kF16 ? DType::kF16 : DType::kBF16;
}

bool same_shape(std::span<const std::uint64_t> a, std::span<const std::uint64_t> b) { return std::ranges::equal(a, b); }

std::string name_of_scale(const std::string& weight) {
  constexpr std::string_view kSuffix = ".weight";
  const bool has_suffix = weight.ends_with(kSuffix);
  return weight.substr(0, weight.size() - (has_suffix ? kSuffix.size() : 0)) + ".scale";
}

}  // namespace

Result<WeightReader> WeightReader::open(const Checkpoint& checkpoint, const std::string& name,
                                        std::span<const std::uint64_t> shape) {
  const Checkpoint::Entry entry = checkpoint.find(name);
  if (!entry)
    return Error{ErrorCode::kBadModel, cat(escaped(checkpoint.directory(), 4096), ": tensor ", escaped(name),
                                           ": expected ", describe_shape(shape), ", found no such tensor")};
  const SafeTensor& tensor = *entry.tensor;
  const auto refuse = [&](std::string_view expected) {
    return entry.error(cat("expected ", expected, ", found ", describe(tensor)));
  };
  WeightReader reader;
  reader.rows_ = shape.size() == 2 ? shape[0] : 1;
  reader.columns_ = shape.back();
  reader.weight_ = &tensor;
  if (is_plain(tensor.type)) {
    if (!same_shape(tensor.shape, shape)) return refuse(cat("shape ", describe_shape(shape)));
    return reader;
  }
  const bool fp8 = tensor.type == SafeType::kF8_E4M3;
  const bool fp4 = tensor.type == SafeType::kI8;
  if (shape.size() != 2 || (!fp8 && !fp4))
    return refuse(cat("F32, F16 or BF16", shape.size() == 2 ? ", F8_E4M3, or I8 holding FP4," : "", " of shape ",
                      describe_shape(shape)));
  if (fp4 && shape[1] % kFp4Block != 0)
    return refuse(cat("no FP4 for rows of ", shape[1], " elements, which is not a multiple of ", kFp4Block));
  const std::vector<std::uint64_t> stored = {shape[0], fp4 ? shape[1] / 2 : shape[1]};
  if (!same_shape(tensor.shape, stored)) return refuse(cat("shape ", describe_shape(stored)));

  const std::vector<std::uint64_t> scale_shape =
      fp4 ? std::vector<std::uint64_t>{shape[0], shape[1] / kFp4Block}
          : std::vector<std::uint64_t>{(shape[0] + kTile - 1) / kTile, (shape[1] + kTile - 1) / kTile};
  const Checkpoint::Entry scale = checkpoint.find(name_of_scale(name));
  const std::string wanted = cat("F8_E8M0 ", describe_shape(scale_shape));
  if (!scale) return refuse(cat("its scales in ", escaped(name_of_scale(name)), " (", wanted, ")"));
  if (scale.tensor->type != SafeType::kF8_E8M0 || !same_shape(scale.tensor->shape, scale_shape))
    return scale.error(cat("expected ", wanted, ", found ", describe(*scale.tensor)));
  reader.scale_ = scale.tensor;
  reader.scale_columns_ = scale_shape[1];
  return reader;
}

void WeightReader::read(std::uint64_t first, std::uint64_t count, float* out) const {
  DS4_CHECK(first + count <= rows_);
  if (is_plain(weight_->type)) {
    const std::size_t row_size = columns_ * safe_type_bytes(weight_->type);
    decode_row(plain_dtype(weight_->type), weight_->data.data() + first * row_size, out, count * columns_);
    return;
  }
  for (std::uint64_t row = first; row < first + count; ++row, out += columns_)
    weight_->type == SafeType::kI8 ? read_fp4_row(row, out) : read_fp8_row(row, out);
}

void WeightReader::read_fp8_row(std::uint64_t row, float* out) const {
  const Table& values = e4m3_table();
  const std::byte* codes = weight_->data.data() + row * columns_;
  const std::byte* scales = scale_->data.data() + row / kTile * scale_columns_;
  for (std::uint64_t begin = 0; begin < columns_; begin += kTile) {
    const float scale = e8m0_table()[std::to_integer<std::uint8_t>(scales[begin / kTile])];
    const std::uint64_t end = std::min(begin + kTile, columns_);
    for (std::uint64_t i = begin; i < end; ++i) out[i] = values[std::to_integer<std::uint8_t>(codes[i])] * scale;
  }
}

void WeightReader::read_fp4_row(std::uint64_t row, float* out) const {
  const Table& values = e2m1_table();
  const std::byte* pairs = weight_->data.data() + row * columns_ / 2;
  const std::byte* scales = scale_->data.data() + row * scale_columns_;
  for (std::uint64_t i = 0; i < columns_; i += 2) {
    const float scale = e8m0_table()[std::to_integer<std::uint8_t>(scales[i / kFp4Block])];
    const auto pair = std::to_integer<std::uint8_t>(pairs[i / 2]);
    out[i] = values[pair] * scale;
    out[i + 1] = values[pair >> 4] * scale;
  }
}

}  // namespace ds4
