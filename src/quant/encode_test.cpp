// The searching encoders: how good they are on rows with known statistics, and that they find what can be found
// exactly.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "quant/block_search.h"
#include "quant/codec.h"
#include "quant/encode_block.h"
#include "quant/finite.h"

namespace ds4 {
namespace {

using Row = std::vector<float>;

constexpr DType kSearching[] = {DType::kQ2_K, DType::kQ4_K, DType::kIQ2_XXS, DType::kMXFP4};

std::vector<std::byte> encoded(DType type, const Row& row, const Row& weights = {}) {
  std::vector<std::byte> bytes(row_bytes(type, row.size()));
  encode_row(type, row.data(), bytes.data(), row.size(), weights.empty() ? nullptr : weights.data());
  return bytes;
}
Row decoded(DType type, const std::vector<std::byte>& bytes) {
  Row row(bytes.size() / dtype_info(type).block_bytes * dtype_info(type).block_elements);
  decode_row(type, bytes.data(), row.data(), row.size());
  return row;
}
Row round_trip(DType type, const Row& row, const Row& weights = {}) {
  return decoded(type, encoded(type, row, weights));
}
double error(const Row& row, const Row& other, const Row& weights = {}) {
  double sum = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double off = static_cast<double>(row[i]) - static_cast<double>(other[i]);
    sum += (weights.empty() ? 1.0 : static_cast<double>(weights[i])) * off * off;
  }
  return sum;
}
Row gaussian(std::size_t size, unsigned seed, float deviation = 0.02F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  Row row(size);
  for (float& value : row) value = normal(random);
  return row;
}
/// As importance matrices are: spread over a few powers of e.
Row spread_weights(std::size_t size, unsigned seed) {
  Row weights = gaussian(size, seed, 1.0F);
  for (float& weight : weights) weight = std::exp(weight);
  return weights;
}
std::string name_of(DType type) { return std::string(dtype_info(type).name); }

// ---- Quality

struct Bound {
  DType type;
  double plain;     // of the squared error over the squared values
  double weighted;  // the same, weighted
};

TEST(EncodeQuality, GaussianRows) {
  // A little above what is reached; docs/decisions/encoders.md compares with other encoders.
  const Bound bounds[] = {{DType::kQ2_K, 0.0690, 0.0540},
                          {DType::kQ4_K, 0.0050, 0.0042},
                          {DType::kIQ2_XXS, 0.1085, 0.0780},
                          {DType::kMXFP4, 0.0128, 0.0128}};
  const Row row = gaussian(std::size_t{256} * 64, 1);
  const Row weights = spread_weights(row.size(), 2);
  const Row zero(row.size());
  for (const Bound& bound : bounds) {
    EXPECT_LT(error(row, round_trip(bound.type, row)) / error(row, zero), bound.plain) << name_of(bound.type);
    EXPECT_LT(error(row, round_trip(bound.type, row, weights), weights) / error(row, zero, weights), bound.weighted)
        << name_of(bound.type);
  }
}

TEST(EncodeQuality, WeightsHelpWhereTheyCount) {
  const Row row = gaussian(std::size_t{256} * 32, 3);
  const Row weights = spread_weights(row.size(), 4);
  for (const DType type : kSearching) {
    ASSERT_TRUE(uses_weights(type));
    const Row with = round_trip(type, row, weights);
    const Row without = round_trip(type, row);
    // MXFP4 has nothing to choose but one of two scales.
    const double gain = type == DType::kMXFP4 ? 0.999 : 0.92;
    EXPECT_LT(error(row, with, weights), gain * error(row, without, weights)) << name_of(type);
    EXPECT_LT(error(row, without), error(row, with)) << name_of(type) << ": and cost where they do not";
  }
}

TEST(EncodeQuality, OnlyRatiosOfWeightsMatter) {
  const Row row = gaussian(std::size_t{256} * 4, 5);
  const Row weights = spread_weights(row.size(), 6);
  Row larger = weights;
  for (float& weight : larger) weight *= 0x1p20F;
  for (const DType type : kSearching) {
    EXPECT_EQ(encoded(type, row, weights), encoded(type, row, larger)) << name_of(type);
    EXPECT_EQ(encoded(type, row, Row(row.size(), 4.0F)), encoded(type, row)) << name_of(type);
    EXPECT_EQ(encoded(type, row, Row(row.size(), 0.0F)), encoded(type, row)) << name_of(type);
  }
}

TEST(EncodeQuality, SizeDoesNotMatter) {
  const Row row = gaussian(256, 7, 1.0F);
  Row small = row;
  for (float& value : small) value *= 0x1p-10F;
  for (const DType type : kSearching) {
    Row back = round_trip(type, small);
    for (float& value : back) value *= 0x1p10F;
    EXPECT_NEAR(error(row, back) / error(row, round_trip(type, row)), 1.0, 0.02) << name_of(type);
  }
}

// ---- What can be represented is found

TEST(EncodeExact, DecodedBlocksComeBack) {
  std::mt19937 random(8);
  for (const DType type : {DType::kQ2_K, DType::kQ4_K, DType::kIQ2_XXS}) {
    for (int round = 0; round < 20; ++round) {
      // Encoding a Gaussian row gives blocks that use their scales and codes as real ones do.
      const Row once = round_trip(type, gaussian(256, static_cast<unsigned>(random())));
      const Row twice = round_trip(type, once);
      EXPECT_LT(error(once, twice), 1e-3 * error(once, Row(256))) << name_of(type) << " " << round;
    }
  }
}

TEST(EncodeExact, KBlocksOfKnownParts) {
  // Every sub-block uses both its lowest and its highest code, and the largest scale and minimum are used.
  std::mt19937 random(9);
  for (const DType type : {DType::kQ2_K, DType::kQ4_K}) {
    const int length = type == DType::kQ2_K ? 16 : 32;
    const int top = type == DType::kQ2_K ? 3 : 15;
    const int steps = type == DType::kQ2_K ? 15 : 63;
    for (int round = 0; round < 50; ++round) {
      Row row(256);
      for (int j = 0; j < 256 / length; ++j) {
        const int scale = j == 0 ? steps : 1 + static_cast<int>(random()) % steps;
        const int minimum = j == 1 ? steps : static_cast<int>(random()) % (steps + 1);
        for (int i = 0; i < length; ++i) {
          const int code = i == 0 ? 0 : i == 1 ? top : static_cast<int>(random() % static_cast<unsigned>(top + 1));
          row[j * length + i] =
              0.03125F * static_cast<float>(std::abs(scale) * code) - 0.0625F * static_cast<float>(std::abs(minimum));
        }
      }
      EXPECT_LT(error(row, round_trip(type, row)), 2e-4 * error(row, Row(256))) << name_of(type) << " " << round;
    }
  }
}

TEST(EncodeExact, Iq2BlocksOfKnownParts) {
  std::mt19937 random(10);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::byte> block(66);
    for (std::byte& byte : block) byte = static_cast<std::byte>(random());
    const std::uint16_t d = f32_to_f16(0.001F);
    std::memcpy(block.data(), &d, sizeof d);
    for (int g = 0; g < 8; ++g)  // scales from 6 up, the largest in use: as far apart as real groups are
      block[2 + 8 * g + 7] = static_cast<std::byte>((g == 3 ? 15U : 6U + random() % 10) << 4 | (random() & 15U));
    const Row row = decoded(DType::kIQ2_XXS, block);
    EXPECT_EQ(round_trip(DType::kIQ2_XXS, row), row) << round;
  }
}

/// The best of all points and all signs of even parity, by trying them.
double best_octet(const float* x, const float* w, double scale) {
  double best = INFINITY;
  for (int point = 0; point < 256; ++point) {
    for (unsigned index = 0; index < 128; ++index) {
      double sum = 0;
      for (int i = 0; i < 8; ++i) {
        const double level = static_cast<double>(iq2_xxs_grid()[point] >> (8 * i) & 0xff);
        const double sign = (iq2_xxs_signs(index) >> i & 1) != 0 ? -1.0 : 1.0;
        const double off = static_cast<double>(x[i]) - sign * scale * level;
        sum += static_cast<double>(w[i]) * off * off;
      }
      best = std::min(best, sum);
    }
  }
  return best;
}

TEST(EncodeExact, OctetsAreTheBestThereAre) {
  const Row row = gaussian(std::size_t{256} * 2, 11, 1.0F);
  const Row weights = spread_weights(row.size(), 12);
  const std::vector<std::byte> bytes = encoded(DType::kIQ2_XXS, row, weights);
  const Row back = decoded(DType::kIQ2_XXS, bytes);
  for (int o = 0; o < 64; ++o) {
    const std::byte* block = bytes.data() + 66 * (o / 32);
    std::uint16_t d = 0;
    std::uint32_t word = 0;
    std::memcpy(&d, block, sizeof d);
    std::memcpy(&word, block + 2 + o % 32 / 4 * 8 + 4, sizeof word);
    const double scale = static_cast<double>(f16_to_f32(d)) * (2.0 * (word >> 28) + 1) / 8;
    double found = 0;
    for (int i = 8 * o; i < 8 * o + 8; ++i) {
      const double off = static_cast<double>(row[i]) - static_cast<double>(back[i]);
      found += static_cast<double>(weights[i]) * off * off;
    }
    EXPECT_LT(found, best_octet(&row[8 * o], &weights[8 * o], scale) * 1.002 + 1e-4) << o;
  }
}

TEST(EncodeExact, InstructionSetsAgree) {
  const Row row = gaussian(256, 13, 1.0F);
  const Row weights = spread_weights(256, 14);
  ScaledBlock block;
  block.load(row.data(), weights.data());
  const BlockSearch& plain = block_search(block_searches() - 1);
  EXPECT_STREQ(plain.name, "baseline");
  for (int i = 0; i < block_searches(); ++i) {
    const BlockSearch& search = block_search(i);
    for (const auto kernel : {&BlockSearch::q2_k, &BlockSearch::q4_k}) {
      KChoice expected{}, found{};
      (plain.*kernel)(block, expected);
      (search.*kernel)(block, found);
      EXPECT_EQ(std::memcmp(&expected, &found, sizeof found), 0) << search.name;
    }
    for (const bool odd : {false, true}) {
      GridFit expected, found;
      plain.grid_fit(weights.data(), weights.data() + 8, odd, expected);
      search.grid_fit(weights.data(), weights.data() + 8, odd, found);
      ASSERT_EQ(std::memcmp(&expected, &found, sizeof found), 0) << search.name;
      const float scales[3] = {0.02F, 0.05F, 0.2F};
      std::int32_t points[3], best[3];
      plain.grid_best(expected, scales, 3, best);
      search.grid_best(expected, scales, 3, points);
      EXPECT_TRUE(std::equal(points, points + 3, best)) << search.name;
    }
    GridCandidates candidates;
    for (int p = 0; p < kProbes; ++p) {
      for (int o = 0; o < kOctets; ++o) {
        candidates.a[p][o] = weights[static_cast<std::size_t>(32 * p + o)];
        candidates.q[p][o] = weights[static_cast<std::size_t>(255 - 32 * p - o)];
      }
    }
    float expected[kOctets], found[kOctets];
    plain.grid_errors(candidates, weights.data(), expected);
    search.grid_errors(candidates, weights.data(), found);
    EXPECT_TRUE(std::equal(found, found + kOctets, expected)) << search.name;
  }
}

// ---- Unusual rows

TEST(EncodeExtremes, Zero) {
  for (const DType type : kSearching) {
    const Row zero(256, 0.0F);
    EXPECT_EQ(round_trip(type, zero), zero) << name_of(type);
    if (type != DType::kMXFP4) {  // whose scale cannot be 0
      EXPECT_EQ(encoded(type, zero), std::vector<std::byte>(row_bytes(type, 256))) << name_of(type) << ": one form";
    }
    EXPECT_LT(error(zero, round_trip(type, Row(256, 1e-30F))), 1e-9) << name_of(type);
  }
}

TEST(EncodeExtremes, NotFiniteBecomesNan) {
  for (const DType type : kSearching) {
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      Row row = gaussian(512, 15);
      row[300] = bad;
      const auto bytes = encoded(type, row);
      EXPECT_TRUE(std::isnan(decoded(type, bytes)[300])) << name_of(type);
      EXPECT_TRUE(first_non_finite(type, bytes.data(), 512).has_value());
      EXPECT_FALSE(std::isnan(decoded(type, bytes)[0])) << name_of(type) << ": the block before is whole";
    }
  }
}

TEST(EncodeExtremes, RowsOfOneKind) {
  std::mt19937 random(16);
  for (const DType type : kSearching) {
    for (const float size : {1e-5F, 1.0F, 1000.0F}) {
      Row constant(256, size);
      Row negative(256, -size);
      Row single(256, 0.0F);
      single[77] = -size;
      Row positive = gaussian(256, 17, size);
      for (float& value : positive) value = std::fabs(value) + size;
      Row outlier = gaussian(256, 18, size);
      outlier[5] = 300 * size;
      for (const Row& row : {constant, negative, single, positive, outlier}) {
        const Row back = round_trip(type, row);
        EXPECT_EQ(first_non_finite(DType::kF32, back.data(), 256), std::nullopt);
        EXPECT_LT(error(row, back), error(row, Row(256))) << name_of(type) << " " << size << ": better than zeros";
      }
    }
  }
}

TEST(EncodeExtremes, BeyondTheRangeOfTheScale) {
  for (const DType type : {DType::kQ2_K, DType::kQ4_K, DType::kIQ2_XXS}) {
    const Row huge = gaussian(256, 19, 1e30F);
    const auto bytes = encoded(type, huge);
    EXPECT_EQ(first_non_finite(type, bytes.data(), 256), std::nullopt) << name_of(type) << ": saturates";
  }
}

TEST(EncodeExtremes, ColumnsThatDoNotMatter) {
  for (const DType type : kSearching) {
    Row row = gaussian(256, 20);
    Row weights(256, 1.0F);
    for (std::size_t i = 0; i < 256; i += 2) {
      row[i] *= 30;  // large values that nobody looks at
      weights[i] = 0;
    }
    EXPECT_LT(error(row, round_trip(type, row, weights), weights), error(row, round_trip(type, row), weights) + 1e-12)
        << name_of(type);
  }
}

// ---- MXFP4

float nearest_fp4(float value) {
  constexpr float kGrid[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  float best = 0;
  for (const float level : kGrid)
    if (std::fabs(std::fabs(value) - level) < std::fabs(std::fabs(value) - best)) best = level;
  return std::copysign(best, value);
}

TEST(Mxfp4, ValuesOnTheGridComeBack) {
  std::mt19937 random(21);
  const float grid[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  for (int round = 0; round < 2000; ++round) {
    Row row(32);
    const float scale = std::ldexp(1.0F, static_cast<int>(random() % 60) - 30);
    for (float& value : row) value = (random() % 2 == 0 ? -1.0F : 1.0F) * grid[random() % (1 + random() % 8)] * scale;
    ASSERT_EQ(round_trip(DType::kMXFP4, row), row);
  }
}

TEST(Mxfp4, NeverWorseThanTheOfficialRule) {
  int finer = 0;
  for (unsigned round = 0; round < 500; ++round) {
    const Row row = gaussian(32, 100 + round, 1.0F);
    float largest = 0;
    for (const float value : row) largest = std::max(largest, std::fabs(value));
    const float scale = std::exp2(std::ceil(std::log2(largest / 6)));
    Row official(32);
    for (int i = 0; i < 32; ++i) official[i] = scale * nearest_fp4(row[i] / scale);
    const double found = error(row, round_trip(DType::kMXFP4, row));
    ASSERT_LE(found, error(row, official) * 1.000001);
    finer += found < 0.999 * error(row, official) ? 1 : 0;
  }
  EXPECT_GT(finer, 20) << "sometimes clipping the largest pays";
}

}  // namespace
}  // namespace ds4
