#include "base/checked.h"

#include <gtest/gtest.h>

#include <array>

namespace ds4 {
namespace {

constexpr std::uint64_t kMax = UINT64_MAX;

TEST(Checked, ExactWhenItFits) {
  EXPECT_EQ((Checked(3) * Checked(4) + Checked(5) - Checked(17)).value(), 0u);
  EXPECT_EQ((Checked(kMax) + Checked(0)).value(), kMax);
  EXPECT_EQ((Checked(1ull << 32) * Checked((1ull << 32) - 1)).value(), kMax - (1ull << 32) + 1);
}

TEST(Checked, OverflowIsInvalid) {
  EXPECT_FALSE((Checked(kMax) + Checked(1)).valid());
  EXPECT_FALSE((Checked(0) - Checked(1)).valid());
  EXPECT_FALSE((Checked(1ull << 32) * Checked(1ull << 32)).valid());
  EXPECT_EQ((Checked(kMax) * Checked(2)).value(), std::nullopt);
}

// A wrapped step must not come back to life, whichever side it is on.
TEST(Checked, OverflowIsSticky) {
  const Checked wrapped = Checked(kMax) + Checked(1);
  EXPECT_FALSE((wrapped * Checked(0)).valid());
  EXPECT_FALSE((Checked(0) * wrapped).valid());
  EXPECT_FALSE((wrapped + Checked(1)).valid());
  EXPECT_FALSE((Checked(1) + wrapped).valid());
  EXPECT_FALSE((wrapped - Checked(0)).valid());
  EXPECT_FALSE((Checked(9) - wrapped).valid());
  EXPECT_FALSE(wrapped.divided_exactly_by(1).valid());
  EXPECT_FALSE(wrapped.aligned_up(1).valid());
  EXPECT_FALSE(wrapped.fits(kMax));
}

TEST(Checked, Fits) {
  EXPECT_TRUE(Checked(10).fits(10));
  EXPECT_FALSE(Checked(11).fits(10));
}

TEST(Checked, DividesOnlyExactly) {
  EXPECT_EQ(Checked(512).divided_exactly_by(128).value(), 4u);
  EXPECT_FALSE(Checked(513).divided_exactly_by(128).valid());
  EXPECT_FALSE(Checked(513).divided_exactly_by(0).valid());
}

TEST(Checked, AlignsUp) {
  EXPECT_EQ(Checked(0).aligned_up(32).value(), 0u);
  EXPECT_EQ(Checked(1).aligned_up(32).value(), 32u);
  EXPECT_EQ(Checked(32).aligned_up(32).value(), 32u);
  EXPECT_EQ(Checked(33).aligned_up(24).value(), 48u);
  EXPECT_FALSE(Checked(1).aligned_up(0).valid());
  EXPECT_FALSE(Checked(kMax).aligned_up(32).valid());
}

// Against 128-bit arithmetic, around every place where something can wrap.
TEST(Checked, AgreesWithWideArithmetic) {
  constexpr std::array<std::uint64_t, 11> kEdges = {
      0, 1, 2, 3, (1ull << 31), (1ull << 32) - 1, (1ull << 32), (1ull << 32) + 1, (1ull << 63), kMax - 1, kMax};
  __extension__ using Wide = unsigned __int128;
  const auto expect = [](Checked found, Wide wide) {
    if (wide > kMax) {
      EXPECT_FALSE(found.valid());
    } else {
      EXPECT_EQ(found.value(), static_cast<std::uint64_t>(wide));
    }
  };
  for (const std::uint64_t a : kEdges) {
    for (const std::uint64_t b : kEdges) {
      expect(Checked(a) + Checked(b), Wide(a) + b);
      expect(Checked(a) * Checked(b), Wide(a) * b);
      if (a >= b) expect(Checked(a) - Checked(b), Wide(a) - b);
      EXPECT_EQ((Checked(a) - Checked(b)).valid(), a >= b);
    }
  }
}

}  // namespace
}  // namespace ds4
