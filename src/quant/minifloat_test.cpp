#include "quant/minifloat.h"

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace ds4 {
namespace {

/// Walks every gap between neighbouring magnitudes: just below the middle, the middle, just above it. That is every
/// input at which a rounding rule can go wrong.
void check_rounding(const std::vector<float>& magnitudes, std::uint8_t sign,
                    const std::function<std::uint8_t(float)>& encode) {
  for (std::size_t code = 0; code + 1 < magnitudes.size(); ++code) {
    const float low = magnitudes[code];
    const float high = magnitudes[code + 1];
    const float middle = (low + high) / 2;
    const std::size_t even = code % 2 == 0 ? code : code + 1;
    for (const float s : {1.0f, -1.0f}) {
      const std::size_t bit = s < 0 ? sign : 0;
      EXPECT_EQ(encode(s * low), code | bit) << low;
      EXPECT_EQ(encode(s * std::nextafter(middle, 0.0f)), code | bit) << "below " << middle;
      EXPECT_EQ(encode(s * middle), even | bit) << "tie " << middle;
      EXPECT_EQ(encode(s * std::nextafter(middle, high)), (code + 1) | bit) << "above " << middle;
    }
  }
  const auto last = static_cast<std::uint8_t>(magnitudes.size() - 1);
  for (const float beyond :
       {magnitudes.back(), magnitudes.back() * 1.1f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(encode(beyond), last);
    EXPECT_EQ(encode(-beyond), last | sign);
  }
}

TEST(Minifloat, AllE4m3Codes) {
  std::vector<float> magnitudes;
  for (int code = 0; code < 0x7f; ++code) {
    const int exponent = code / 8;
    const double fraction = code % 8 / 8.0;
    const double expected = exponent == 0 ? std::pow(2.0, -6) * fraction : std::pow(2.0, exponent - 7) * (1 + fraction);
    EXPECT_EQ(e4m3_to_f32(static_cast<std::uint8_t>(code)), expected);
    EXPECT_EQ(e4m3_to_f32(static_cast<std::uint8_t>(code | 0x80)), -expected);
    magnitudes.push_back(static_cast<float>(expected));
  }
  EXPECT_EQ(magnitudes[1], std::ldexp(1.0f, -9));
  EXPECT_EQ(magnitudes.back(), 448.0f);
  EXPECT_TRUE(std::isnan(e4m3_to_f32(0x7f)));
  EXPECT_TRUE(std::isnan(e4m3_to_f32(0xff)));
  check_rounding(magnitudes, 0x80, f32_to_e4m3);
}

TEST(Minifloat, E4m3Extremes) {
  EXPECT_EQ(f32_to_e4m3(0.0f), 0);
  EXPECT_EQ(f32_to_e4m3(-0.0f), 0x80);
  EXPECT_EQ(f32_to_e4m3(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(f32_to_e4m3(std::numeric_limits<float>::quiet_NaN()) & 0x7f, 0x7f);
}

TEST(Minifloat, AllE2m1Codes) {
  const std::vector<float> magnitudes = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  for (int code = 0; code < 8; ++code) {
    EXPECT_EQ(e2m1_to_f32(static_cast<std::uint8_t>(code)), magnitudes[code]);
    EXPECT_EQ(e2m1_to_f32(static_cast<std::uint8_t>(code | 8)), -magnitudes[code]);
    EXPECT_EQ(e2m1_to_f32(static_cast<std::uint8_t>(code | 0xa0)), magnitudes[code]) << "the upper nibble is ignored";
  }
  check_rounding(magnitudes, 8, f32_to_e2m1);
}

TEST(Minifloat, E2m1TiesOfTheSpecification) {
  const auto rounded = [](float value) { return e2m1_to_f32(f32_to_e2m1(value)); };
  EXPECT_EQ(rounded(0.25f), 0.0f);
  EXPECT_EQ(rounded(0.75f), 1.0f);
  EXPECT_EQ(rounded(1.25f), 1.0f);
  EXPECT_EQ(rounded(1.75f), 2.0f);
  EXPECT_EQ(rounded(2.5f), 2.0f);
  EXPECT_EQ(rounded(3.5f), 4.0f);
  EXPECT_EQ(rounded(5.0f), 4.0f);
}

TEST(Minifloat, E8m0) {
  for (int code = 0; code < 255; ++code)
    EXPECT_EQ(static_cast<double>(e8m0_to_f32(static_cast<std::uint8_t>(code))), std::pow(2.0, code - 127));
  EXPECT_TRUE(std::isnan(e8m0_to_f32(255)));
}

TEST(Minifloat, Pow2CeilIsTheSmallestPowerNotBelow) {
  for (int exponent = -126; exponent <= 126; ++exponent) {
    const float power = std::ldexp(1.0f, exponent);
    EXPECT_EQ(pow2_ceil_e8m0(power), exponent + 127);
    EXPECT_EQ(pow2_ceil_e8m0(std::nextafter(power, 2 * power)), exponent + 128);
    EXPECT_EQ(pow2_ceil_e8m0(std::nextafter(2 * power, power)), exponent + 128);
  }
  std::mt19937 random(1);
  std::uniform_real_distribution<float> mantissa(1.0f, 2.0f);
  for (int i = 0; i < 10000; ++i) {
    const float value = std::ldexp(mantissa(random), static_cast<int>(random() % 240) - 120);
    const float power = e8m0_to_f32(pow2_ceil_e8m0(value));
    EXPECT_GE(power, value);
    EXPECT_LT(power / 2, value);
  }
  EXPECT_EQ(pow2_ceil_e8m0(std::numeric_limits<float>::infinity()), 255);
  EXPECT_EQ(pow2_ceil_e8m0(std::numeric_limits<float>::quiet_NaN()), 255);
}

}  // namespace
}  // namespace ds4
