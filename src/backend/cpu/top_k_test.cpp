#include "backend/cpu/top_k.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "backend/cpu/op_scratch.h"
#include "base/rng.h"

namespace ds4::cpu {
namespace {

std::vector<std::int32_t> selected(const std::vector<float>& scores, int k) {
  std::vector<std::uint32_t> histogram(kSelectBins);
  std::vector<std::int32_t> result(static_cast<std::size_t>(k), -1);
  select_top(scores.data(), static_cast<std::int64_t>(scores.size()), k, result.data(), histogram.data());
  return result;
}

std::vector<std::int32_t> sorted_selection(const std::vector<float>& scores, int k) {
  std::vector<std::int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return scores[a] > scores[b]; });
  order.resize(static_cast<std::size_t>(k));
  std::sort(order.begin(), order.end());
  return order;
}

TEST(TopK, AgreesWithSorting) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const int count = 2 + static_cast<int>(random_bits(seed, 0) % 700);
    const int k = 1 + static_cast<int>(random_bits(seed, 1) % static_cast<std::uint64_t>(count - 1));
    // Few distinct values make ties; many orders of magnitude use all bits.
    const int kinds = seed % 2 == 0 ? 7 : 100000;
    std::vector<float> scores;
    for (int i = 0; i < count; ++i) {
      const auto kind =
          static_cast<int>(random_bits(seed, 2, static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(kinds));
      scores.push_back(static_cast<float>(kind - kinds / 2) * (i % 3 == 0 ? 1e-20F : 1.0F));
    }
    ASSERT_EQ(selected(scores, k), sorted_selection(scores, k)) << "seed " << seed;
  }
}

TEST(TopK, TiesGoToTheLowerNumber) {
  EXPECT_EQ(selected({1, 5, 5, 5, 0}, 2), (std::vector<std::int32_t>{1, 2}));
  EXPECT_EQ(selected(std::vector<float>(1000, 0.0F), 3), (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(selected({-0.0F, 0.0F, -0.0F}, 2), (std::vector<std::int32_t>{0, 1}));
}

TEST(TopK, ExtremeValuesHaveTheirPlace) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(selected({-infinity, -1, infinity, 3e38F, -3e38F}, 2), (std::vector<std::int32_t>{2, 3}));
  EXPECT_EQ(selected({-infinity, -1, infinity, 3e38F, -3e38F}, 4), (std::vector<std::int32_t>{1, 2, 3, 4}));
}

}  // namespace
}  // namespace ds4::cpu
