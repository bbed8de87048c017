#include "quant/codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace ds4 {
namespace {

using Block = std::vector<std::uint8_t>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

void put_f16(Block& block, std::size_t at, std::uint16_t half) { std::memcpy(&block[at], &half, 2); }

std::vector<float> decoded(DType type, const Block& block) {
  std::vector<float> values(block.size() / dtype_info(type).block_bytes * dtype_info(type).block_elements);
  decode_row(type, block.data(), values.data(), values.size());
  return values;
}

// Exact f16 numbers used as scales below.
constexpr std::uint16_t kHalfOne = 0x3c00;              // 1
constexpr std::uint16_t kHalfQuarter = 0x3400;          // 0.25
constexpr std::uint16_t kHalfMinusOneAndHalf = 0xbe00;  // -1.5

// ---- 16-bit floats

double f16_value(int code) {
  const int exponent = code >> 10 & 31;
  const double fraction = (code & 1023) / 1024.0;
  const double magnitude =
      exponent == 0 ? std::pow(2.0, -14) * fraction : std::pow(2.0, exponent - 15) * (1 + fraction);
  return (code & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(F16, EveryCodeRoundTrips) {
  for (int code = 0; code < 0x10000; ++code) {
    const float value = f16_to_f32(static_cast<std::uint16_t>(code));
    if ((code & 0x7c00) == 0x7c00) {
      if ((code & 0x3ff) != 0) {
        EXPECT_TRUE(std::isnan(value));
        EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value))));
        continue;
      }
      EXPECT_EQ(value, (code & 0x8000) != 0 ? -kInfinity : kInfinity);
    } else {
      ASSERT_EQ(static_cast<double>(value), f16_value(code)) << code;
    }
    ASSERT_EQ(f32_to_f16(value), code);
  }
}

TEST(F16, RoundsToNearestEvenInEveryGap) {
  for (int code = 0; code < 0x7c00; ++code) {
    const auto low = static_cast<float>(f16_value(code));
    const float high = code == 0x7bff ? 65536.0f : static_cast<float>(f16_value(code + 1));  // the gap before infinity
    const float middle = low + (high - low) / 2;
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, 0.0f)), code);
    ASSERT_EQ(f32_to_f16(middle), code % 2 == 0 ? code : code + 1);
    ASSERT_EQ(f32_to_f16(std::nextafter(middle, kInfinity)), code + 1);
    ASSERT_EQ(f32_to_f16(-middle), (code % 2 == 0 ? code : code + 1) | 0x8000);
  }
  EXPECT_EQ(f32_to_f16(1e9f), 0x7c00);
  EXPECT_EQ(f32_to_f16(-3e38f), 0xfc00);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(f32_to_f16(-0.0f), 0x8000);
}

TEST(Bf16, EveryCodeRoundTripsAndRoundsToEven) {
  for (std::uint32_t code = 0; code < 0x10000; ++code) {
    const float value = bf16_to_f32(static_cast<std::uint16_t>(code));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(value))));
      continue;
    }
    ASSERT_EQ(f32_to_bf16(value), code);
    if (std::isinf(value)) continue;
    // Between this code and the next one away from zero.
    const auto at = [&](std::uint32_t low_bits) { return std::bit_cast<float>(code << 16 | low_bits); };
    ASSERT_EQ(f32_to_bf16(at(0x7fff)), code);
    ASSERT_EQ(f32_to_bf16(at(0x8000)), code % 2 == 0 ? code : code + 1);
    ASSERT_EQ(f32_to_bf16(at(0x8001)), code + 1);
  }
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u))))) << "a NaN with low bits only";
}

// ---- Blocks: a hand-made one with known values, then random ones against another formulation

TEST(Q8_0, Decodes) {
  Block block(34);
  put_f16(block, 0, kHalfQuarter);
  for (int i = 0; i < 32; ++i) block[2 + i] = static_cast<std::uint8_t>(i * 8 - 128);
  const std::vector<float> values = decoded(DType::kQ8_0, block);
  EXPECT_EQ(values[0], -32.0f);
  EXPECT_EQ(values[16], 0.0f);
  EXPECT_EQ(values[31], 30.0f);
}

TEST(Q4_K, HandMade) {
  Block block(144, 0);
  put_f16(block, 0, kHalfOne);
  put_f16(block, 2, kHalfQuarter);
  block[4 + 0] = 0xc0 | 3;  // sub-block 0: scale 3; the top bits belong to scale 4
  block[4 + 4] = 0x40 | 5;  // sub-block 0: minimum 5; the top bits belong to minimum 4
  block[4 + 8] = 0x21;      // sub-block 4: scale 1 + 48, minimum 2 + 16
  block[16 + 0] = 0x97;     // element 0 is 7, element 32 is 9 (sub-block 1, scale 0)
  block[16 + 64] = 0x0f;    // element 128 is 15
  const std::vector<float> values = decoded(DType::kQ4_K, block);
  EXPECT_EQ(values[0], 3.0f * 7 - 0.25f * 5);
  EXPECT_EQ(values[1], -0.25f * 5);
  EXPECT_EQ(values[32], 0.0f);
  EXPECT_EQ(values[128], 49.0f * 15 - 0.25f * 18);
}

TEST(Q4_K, PackedFromFields) {
  std::mt19937 random(4);
  for (int round = 0; round < 50; ++round) {
    int scale[8], minimum[8], q[256];
    for (int j = 0; j < 8; ++j)
      scale[j] = static_cast<int>(random() % 64), minimum[j] = static_cast<int>(random() % 64);
    for (int& value : q) value = static_cast<int>(random() % 16);
    Block block(144, 0);
    put_f16(block, 0, kHalfMinusOneAndHalf);
    put_f16(block, 2, kHalfQuarter);
    for (int j = 0; j < 4; ++j) {
      block[4 + j] = static_cast<std::uint8_t>(scale[j] + scale[j + 4] / 16 * 64);
      block[8 + j] = static_cast<std::uint8_t>(minimum[j] + minimum[j + 4] / 16 * 64);
      block[12 + j] = static_cast<std::uint8_t>(scale[j + 4] % 16 + minimum[j + 4] % 16 * 16);
    }
    for (int e = 0; e < 256; ++e)
      block[16 + e / 64 * 32 + e % 32] += static_cast<std::uint8_t>(q[e] << (e % 64 < 32 ? 0 : 4));
    const std::vector<float> values = decoded(DType::kQ4_K, block);
    for (int e = 0; e < 256; ++e)
      ASSERT_EQ(values[e], static_cast<float>(-1.5 * scale[e / 32] * q[e] - 0.25 * minimum[e / 32])) << e;
  }
}

TEST(Q2_K, HandMade) {
  Block block(84, 0);
  put_f16(block, 80, kHalfOne);
  put_f16(block, 82, kHalfQuarter);
  block[0] = 0x23;                 // sub-block 0: scale 3, minimum 2
  block[3] = 0x01;                 // sub-block 3: elements 48..63
  block[15] = 0xf2;                // sub-block 15: elements 240..255
  block[16 + 0] = 0x02;            // element 0 is 2
  block[16 + 16 + 5] = 0x3 << 2;   // element 53 is 3
  block[16 + 32 + 31] = 0x1 << 6;  // element 255 is 1
  const std::vector<float> values = decoded(DType::kQ2_K, block);
  EXPECT_EQ(values[0], 3.0f * 2 - 0.25f * 2);
  EXPECT_EQ(values[1], -0.5f);
  EXPECT_EQ(values[53], 3.0f);
  EXPECT_EQ(values[254], -0.25f * 15);
  EXPECT_EQ(values[255], 2.0f - 0.25f * 15);
}

TEST(Q2_K, PackedFromFields) {
  std::mt19937 random(2);
  for (int round = 0; round < 50; ++round) {
    Block block(84, 0);
    put_f16(block, 80, kHalfQuarter);
    put_f16(block, 82, kHalfMinusOneAndHalf);
    for (int j = 0; j < 16; ++j) block[j] = static_cast<std::uint8_t>(random());
    int q[256];
    for (int e = 0; e < 256; ++e) {
      q[e] = static_cast<int>(random() % 4);
      block[16 + e / 128 * 32 + e % 32] |= static_cast<std::uint8_t>(q[e] << (e % 128 / 32 * 2));
    }
    const std::vector<float> values = decoded(DType::kQ2_K, block);
    for (int e = 0; e < 256; ++e)
      ASSERT_EQ(values[e], static_cast<float>(0.25 * (block[e / 16] % 16) * q[e] + 1.5 * (block[e / 16] / 16))) << e;
  }
}

TEST(IQ2_XXS, Signs) {
  for (unsigned index = 0; index < 128; ++index) {
    EXPECT_EQ(iq2_xxs_signs(index) & 0x7f, index);
    EXPECT_EQ(std::popcount(iq2_xxs_signs(index)) % 2, 0) << "an even number of minus signs";
  }
  EXPECT_EQ(iq2_xxs_signs(1), 129);
  EXPECT_EQ(iq2_xxs_signs(127), 255);
}

TEST(IQ2_XXS, HandMade) {
  Block block(66, 0);
  put_f16(block, 0, kHalfOne);
  block[2 + 0] = 1;            // grid entry 1: 43 first, then 8
  block[2 + 7] = 0x30;         // scale nibble 3
  block[2 + 4] = 0x01;         // octet 0: signs 0 and 7
  block[2 + 8 * 7 + 3] = 255;  // group 7, octet 3: the last entry, scale nibble 0
  const std::vector<float> values = decoded(DType::kIQ2_XXS, block);
  const float scale = 3.5f * 0.25f;
  EXPECT_EQ(values[0], -43 * scale);
  EXPECT_EQ(values[1], 8 * scale);
  EXPECT_EQ(values[7], -8 * scale);
  EXPECT_EQ(values[248], 0.125f * 8);
  EXPECT_EQ(values[255], 0.125f * 43);
}

TEST(IQ2_XXS, AgreesWithBitExtraction) {
  std::mt19937_64 random(8);
  for (int round = 0; round < 50; ++round) {
    Block block(66);
    for (std::uint8_t& byte : block) byte = static_cast<std::uint8_t>(random());
    put_f16(block, 0, kHalfMinusOneAndHalf);
    const std::vector<float> values = decoded(DType::kIQ2_XXS, block);
    for (int e = 0; e < 256; ++e) {
      std::uint64_t group = 0;
      for (int b = 7; b >= 0; --b) group = group * 256 + block[2 + e / 32 * 8 + b];
      const int octet = e % 32 / 8;
      const unsigned index = static_cast<unsigned>(group >> (32 + 7 * octet)) % 128;
      const bool minus = e % 8 < 7 ? (index >> (e % 8) & 1) != 0 : std::popcount(index) % 2 != 0;
      const auto level = reinterpret_cast<const std::uint8_t*>(iq2_xxs_grid() + (group >> (8 * octet)) % 256)[e % 8];
      const double expected = -1.5 * (2.0 * static_cast<double>(group >> 60) + 1) / 8 * level * (minus ? -1 : 1);
      ASSERT_EQ(values[e], static_cast<float>(expected)) << e;
    }
  }
}

TEST(MXFP4, AgreesWithTheDoubledTable) {
  constexpr int kDoubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  std::mt19937 random(3);
  for (const int exponent : {0, 1, 100, 127, 130, 252}) {
    Block block(17);
    for (std::uint8_t& byte : block) byte = static_cast<std::uint8_t>(random());
    block[0] = static_cast<std::uint8_t>(exponent);
    const std::vector<float> values = decoded(DType::kMXFP4, block);
    for (int e = 0; e < 32; ++e) {
      const int nibble = e < 16 ? block[1 + e] % 16 : block[1 + e - 16] / 16;
      ASSERT_EQ(values[e], static_cast<float>(std::ldexp(kDoubled[nibble], exponent - 128))) << e;
    }
  }
}

TEST(Rows, SeveralBlocksAndUnalignedSource) {
  std::mt19937 random(6);
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_K, DType::kQ2_K,
                           DType::kIQ2_XXS, DType::kMXFP4}) {
    const DTypeInfo& info = dtype_info(type);
    Block bytes(3 * info.block_bytes + 1);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() % 32);
    std::vector<float> row(3 * info.block_elements), one(info.block_elements);
    decode_row(type, bytes.data() + 1, row.data(), row.size());
    for (int b = 0; b < 3; ++b) {
      decode_row(type, bytes.data() + 1 + b * info.block_bytes, one.data(), one.size());
      EXPECT_TRUE(std::equal(one.begin(), one.end(), row.begin() + b * info.block_elements)) << info.name;
    }
  }
}

// ---- Encoding

TEST(Encode, Q8_0StaysWithinHalfAStep) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 2000; ++round) {
    const float size = std::ldexp(1.0f, static_cast<int>(random() % 24) - 18);  // scales from subnormal halves up
    std::vector<float> source(32), back(32);
    for (float& value : source) value = normal(random) * size;
    Block block(34);
    encode_row(DType::kQ8_0, source.data(), block.data(), 32);
    decode_row(DType::kQ8_0, block.data(), back.data(), 32);
    float absmax = 0;
    for (const float value : source) absmax = std::max(absmax, std::fabs(value));
    std::uint16_t half = 0;
    std::memcpy(&half, block.data(), 2);
    const float scale = f16_to_f32(half);
    if (absmax / 127.0f >= 0x1p-14f) {
      ASSERT_EQ(half, f32_to_f16(absmax / 127.0f));
    }
    for (int i = 0; i < 32; ++i) ASSERT_LE(std::fabs(source[i] - back[i]), 0.5f * scale * 1.00001f);
  }
}

TEST(Encode, Q8_0IsIdempotent) {
  std::vector<float> source(32), back(32);
  for (int i = 0; i < 32; ++i) source[i] = static_cast<float>(i * 8 - 127) * 0.25f;
  Block block(34);
  encode_row(DType::kQ8_0, source.data(), block.data(), 32);
  decode_row(DType::kQ8_0, block.data(), back.data(), 32);
  EXPECT_EQ(source, back) << "multiples of a representable scale are exact";
}

TEST(Encode, Q8_0Extremes) {
  const auto round_trip = [](float value) {
    std::vector<float> row(32, 0.0f);
    row[7] = value;
    Block block(34);
    encode_row(DType::kQ8_0, row.data(), block.data(), 32);
    decode_row(DType::kQ8_0, block.data(), row.data(), 32);
    return row;
  };
  EXPECT_EQ(round_trip(0.0f), std::vector<float>(32, 0.0f));
  EXPECT_EQ(round_trip(1e-12f), std::vector<float>(32, 0.0f)) << "the scale underflows f16";
  EXPECT_EQ(round_trip(1e30f)[7], 65504.0f * 127) << "the scale saturates";
  EXPECT_TRUE(std::isnan(round_trip(kInfinity)[0])) << "not plausible numbers";
  EXPECT_TRUE(std::isnan(round_trip(std::numeric_limits<float>::quiet_NaN())[0]));
}

TEST(Encode, FloatTypes) {
  const std::vector<float> source = {1.0f, -2.5f, 1.00048828125f, 3e-8f, 1e6f, 0.1f};
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    ASSERT_TRUE(can_encode(type));
    Block bytes(row_bytes(type, source.size()));
    std::vector<float> back(source.size());
    encode_row(type, source.data(), bytes.data(), source.size());
    decode_row(type, bytes.data(), back.data(), back.size());
    for (std::size_t i = 0; i < source.size(); ++i) {
      const float expected = type == DType::kF32   ? source[i]
                             : type == DType::kF16 ? f16_to_f32(f32_to_f16(source[i]))
                                                   : bf16_to_f32(f32_to_bf16(source[i]));
      EXPECT_EQ(back[i], expected);
    }
  }
  EXPECT_FALSE(can_encode(DType::kI32));
}

}  // namespace
}  // namespace ds4
