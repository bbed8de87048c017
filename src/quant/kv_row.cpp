#include "quant/kv_row.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "quant/codec.h"
#include "quant/minifloat.h"

namespace ds4 {
namespace {

constexpr int kFp8Block = 64;
constexpr int kFp4Block = 32;

int blocks_of(int count, int block) { return (count + block - 1) / block; }

/// The scale code of one block. A NaN or an infinity in the block gives the NaN code, so that it stays visible.
/// The reference multiplies by the reciprocal of the format's maximum in f32 instead of dividing; the two can differ in
/// the last bit and then pick neighbouring scales.
std::uint8_t scale_code(const float* values, int count, float floor, float reciprocal) {
  float amax = floor;
  for (int i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) return 255;
    amax = std::max(amax, std::fabs(values[i]));
  }
  return pow2_ceil_e8m0(amax * reciprocal);
}

std::uint8_t fp8_scale_code(const float* values, int count) { return scale_code(values, count, 1e-4f, 1.0f / 448.0f); }
std::uint8_t fp4_scale_code(const float* values, int count) {
  return scale_code(values, count, 6.0f * 0x1p-126f, 1.0f / 6.0f);
}

std::uint8_t load_u8(const std::byte* at) { return std::to_integer<std::uint8_t>(*at); }

void encode_plain(KvFormat format, const float* row, int count, std::byte* main) {
  encode_row(format == KvFormat::kF32 ? DType::kF32 : DType::kF16, row, main, static_cast<std::size_t>(count));
}

void decode_plain(KvFormat format, const std::byte* main, int count, float* row) {
  decode_row(format == KvFormat::kF32 ? DType::kF32 : DType::kF16, main, row, static_cast<std::size_t>(count));
}

void encode_fp8(const float* values, int count, std::byte* codes, std::byte* scales) {
  for (int block = 0; block < blocks_of(count, kFp8Block); ++block) {
    const int begin = block * kFp8Block;
    const int end = std::min(begin + kFp8Block, count);
    const std::uint8_t code = fp8_scale_code(values + begin, end - begin);
    const float scale = e8m0_to_f32(code);
    scales[block] = std::byte{code};
    for (int i = begin; i < end; ++i) codes[i] = std::byte{f32_to_e4m3(values[i] / scale)};
  }
}

void decode_fp8(const std::byte* codes, const std::byte* scales, int count, float* values) {
  for (int i = 0; i < count; ++i)
    values[i] = e4m3_to_f32(load_u8(codes + i)) * e8m0_to_f32(load_u8(scales + i / kFp8Block));
}

void encode_fp4(const float* values, int count, std::byte* nibbles, std::byte* scales) {
  std::fill_n(nibbles, (count + 1) / 2, std::byte{0});
  for (int block = 0; block < blocks_of(count, kFp4Block); ++block) {
    const int begin = block * kFp4Block;
    const int end = std::min(begin + kFp4Block, count);
    const std::uint8_t code = fp4_scale_code(values + begin, end - begin);
    const float scale = e8m0_to_f32(code);
    scales[block] = std::byte{code};
    for (int i = begin; i < end; ++i) nibbles[i / 2] |= std::byte{f32_to_e2m1(values[i] / scale)} << (i % 2 * 4);
  }
}

void decode_fp4(const std::byte* nibbles, const std::byte* scales, int count, float* values) {
  for (int i = 0; i < count; ++i) {
    const auto nibble = static_cast<std::uint8_t>(load_u8(nibbles + i / 2) >> (i % 2 * 4));
    values[i] = e2m1_to_f32(nibble) * e8m0_to_f32(load_u8(scales + i / kFp4Block));
  }
}

}  // namespace

std::string_view kv_format_name(KvFormat format) {
  switch (format) {
    case KvFormat::kF32: return "f32";
    case KvFormat::kF16: return "f16";
    case KvFormat::kPacked: return "fp8";
  }
  check_failed("a KV format", __FILE__, __LINE__);
}

std::optional<KvFormat> kv_format_from_name(std::string_view name) {
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kF16, KvFormat::kPacked})
    if (kv_format_name(format) == name) return format;
  return std::nullopt;
}

RowLayout kv_row_layout(KvFormat format, int head_dim, int rope_dim) {
  DS4_CHECK(head_dim > 0 && rope_dim >= 0 && rope_dim <= head_dim);
  const auto dims = static_cast<std::uint32_t>(head_dim);
  if (format == KvFormat::kF32) return {dims * 4, 0};
  if (format == KvFormat::kF16) return {dims * 2, 0};
  const int rounded = head_dim - rope_dim;
  const int padded_scales = (blocks_of(rounded, kFp8Block) + 7) / 8 * 8;
  return {static_cast<std::uint32_t>(rounded + 2 * rope_dim), static_cast<std::uint32_t>(padded_scales)};
}

RowLayout index_row_layout(KvFormat format, int index_dim) {
  DS4_CHECK(index_dim > 0);
  const auto dims = static_cast<std::uint32_t>(index_dim);
  if (format == KvFormat::kF32) return {dims * 4, 0};
  if (format == KvFormat::kF16) return {dims * 2, 0};
  return {(dims + 1) / 2, static_cast<std::uint32_t>(blocks_of(index_dim, kFp4Block))};
}

void encode_kv_row(KvFormat format, const float* row, int head_dim, int rope_dim, std::byte* main, std::byte* scale) {
  if (format != KvFormat::kPacked) return encode_plain(format, row, head_dim, main);
  const int rounded = head_dim - rope_dim;
  std::fill_n(scale, kv_row_layout(format, head_dim, rope_dim).scale_bytes, std::byte{0});
  encode_fp8(row, rounded, main, scale);
  encode_row(DType::kBF16, row + rounded, main + rounded, static_cast<std::size_t>(rope_dim));
}

void decode_kv_row(KvFormat format, const std::byte* main, const std::byte* scale, int head_dim, int rope_dim,
                   float* row) {
  if (format != KvFormat::kPacked) return decode_plain(format, main, head_dim, row);
  const int rounded = head_dim - rope_dim;
  decode_fp8(main, scale, rounded, row);
  decode_row(DType::kBF16, main + rounded, row + rounded, static_cast<std::size_t>(rope_dim));
}

void encode_index_row(KvFormat format, const float* row, int index_dim, std::byte* main, std::byte* scale) {
  if (format != KvFormat::kPacked) return encode_plain(format, row, index_dim, main);
  std::vector<float> rotated(row, row + index_dim);
  hadamard(rotated.data(), index_dim);
  encode_fp4(rotated.data(), index_dim, main, scale);
}

void decode_index_row(KvFormat format, const std::byte* main, const std::byte* scale, int index_dim, float* row) {
  if (format != KvFormat::kPacked) return decode_plain(format, main, index_dim, row);
  decode_fp4(main, scale, index_dim, row);
}

void round_index_query(KvFormat format, float* query, int index_dim) {
  if (format != KvFormat::kPacked) return;
  hadamard(query, index_dim);
  round_fp4_blocks(query, index_dim);
}

void hadamard(float* values, int dim) {
  DS4_CHECK(dim > 0 && std::has_single_bit(static_cast<unsigned>(dim)));
  for (int stride = 1; stride < dim; stride *= 2) {
    for (int i = 0; i < dim; ++i) {
      if ((i & stride) != 0) continue;
      const float a = values[i];
      const float b = values[i + stride];
      values[i] = a + b;
      values[i + stride] = a - b;
    }
  }
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim)));
  for (int i = 0; i < dim; ++i) values[i] *= scale;
}

void round_fp8_blocks(float* values, int count) {
  for (int begin = 0; begin < count; begin += kFp8Block) {
    const int end = std::min(begin + kFp8Block, count);
    const float scale = e8m0_to_f32(fp8_scale_code(values + begin, end - begin));
    for (int i = begin; i < end; ++i) values[i] = e4m3_to_f32(f32_to_e4m3(values[i] / scale)) * scale;
  }
}

void round_fp4_blocks(float* values, int count) {
  for (int begin = 0; begin < count; begin += kFp4Block) {
    const int end = std::min(begin + kFp4Block, count);
    const float scale = e8m0_to_f32(fp4_scale_code(values + begin, end - begin));
    for (int i = begin; i < end; ++i) values[i] = e2m1_to_f32(f32_to_e2m1(values[i] / scale)) * scale;
  }
}

}  // namespace ds4
