#include "quant/kv_row.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "quant/codec.h"
#include "quant/minifloat.h"

namespace ds4 {
namespace {

std::vector<float> random_row(int count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> row(static_cast<std::size_t>(count));
  for (float& value : row) value = normal(random) * std::ldexp(1.0f, static_cast<int>(random() % 16) - 8);
  return row;
}

/// The rounding of spec 4.2 in double precision, with the nearest value searched among all of the format: no code
/// shared with the implementation.
std::vector<float> rounded_by_search(std::vector<float> values, int block, float floor, float maximum,
                                     const std::vector<double>& magnitudes) {
  for (std::size_t begin = 0; begin < values.size(); begin += static_cast<std::size_t>(block)) {
    const std::size_t end = std::min(begin + static_cast<std::size_t>(block), values.size());
    float amax = floor;
    for (std::size_t i = begin; i < end; ++i) amax = std::max(amax, std::fabs(values[i]));
    const float ratio = amax * (1.0f / maximum);
    double scale = 1.0;
    while (scale < ratio) scale *= 2;
    while (scale / 2 >= ratio) scale /= 2;
    for (std::size_t i = begin; i < end; ++i) {
      const double target = std::min(std::fabs(static_cast<double>(values[i])) / scale, magnitudes.back());
      std::size_t best = 0;
      for (std::size_t code = 1; code < magnitudes.size(); ++code) {
        const double distance = std::fabs(magnitudes[code] - target);
        const double best_distance = std::fabs(magnitudes[best] - target);
        if (distance < best_distance || (distance == best_distance && code % 2 == 0)) best = code;
      }
      values[i] = static_cast<float>(std::copysign(magnitudes[best] * scale, values[i]));
    }
  }
  return values;
}

std::vector<double> e4m3_magnitudes() {
  std::vector<double> magnitudes;
  for (int m = 0; m < 8; ++m) magnitudes.push_back(m / 512.0);
  for (int e = -6; e <= 8; ++e)
    for (int m = 0; m < (e == 8 ? 7 : 8); ++m) magnitudes.push_back(std::pow(2.0, e) * (8 + m) / 8);
  return magnitudes;
}

TEST(KvRow, Names) {
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kF16, KvFormat::kPacked})
    EXPECT_EQ(kv_format_from_name(kv_format_name(format)), format);
  EXPECT_EQ(kv_format_name(KvFormat::kPacked), "fp8");
  EXPECT_FALSE(kv_format_from_name("fp4"));
}

TEST(KvRow, LayoutOfTheShippedModels) {
  const RowLayout kv = kv_row_layout(KvFormat::kPacked, 512, 64);
  EXPECT_EQ(kv.main_bytes, 448u + 128u);
  EXPECT_EQ(kv.scale_bytes, 8u) << "seven scales and one byte of padding";
  EXPECT_EQ(index_row_layout(KvFormat::kPacked, 128).total(), 68u);
  EXPECT_EQ(kv_row_layout(KvFormat::kF32, 512, 64).total(), 2048u);
  EXPECT_EQ(kv_row_layout(KvFormat::kF16, 512, 64).total(), 1024u);
  EXPECT_EQ(index_row_layout(KvFormat::kF32, 128).total(), 512u);
  EXPECT_EQ(index_row_layout(KvFormat::kF16, 128).total(), 256u);
}

TEST(KvRow, Fp8GoldenValues) {
  std::vector<float> values(64);
  for (int i = 0; i < 64; ++i) values[i] = 3.0f * static_cast<float>(std::sin(static_cast<double>(i)));
  std::vector<std::byte> main(64), scale(8);
  encode_kv_row(KvFormat::kPacked, values.data(), 64, 0, main.data(), scale.data());
  EXPECT_EQ(e8m0_to_f32(std::to_integer<std::uint8_t>(scale[0])), 0x1p-7f);
  round_fp8_blocks(values.data(), 64);
  EXPECT_EQ(std::vector<float>(values.begin(), values.begin() + 8),
            (std::vector<float>{0.0f, 2.5f, 2.75f, 0.4375f, -2.25f, -3.0f, -0.8125f, 2.0f}));
}

TEST(KvRow, Fp4GoldenValues) {
  std::vector<float> values(32);
  for (int i = 0; i < 32; ++i) values[i] = static_cast<float>(std::sin(static_cast<double>(i)));
  round_fp4_blocks(values.data(), 32);
  EXPECT_EQ(std::vector<float>(values.begin(), values.begin() + 8),
            (std::vector<float>{0.0f, 0.75f, 1.0f, 0.125f, -0.75f, -1.0f, -0.25f, 0.75f}));
}

TEST(KvRow, RoundingAgreesWithASearchOverTheFormat) {
  const std::vector<double> e2m1 = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (const int count : {1, 31, 32, 33, 48, 64, 112, 448}) {
    for (unsigned seed = 0; seed < 20; ++seed) {
      const std::vector<float> row = random_row(count, seed);
      std::vector<float> fp8 = row;
      round_fp8_blocks(fp8.data(), count);
      EXPECT_EQ(fp8, rounded_by_search(row, 64, 1e-4f, 448.0f, e4m3_magnitudes())) << count;
      std::vector<float> fp4 = row;
      round_fp4_blocks(fp4.data(), count);
      EXPECT_EQ(fp4, rounded_by_search(row, 32, 6.0f * 0x1p-126f, 6.0f, e2m1)) << count;
    }
  }
}

TEST(KvRow, FloorsOfTheBlockMaximum) {
  // All values far below 1e-4: the scale is pow2ceil(1e-4 / 448) = 2^-22, so 2^-32 (a tie at half a step of 2^-31) is
  // 0.
  std::vector<float> tiny(64, 0x1p-32f);
  tiny[1] = 0x1.8p-31f;
  round_fp8_blocks(tiny.data(), 64);
  EXPECT_EQ(tiny[0], 0.0f);
  EXPECT_EQ(tiny[1], 0x1p-30f);
  std::vector<float> zero(64, 0.0f);
  round_fp8_blocks(zero.data(), 64);
  round_fp4_blocks(zero.data(), 64);
  EXPECT_EQ(zero, std::vector<float>(64, 0.0f));
  // The FP4 floor is where the scale reaches 2^-126, the smallest normal float.
  std::vector<float> small(32, 0x1p-130f);
  small[0] = 0x1p-126f;
  round_fp4_blocks(small.data(), 32);
  EXPECT_EQ(small[0], 0x1p-126f);
  EXPECT_EQ(small[1], 0.0f);
}

TEST(KvRow, ReciprocalAndClampAtAPowerOfTwo) {
  // 448 * 2^k sits exactly on a scale of 2^k; one step above it needs the next scale.
  for (const int k : {-10, -1, 0, 3}) {
    for (const float amax : {std::ldexp(448.0f, k), std::nextafter(std::ldexp(448.0f, k), 1e9f)}) {
      std::vector<float> row(64, 0.0f);
      row[0] = amax;
      std::vector<std::byte> main(64), scale(8);
      encode_kv_row(KvFormat::kPacked, row.data(), 64, 0, main.data(), scale.data());
      const float ratio = amax * (1.0f / 448.0f);
      const float stored = e8m0_to_f32(std::to_integer<std::uint8_t>(scale[0]));
      EXPECT_GE(stored, ratio);
      EXPECT_LT(stored / 2, ratio);
      round_fp8_blocks(row.data(), 64);
      EXPECT_EQ(row[0], std::ldexp(448.0f, k));
    }
  }
}

TEST(KvRow, NotFiniteStaysVisible) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> row(128, 1.0f);
    row[70] = bad;
    std::vector<float> fp4 = row;
    round_fp8_blocks(row.data(), 128);
    round_fp4_blocks(fp4.data(), 128);
    EXPECT_TRUE(std::isnan(row[70]));
    EXPECT_TRUE(std::isnan(fp4[70]));
    EXPECT_EQ(row[0], 1.0f) << "the other blocks are untouched";
    EXPECT_EQ(fp4[0], 1.0f);
  }
}

struct RowShape {
  int head_dim, rope_dim, scales;
};

TEST(KvRow, PackedKvRowIsRoundedRow) {
  for (const RowShape shape : {RowShape{512, 64, 7}, RowShape{64, 32, 1}, RowShape{128, 16, 2}, RowShape{96, 32, 1}}) {
    const RowLayout layout = kv_row_layout(KvFormat::kPacked, shape.head_dim, shape.rope_dim);
    for (unsigned seed = 0; seed < 10; ++seed) {
      const std::vector<float> row = random_row(shape.head_dim, seed);
      std::vector<std::byte> main(layout.main_bytes), scale(layout.scale_bytes, std::byte{0xee});
      encode_kv_row(KvFormat::kPacked, row.data(), shape.head_dim, shape.rope_dim, main.data(), scale.data());
      std::vector<float> decoded(row.size());
      decode_kv_row(KvFormat::kPacked, main.data(), scale.data(), shape.head_dim, shape.rope_dim, decoded.data());

      std::vector<float> expected = row;
      const int rounded = shape.head_dim - shape.rope_dim;
      round_fp8_blocks(expected.data(), rounded);
      for (int i = rounded; i < shape.head_dim; ++i) expected[i] = bf16_to_f32(f32_to_bf16(expected[i]));
      EXPECT_EQ(decoded, expected);
      for (std::size_t i = shape.scales; i < scale.size(); ++i) EXPECT_EQ(scale[i], std::byte{0}) << "padding";
    }
  }
}

TEST(KvRow, PackingIsLosslessOnRoundedRows) {
  const RowLayout layout = kv_row_layout(KvFormat::kPacked, 512, 64);
  const std::vector<float> row = random_row(512, 3);
  std::vector<std::byte> main(layout.main_bytes), scale(layout.scale_bytes);
  std::vector<float> once(512), twice(512);
  encode_kv_row(KvFormat::kPacked, row.data(), 512, 64, main.data(), scale.data());
  decode_kv_row(KvFormat::kPacked, main.data(), scale.data(), 512, 64, once.data());
  encode_kv_row(KvFormat::kPacked, once.data(), 512, 64, main.data(), scale.data());
  decode_kv_row(KvFormat::kPacked, main.data(), scale.data(), 512, 64, twice.data());
  EXPECT_EQ(once, twice);
}

TEST(KvRow, PackedIndexRowIsRotatedAndRounded) {
  for (const int dim : {16, 32, 64, 128}) {
    const RowLayout layout = index_row_layout(KvFormat::kPacked, dim);
    std::vector<float> row = random_row(dim, static_cast<unsigned>(dim));
    std::vector<std::byte> main(layout.main_bytes, std::byte{0xee}), scale(layout.scale_bytes);
    encode_index_row(KvFormat::kPacked, row.data(), dim, main.data(), scale.data());
    std::vector<float> decoded(row.size());
    decode_index_row(KvFormat::kPacked, main.data(), scale.data(), dim, decoded.data());
    round_index_query(KvFormat::kPacked, row.data(), dim);
    EXPECT_EQ(decoded, row) << "queries and rows pass through the same rounding";
  }
}

TEST(KvRow, IndexNibbleOrder) {
  // Element 1 of the rotated row is the only one set: it sits in the high nibble of byte 0.
  std::vector<float> row(32, 0.0f);
  row[1] = 6.0f;
  hadamard(row.data(), 32);  // encoding rotates back
  std::vector<std::byte> main(16), scale(1);
  encode_index_row(KvFormat::kPacked, row.data(), 32, main.data(), scale.data());
  std::vector<float> decoded(32);
  decode_index_row(KvFormat::kPacked, main.data(), scale.data(), 32, decoded.data());
  EXPECT_NEAR(decoded[1], 6.0f, 1e-5f);
  EXPECT_NE(std::to_integer<int>(main[0]) & 0xf0, 0);
  EXPECT_EQ(std::to_integer<int>(main[0]) & 0x07, 0);
}

TEST(KvRow, PlainFormats) {
  const std::vector<float> row = random_row(96, 5);
  std::vector<std::byte> main(96 * 4);
  std::vector<float> decoded(96);
  encode_kv_row(KvFormat::kF32, row.data(), 96, 32, main.data(), nullptr);
  decode_kv_row(KvFormat::kF32, main.data(), nullptr, 96, 32, decoded.data());
  EXPECT_EQ(decoded, row);
  encode_index_row(KvFormat::kF16, row.data(), 96, main.data(), nullptr);
  decode_index_row(KvFormat::kF16, main.data(), nullptr, 96, decoded.data());
  for (int i = 0; i < 96; ++i) EXPECT_EQ(decoded[i], f16_to_f32(f32_to_f16(row[i])));
  std::vector<float> query = row;
  round_index_query(KvFormat::kF16, query.data(), 96);
  round_index_query(KvFormat::kF32, query.data(), 96);
  EXPECT_EQ(query, row);
}

TEST(Hadamard, IsTheSylvesterMatrix) {
  for (const int dim : {1, 2, 32, 64, 128}) {
    const std::vector<float> input = random_row(dim, 9);
    std::vector<float> output = input;
    hadamard(output.data(), dim);
    for (int row = 0; row < dim; ++row) {
      double sum = 0;
      double magnitude = 0;
      for (int column = 0; column < dim; ++column) {
        const bool minus = std::popcount(static_cast<unsigned>(row & column)) % 2 != 0;
        sum += minus ? -input[column] : input[column];
        magnitude += std::fabs(input[column]);
      }
      EXPECT_NEAR(output[row], sum / std::sqrt(dim), 1e-6 * magnitude);
    }
  }
}

TEST(Hadamard, TwiceIsTheIdentityAndDotProductsAreKept) {
  const std::vector<float> a = random_row(128, 1);
  const std::vector<float> b = random_row(128, 2);
  std::vector<float> rotated_a = a, rotated_b = b;
  hadamard(rotated_a.data(), 128);
  hadamard(rotated_b.data(), 128);
  double before = 0, after = 0, norm = 0;
  for (int i = 0; i < 128; ++i) {
    before += static_cast<double>(a[i]) * b[i];
    after += static_cast<double>(rotated_a[i]) * rotated_b[i];
    norm += std::fabs(static_cast<double>(a[i]) * b[i]);
  }
  EXPECT_NEAR(before, after, 1e-4 * norm + 1e-3);
  hadamard(rotated_a.data(), 128);
  float largest = 0;
  for (const float value : a) largest = std::max(largest, std::fabs(value));
  for (int i = 0; i < 128; ++i) EXPECT_NEAR(rotated_a[i], a[i], 1e-5f * largest);
}

}  // namespace
}  // namespace ds4
