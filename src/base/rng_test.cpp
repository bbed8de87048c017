#include "base/rng.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <set>

namespace ds4 {
namespace {

// The first outputs of the published generator from state 0.
static_assert(splitmix64(0) == 0xE220A8397B1DCDAFu);
static_assert(splitmix64(0x9E3779B97F4A7C15u) == 0x6E789E6AA1B965F4u);

// A saved conversation continues the same way after an upgrade only if these never change.
TEST(Rng, KnownValues) {
  constexpr std::uint64_t kMax = UINT64_MAX;
  EXPECT_EQ(random_bits(0, 0), 0x238275BC38FCBE91u);
  EXPECT_EQ(random_bits(1, 0), 0xB18A02F46D8D86C3u);
  EXPECT_EQ(random_bits(0, 1), 0x44E5B98100C67FB0u);
  EXPECT_EQ(random_bits(0, 0, 1), 0x2F32A78496C67C60u);
  EXPECT_EQ(random_bits(42, 1000000, 3), 0xA241938A7C986CC7u);
  EXPECT_EQ(random_bits(kMax, kMax, kMax), 0x595B17F487C0E71Bu);
  EXPECT_DOUBLE_EQ(uniform(42, 1000000, 3), 0.6338131154157921);
}

TEST(Rng, EveryArgumentMatters) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed = 0; seed < 16; ++seed) {
    for (std::uint64_t position = 0; position < 16; ++position) {
      for (std::uint64_t stream = 0; stream < 16; ++stream) seen.insert(random_bits(seed, position, stream));
    }
  }
  EXPECT_EQ(seen.size(), 16u * 16u * 16u);
}

// Counts in 64 bins along one argument while the others stand still; chi-squared with 63 degrees of freedom is above
// 120 once in 100,000 times.
template <typename Draw>
double chi_squared(const Draw& draw) {
  constexpr int kDraws = 64000;
  std::array<int, 64> bins{};
  for (int i = 0; i < kDraws; ++i) {
    const double u = draw(static_cast<std::uint64_t>(i));
    EXPECT_GE(u, 0.0);
    EXPECT_LT(u, 1.0);
    ++bins[static_cast<std::size_t>(u * 64)];
  }
  double sum = 0;
  for (const int count : bins) sum += std::pow(count - kDraws / 64, 2) / (kDraws / 64);
  return sum;
}

TEST(Rng, EquidistributedAlongEveryArgument) {
  EXPECT_LT(chi_squared([](std::uint64_t i) { return uniform(7, i); }), 120);
  EXPECT_LT(chi_squared([](std::uint64_t i) { return uniform(i, 7); }), 120);
  EXPECT_LT(chi_squared([](std::uint64_t i) { return uniform(7, 7, i); }), 120);
  EXPECT_LT(chi_squared([](std::uint64_t i) { return uniform(i, i); }), 120) << "seed and position must not cancel";
  // Pairs of neighbours: the sum of two independent uniforms, taken modulo one, is uniform again.
  EXPECT_LT(chi_squared([](std::uint64_t i) { return std::fmod(uniform(7, i) + uniform(7, i + 1), 1.0); }), 120);
}

TEST(Rng, OneInputBitFlipsHalfOfTheOutputBits) {
  for (int bit = 0; bit < 64; ++bit) {
    int flipped = 0;
    for (std::uint64_t i = 0; i < 256; ++i) {
      flipped += std::popcount(random_bits(3, i) ^ random_bits(3, i ^ (std::uint64_t(1) << bit)));
    }
    EXPECT_NEAR(flipped / 256.0, 32.0, 2.0) << "bit " << bit;
  }
}

}  // namespace
}  // namespace ds4
