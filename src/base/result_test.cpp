#include "base/result.h"

#include <gtest/gtest.h>

#include <memory>

namespace ds4 {
namespace {

Result<int> half_of(int value) {
  if (value % 2 != 0) return Error{ErrorCode::kUsage, "odd"};
  return value / 2;
}

Status must_be_even(int value) {
  DS4_RETURN_IF_ERROR(half_of(value));
  return {};
}

Result<int> quarter_of(int value) {
  DS4_ASSIGN_OR_RETURN(const int half, half_of(value));
  DS4_ASSIGN_OR_RETURN(const int quarter, half_of(half));
  return quarter;
}

TEST(Result, HoldsAValueOrAnError) {
  const Result<int> good = half_of(8);
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(*good, 4);
  const Result<int> bad = half_of(7);
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code, ErrorCode::kUsage);
  EXPECT_EQ(bad.error().message, "odd");
}

TEST(Result, CarriesMoveOnlyValues) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(5));
  const std::unique_ptr<int> taken = *std::move(result);
  EXPECT_EQ(*taken, 5);
}

TEST(Result, MacrosPassErrorsUp) {
  EXPECT_EQ(quarter_of(12).value(), 3);
  EXPECT_EQ(quarter_of(6).error().message, "odd");
  EXPECT_EQ(quarter_of(5).error().message, "odd");
  EXPECT_TRUE(must_be_even(2).ok());
  EXPECT_EQ(must_be_even(3).error().code, ErrorCode::kUsage);
}

TEST(Result, StatusIsSuccessByDefault) {
  EXPECT_TRUE(Status{}.ok());
  const Status failed = Error{ErrorCode::kIo, "disk"};
  EXPECT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().message, "disk");
}

TEST(Result, ExitStatusOfEveryCode) {
  EXPECT_EQ(exit_status(ErrorCode::kFailure), 1);
  EXPECT_EQ(exit_status(ErrorCode::kIo), 1);
  EXPECT_EQ(exit_status(ErrorCode::kUsage), 2);
  EXPECT_EQ(exit_status(ErrorCode::kBadModel), 3);
  EXPECT_EQ(exit_status(ErrorCode::kOutOfMemory), 4);
  EXPECT_EQ(exit_status(ErrorCode::kNoDevice), 5);
  EXPECT_EQ(exit_status(ErrorCode::kCancelled), 130);
}

TEST(ResultDeathTest, TheWrongSideIsABug) {
  EXPECT_DEATH((void)half_of(1).value(), "internal error: .*result.h:[0-9]+: ok\\(\\)");
  EXPECT_DEATH((void)half_of(2).error(), "internal error");
  EXPECT_DEATH((void)Status{}.error(), "internal error");
}

}  // namespace
}  // namespace ds4
