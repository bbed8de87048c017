#include "convert/weight_reader.h"

#include <cmath>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/test_checkpoint.h"

namespace ds4 {
namespace {

using ::testing::HasSubstr;
using Shape = std::vector<std::uint64_t>;

std::vector<std::uint8_t> random_bytes(std::size_t count, unsigned limit) {
  std::mt19937 random(static_cast<unsigned>(count));
  std::vector<std::uint8_t> bytes(count);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() % limit);
  return bytes;
}

/// e4m3 from its definition, in double.
double e4m3(unsigned code) {
  const double sign = (code & 0x80) != 0 ? -1 : 1;
  const int exponent = static_cast<int>(code / 8 % 16);
  const int mantissa = static_cast<int>(code % 8);
  return exponent == 0 ? sign * mantissa / 512 : sign * (8 + mantissa) / 8 * std::pow(2.0, exponent - 7);
}

struct Folder {
  TestFolder folder;
  Checkpoint open(const SafetensorsBuilder& builder) {
    folder.write("model.safetensors", builder.bytes());
    auto checkpoint = Checkpoint::open(folder.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    return std::move(checkpoint).value();
  }
};

TEST(WeightReader, Fp8WithTilesCutShort) {
  constexpr std::uint64_t kRows = 130, kColumns = 200;
  const auto codes = random_bytes(kRows * kColumns, 0x7f);
  const std::vector<std::uint8_t> scales = {120, 121, 130, 131};
  Folder folder;
  const Checkpoint checkpoint = folder.open(SafetensorsBuilder()
                                                .add("a.weight", "F8_E4M3", {kRows, kColumns}, codes)
                                                .add("a.scale", "F8_E8M0", {2, 2}, scales));
  const auto reader = WeightReader::open(checkpoint, "a.weight", Shape{kRows, kColumns});
  ASSERT_TRUE(reader.ok()) << reader.error().message;
  std::vector<float> values(3 * kColumns);
  reader->read(127, 3, values.data());
  for (std::uint64_t r = 0; r < 3; ++r) {
    for (std::uint64_t c = 0; c < kColumns; ++c) {
      const int scale = scales[(127 + r < 128 ? 0 : 2) + (c < 128 ? 0 : 1)];
      ASSERT_EQ(values[r * kColumns + c], e4m3(codes[(127 + r) * kColumns + c]) * std::pow(2.0, scale - 127))
          << r << " " << c;
    }
  }
}

TEST(WeightReader, Fp4LowNibbleFirst) {
  const auto bytes = random_bytes(3 * 32, 256);
  const std::vector<std::uint8_t> scales = {127, 128, 120, 121, 127, 130};
  Folder folder;
  const Checkpoint checkpoint =
      folder.open(SafetensorsBuilder().add("w.weight", "I8", {3, 32}, bytes).add("w.scale", "F8_E8M0", {3, 2}, scales));
  const auto reader = WeightReader::open(checkpoint, "w.weight", Shape{3, 64});
  ASSERT_TRUE(reader.ok()) << reader.error().message;
  std::vector<float> values(3 * 64);
  reader->read(0, 3, values.data());
  constexpr double kMagnitudes[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  for (int i = 0; i < 3 * 64; ++i) {
    const int nibble = i % 2 == 0 ? bytes[i / 2] % 16 : bytes[i / 2] / 16;
    const double value = (nibble < 8 ? 1 : -1) * kMagnitudes[nibble % 8] * std::pow(2.0, scales[i / 32] - 127);
    ASSERT_EQ(values[i], value) << i;
  }
}

TEST(WeightReader, PlainTypes) {
  Folder folder;
  const Checkpoint checkpoint = folder.open(SafetensorsBuilder()
                                                .add<float>("f32", "F32", {2}, {1.5f, -2})
                                                .add<std::uint16_t>("f16", "F16", {1, 2}, {0x3e00, 0xc000})
                                                .add<std::uint16_t>("bf16", "BF16", {2}, {0x3fc0, 0xc000}));
  for (const char* name : {"f32", "f16", "bf16"}) {
    const Shape shape = name == std::string("f16") ? Shape{1, 2} : Shape{2};
    const auto reader = WeightReader::open(checkpoint, name, shape);
    ASSERT_TRUE(reader.ok()) << reader.error().message;
    float values[2];
    reader->read(0, 1, values);
    EXPECT_EQ(values[0], 1.5f) << name;
    EXPECT_EQ(values[1], -2.0f) << name;
    EXPECT_TRUE(reader->scales().empty());
  }
}

TEST(WeightReader, SaysWhatIsWrong) {
  const auto zeros = [](std::size_t count) { return std::vector<std::uint8_t>(count); };
  Folder folder;
  const Checkpoint checkpoint = folder.open(SafetensorsBuilder()
                                                .add("plain", "F32", {2, 3}, zeros(24))
                                                .add("long", "I64", {2}, zeros(16))
                                                .add("bare.weight", "F8_E4M3", {2, 32}, zeros(64))
                                                .add("q.weight", "F8_E4M3", {2, 32}, zeros(64))
                                                .add("q.scale", "F8_E8M0", {1, 2}, zeros(2))
                                                .add("r.weight", "I8", {2, 16}, zeros(32))
                                                .add("r.scale", "F32", {2, 1}, zeros(8))
                                                .add("odd.weight", "I8", {2, 8}, zeros(16)));
  const auto error = [&](const char* name, const Shape& shape) {
    const auto reader = WeightReader::open(checkpoint, name, shape);
    return reader.ok() ? std::string() : reader.error().message;
  };
  EXPECT_THAT(error("gone", {1}), HasSubstr("tensor gone: expected [1], found no such tensor"));
  EXPECT_THAT(error("plain", {3, 2}), HasSubstr("tensor plain at byte"));
  EXPECT_THAT(error("plain", {3, 2}), HasSubstr("expected shape [3, 2], found F32 [2, 3]"));
  EXPECT_THAT(error("long", {2}), HasSubstr("expected F32, F16 or BF16 of shape [2], found I64 [2]"));
  EXPECT_THAT(error("bare.weight", {64}), HasSubstr("expected F32, F16 or BF16 of shape [64], found F8_E4M3"));
  EXPECT_THAT(error("bare.weight", {2, 32}), HasSubstr("expected its scales in bare.scale (F8_E8M0 [1, 1])"));
  EXPECT_THAT(error("bare.weight", {2, 64}), HasSubstr("expected shape [2, 64], found F8_E4M3 [2, 32]"));
  EXPECT_THAT(error("q.weight", {2, 32}), HasSubstr("tensor q.scale at byte"));
  EXPECT_THAT(error("q.weight", {2, 32}), HasSubstr("expected F8_E8M0 [1, 1], found F8_E8M0 [1, 2]"));
  EXPECT_THAT(error("r.weight", {2, 32}), HasSubstr("expected F8_E8M0 [2, 1], found F32 [2, 1]"));
  EXPECT_THAT(error("odd.weight", {2, 16}), HasSubstr("rows of 16 elements, which is not a multiple of 32"));
}

}  // namespace
}  // namespace ds4
