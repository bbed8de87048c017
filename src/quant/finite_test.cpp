#include "quant/finite.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "quant/codec.h"

namespace ds4 {
namespace {

// Decoding is the definition: a block with a value that is not finite is reported, whatever its bytes.
TEST(Finite, AgreesWithDecoding) {
  std::mt19937_64 rng(5);
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ2_K, DType::kQ4_K,
                           DType::kIQ2_XXS, DType::kMXFP4}) {
    const DTypeInfo& info = dtype_info(type);
    const std::size_t elements = info.block_elements;
    std::size_t reported = 0;
    for (int round = 0; round < 20000; ++round) {
      std::vector<std::byte> block(info.block_bytes);
      for (auto& b : block) b = static_cast<std::byte>(rng());
      if (round % 2 == 0)  // make special exponents common
        for (auto& b : block)
          if (rng() % 4 == 0) b = std::byte{rng() % 2 == 0 ? std::uint8_t{0xFF} : std::uint8_t{0x7C}};
      std::vector<float> values(elements);
      decode_row(type, block.data(), values.data(), elements);
      bool finite = true;
      for (const float v : values) finite = finite && std::isfinite(v);
      const auto found = first_non_finite(type, block.data(), elements);
      ASSERT_TRUE(finite || found.has_value()) << info.name;
      reported += found.has_value() ? 1 : 0;
    }
    EXPECT_GT(reported, 50U) << info.name;
    EXPECT_LT(reported, 20000U) << info.name;
  }
}

TEST(Finite, NamesTheBlock) {
  std::vector<float> values(320, 1.0F);
  std::vector<std::byte> row(row_bytes(DType::kQ8_0, values.size()));
  encode_row(DType::kQ8_0, values.data(), row.data(), values.size());
  EXPECT_EQ(first_non_finite(DType::kQ8_0, row.data(), values.size()), std::nullopt);
  const std::uint16_t nan = 0x7E00;
  std::memcpy(row.data() + 34 * 7, &nan, sizeof nan);
  EXPECT_EQ(first_non_finite(DType::kQ8_0, row.data(), values.size()), 224U);
  values[300] = INFINITY;
  EXPECT_EQ(first_non_finite(DType::kF32, values.data(), values.size()), 300U);
}

}  // namespace
}  // namespace ds4
