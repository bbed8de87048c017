#include "quant/random_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <set>
#include <vector>

#include "quant/codec.h"

namespace ds4 {
namespace {

TEST(RandomWeights, HaveTheSpreadOfTrainedOnes) {
  for (const DType type : {DType::kF16, DType::kQ8_0, DType::kQ2_K, DType::kQ4_K, DType::kIQ2_XXS, DType::kMXFP4}) {
    const DTypeInfo& info = dtype_info(type);
    std::vector<std::byte> blocks(info.block_bytes * (65536 / info.block_elements)), again(blocks.size());
    fill_random_weights(type, 7, blocks);
    fill_random_weights(type, 7, again);
    EXPECT_EQ(blocks, again);
    fill_random_weights(type, 8, again);
    EXPECT_NE(blocks, again);
    std::vector<float> values(65536);
    decode_row(type, blocks.data(), values.data(), values.size());
    double sum = 0, squares = 0;
    for (const float value : values) sum += value, squares += static_cast<double>(value) * value;
    EXPECT_NEAR(sum / 65536, 0, 0.002) << info.name;
    EXPECT_GT(std::sqrt(squares / 65536), 0.01) << info.name;
    EXPECT_LT(std::sqrt(squares / 65536), 0.04) << info.name;
  }
}

TEST(RandomWeights, ExpertsOfATokenDiffer) {
  std::vector<std::int32_t> ids(6 * 1000);
  fill_random_experts(3, 8, 6, ids);
  std::set<std::int32_t> all;
  for (std::size_t token = 0; token < 1000; ++token) {
    const std::set<std::int32_t> row(ids.begin() + 6 * token, ids.begin() + 6 * (token + 1));
    ASSERT_EQ(row.size(), 6u);
    all.insert(row.begin(), row.end());
  }
  EXPECT_EQ(all.size(), 8u);
  EXPECT_EQ(*all.begin(), 0);
}

TEST(RandomWeights, VectorsAreNormal) {
  std::vector<float> values(10000);
  fill_random_vector(1, 0.05f, values);
  double sum = 0, squares = 0;
  for (const float value : values) sum += value, squares += static_cast<double>(value) * value;
  EXPECT_NEAR(sum / 10000, 0, 0.002);
  EXPECT_NEAR(std::sqrt(squares / 10000), 0.05, 0.002);
}

}  // namespace
}  // namespace ds4
