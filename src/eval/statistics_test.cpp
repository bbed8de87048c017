#include "eval/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/rng.h"

namespace ds4::eval {
namespace {

TEST(Share, WilsonAsInTheTables) {
  // Known values: 8 of 10 and 0 of 20.
  const Estimate most = share(8, 10);
  EXPECT_DOUBLE_EQ(most.value, 0.8);
  EXPECT_NEAR(most.low, 0.490162, 1e-5);
  EXPECT_NEAR(most.high, 0.943317, 1e-5);
  const Estimate none = share(0, 20);
  EXPECT_EQ(none.low, 0);
  EXPECT_NEAR(none.high, 0.161125, 1e-5);
}

TEST(Share, NothingOfNothingSaysNothing) {
  const Estimate empty = share(0, 0);
  EXPECT_EQ(empty.low, 0);
  EXPECT_EQ(empty.high, 1);
}

TEST(BlockMean, TheValueIsTheMeanOverTokensNotOverBlocks) {
  const std::vector<float> values = {1, 1, 1, 1, 5};  // the last block has one value
  EXPECT_NEAR(block_mean(values, 4).value, 1.8, 1e-12);
}

TEST(BlockMean, IndependentValuesGetTheIntervalOfTheNormalDistribution) {
  std::vector<float> values;
  for (std::uint64_t i = 0; i < 4000; ++i) values.push_back(static_cast<float>(uniform(1, i)));
  const Estimate mean = block_mean(values, 1);
  const double wanted = 1.96 * std::sqrt(1.0 / 12 / 4000);
  EXPECT_NEAR(mean.value, 0.5, 0.02);
  EXPECT_NEAR((mean.high - mean.low) / 2, wanted, 0.1 * wanted);
  EXPECT_LT(mean.low, mean.value);
  EXPECT_GT(mean.high, mean.value);
}

TEST(BlockMean, BlocksOfEqualNeighboursWidenTheInterval) {
  std::vector<float> values;
  for (std::uint64_t i = 0; i < 4000; ++i) values.push_back(static_cast<float>(uniform(2, i / 40)));
  const Estimate alone = block_mean(values, 1);
  const Estimate together = block_mean(values, 40);
  EXPECT_GT(together.high - together.low, 4 * (alone.high - alone.low));
}

TEST(BlockMean, OneBlockKnowsNoSpread) {
  const std::vector<float> values = {1, 2, 3};
  const Estimate mean = block_mean(values, 64);
  EXPECT_DOUBLE_EQ(mean.value, 2);
  EXPECT_TRUE(std::isinf(mean.low) && mean.low < 0);
  EXPECT_TRUE(std::isinf(mean.high));
  EXPECT_EQ(block_mean({}, 64).value, 0);
}

TEST(BlockMean, NoBlockIsOfTwoDocuments) {
  const std::vector<float> values = {1, 1, 1, 5, 5, 5};
  const std::vector<std::size_t> ends = {3, 3, 6};
  const Estimate split = block_mean(values, 100, ends);
  EXPECT_EQ(split.value, 3);
  EXPECT_EQ(split.low, 1) << "two blocks: both draws may be the first";
  EXPECT_EQ(split.high, 5);
  // Blocks of two would put a 1 and a 5 together.
  EXPECT_EQ(block_mean(values, 2, ends).low, 1);
  EXPECT_GT(block_mean(values, 2).low, 1 - 1e-9);
}

}  // namespace
}  // namespace ds4::eval
