// Files that lie. Every field of a small valid file is overwritten with every value that has ever hurt a parser, and
// the verdict is compared with an independent one; then one table per kind of lie.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>

#include "base/text.h"
#include "gguf/file.h"
#include "gguf/test_file.h"
#include "gguf/test_oracle.h"

namespace ds4::gguf {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

/// Every refusal is a bad model, and names file, place, byte, expectation and finding, in printable characters.
void expect_good_message(const Error& error, std::size_t file_size, const std::string& context) {
  EXPECT_EQ(error.code, ErrorCode::kBadModel) << context;
  const std::string& message = error.message;
  EXPECT_TRUE(is_printable_utf8(message)) << context << ": " << message;
  EXPECT_LT(message.size(), 600u) << context;
  const bool subject = message.starts_with("m.gguf: header at byte ") || message.starts_with("m.gguf: key ") ||
                       message.starts_with("m.gguf: tensor ");
  EXPECT_TRUE(subject) << context << ": " << message;
  EXPECT_THAT(message, HasSubstr(": expected ")) << context;
  EXPECT_THAT(message, HasSubstr(", found ")) << context;
  const std::size_t at = message.find(" at byte ");
  ASSERT_NE(at, std::string::npos) << context << ": " << message;
  EXPECT_LE(std::stoull(message.substr(at + 9)), file_size) << context << ": " << message;
}

std::string refusal(const std::vector<std::byte>& bytes) {
  const auto file = File::parse(bytes, "m.gguf");
  if (file.ok()) return "accepted";
  expect_good_message(file.error(), bytes.size(), "");
  return file.error().message;
}
std::string refusal(const TestFile& file) { return refusal(file.bytes()); }

/// True if the parser agrees with the oracle.
bool agrees(const std::vector<std::byte>& bytes, const std::string& context) {
  const auto file = File::parse(bytes, "m.gguf");
  const bool expected = TestOracle::accepts(bytes);
  EXPECT_EQ(file.ok(), expected) << context << ": " << (file.ok() ? "accepted" : file.error().message);
  if (!file.ok()) expect_good_message(file.error(), bytes.size(), context);
  return file.ok() == expected;
}

std::set<std::uint64_t> hostile_values(std::uint64_t original, std::uint64_t remaining) {
  std::set<std::uint64_t> values = {31, 33, 255, 256};
  for (const std::uint64_t base :
       {std::uint64_t{1}, std::uint64_t{4}, std::uint64_t{32}, std::uint64_t{1} << 16, std::uint64_t{1} << 21,
        std::uint64_t{1} << 31, std::uint64_t{1} << 32, std::uint64_t{1} << 63, std::uint64_t{0} - 1,
        std::uint64_t{0} - 31, original, remaining, remaining / 14, remaining / 33, remaining / 8})
    for (const std::uint64_t value : {base - 1, base, base + 1}) values.insert(value);
  return values;
}

TEST(BadFile, TheBaseFileIsGood) {
  EXPECT_EQ(refusal(small_test_file()), "accepted");
  EXPECT_TRUE(TestOracle::accepts(small_test_file().bytes()));
}

TEST(BadFile, EveryFieldTimesEveryHostileValue) {
  const TestFile file = small_test_file();
  const std::size_t size = file.bytes().size();
  int refused = 0;
  int cases = 0;
  for (const TestFile::Field& field : file.fields()) {
    std::uint64_t original = 0;
    std::memcpy(&original, file.bytes().data() + field.offset, field.width);
    for (const std::uint64_t value : hostile_values(original, size - field.offset - field.width)) {
      const auto bytes = file.with(field, value);
      if (!agrees(bytes, cat(field.name, " = ", value))) return;
      refused += !TestOracle::accepts(bytes);
      ++cases;
    }
  }
  EXPECT_GT(cases, 3000);
  EXPECT_GT(refused, 2000);
}

TEST(BadFile, PairsOfDimensionsAndOffsets) {
  const TestFile file = small_test_file();
  std::vector<TestFile::Field> sizes;
  for (const TestFile::Field& field : file.fields())
    if (field.name.find(" dim ") != std::string::npos || field.name.ends_with(" offset")) sizes.push_back(field);
  ASSERT_EQ(sizes.size(), 14u);
  const std::array<std::uint64_t, 9> values = {
      1, 32, 256, 1u << 31, 1ull << 32, (1ull << 32) + 1, 1ull << 62, 1ull << 63, 0 - 256ull};
  for (const auto& first : sizes)
    for (const auto& second : sizes)
      for (const std::uint64_t a : values)
        for (const std::uint64_t b : values) {
          if (first.offset >= second.offset) continue;
          auto bytes = file.with(first, a);
          std::memcpy(bytes.data() + second.offset, &b, second.width);
          if (!agrees(bytes, cat(first.name, " = ", a, ", ", second.name, " = ", b))) return;
        }
}

TEST(BadFile, EveryByteOfTheHeader) {
  const TestFile file = small_test_file();
  for (std::size_t i = 0; i < file.directory_end(); ++i)
    for (const unsigned change : {0x01u, 0x02u, 0x08u, 0x20u, 0x80u, 0xFFu}) {
      auto bytes = file.bytes();
      bytes[i] ^= static_cast<std::byte>(change);
      if (!agrees(bytes, cat("byte ", i, " xor ", change))) return;
    }
}

TEST(BadFile, CutAnywhere) {
  const TestFile file = small_test_file();
  const auto whole = file.bytes();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const std::vector<std::byte> bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    const auto cut = File::parse(bytes, "m.gguf");
    ASSERT_FALSE(cut.ok()) << length;
    expect_good_message(cut.error(), length, cat("cut at ", length));
  }
}

TEST(BadFile, CutDataSaysIncomplete) {
  const TestFile file = small_test_file();
  auto bytes = file.bytes();
  bytes.pop_back();
  const std::size_t field = file.field("d.f16 offset").offset;
  EXPECT_EQ(refusal(bytes),
            cat("m.gguf: tensor d.f16 at byte ", field, ": expected a file of at least ", bytes.size() + 1,
                " bytes for [4096] f16, found one of ", bytes.size(), " bytes: it may be incomplete"));
}

// --- placement (two tensors of 32 bytes) ----------------------------------------------------------------------------

std::string placed(std::uint64_t first, std::uint64_t second) {
  return refusal(TestFile().header(2, 0).tensor("a", {8}, 0, first).tensor("b", {8}, 0, second).data(128));
}

TEST(BadFile, Placement) {
  EXPECT_EQ(placed(0, 32), "accepted");
  EXPECT_EQ(placed(96, 0), "accepted");  // any order
  EXPECT_EQ(placed(0, 96), "accepted");
  EXPECT_THAT(
      placed(0, 0),
      HasSubstr("tensor b at byte 82: expected data after byte 128, the end of tensor a, found data at byte 96"));
  EXPECT_THAT(placed(0, 16), HasSubstr("tensor b at byte 82: expected an offset aligned to 32, found 16"));
  EXPECT_THAT(placed(1, 32), HasSubstr("tensor a at byte 49: expected an offset aligned to 32, found 1"));
  EXPECT_THAT(placed(0, 128), HasSubstr("expected a file of at least 256 bytes for [8] f32, found one of 224 bytes"));
  EXPECT_THAT(placed(0, 1u << 20), HasSubstr("it may be incomplete"));
  EXPECT_THAT(placed(0, 0 - 32ull), HasSubstr("tensor b at byte 82: expected data that end below 2^64 bytes"));
  EXPECT_THAT(placed(0, 0 - 64ull), HasSubstr("tensor b"));  // would start inside the metadata if it wrapped
}

TEST(BadFile, OverlapByOneBlock) {
  TestFile file;
  file.header(3, 0).tensor("a", {16}, 0, 0).tensor("b", {9}, 0, 64).tensor("c", {8}, 0, 96);
  EXPECT_THAT(refusal(file.data(256)), HasSubstr("tensor c"));
}

TEST(BadFile, SizesThatWrap) {
  const auto size = [](std::vector<std::uint64_t> dims, std::uint32_t type) {
    return refusal(TestFile().header(1, 0).tensor("t", dims, type, 0).data(64));
  };
  EXPECT_THAT(size({1ull << 32, 1ull << 32}, 0),
              HasSubstr("expected a size that fits in 64 bits, found [4294967296, 4294967296] f32"));
  EXPECT_THAT(size({1ull << 62}, 0), HasSubstr("64 bits"));                       // bytes wrap to 0
  EXPECT_THAT(size({1ull << 63, 2}, 0), HasSubstr("64 bits"));                    // elements wrap to 0
  EXPECT_THAT(size({(1ull << 32) + 256, 1ull << 32}, 10), HasSubstr("64 bits"));  // wraps to 256 << 32
  EXPECT_THAT(size({256, 1ull << 56, 1, 2}, 16), HasSubstr("64 bits"));
  EXPECT_THAT(size({0 - 32ull}, 8), HasSubstr("tensor t"));
}

// --- alignment
// --------------------------------------------------------------------------------------------------------

template <typename T>
std::string aligned(ValueType type, T value) {
  TestFile file;
  file.header(1, 1).scalar("general.alignment", type, value).tensor("t", {8}, 0, 0);
  return refusal(file.data(32, 1 << 20));
}

TEST(BadFile, Alignment) {
  for (const std::uint32_t good : {8u, 16u, 32u, 64u, 4096u, 1u << 20})
    EXPECT_EQ(aligned(ValueType::kU32, good), "accepted") << good;
  for (const std::uint32_t bad : {0u, 1u, 2u, 3u, 4u, 13u, 24u, 33u, (1u << 20) + 1, 1u << 21, 1u << 31, ~0u})
    EXPECT_THAT(
        aligned(ValueType::kU32, bad),
        StartsWith(
            cat("m.gguf: key general.alignment at byte 53: expected a power of two from 8 to 1048576, found ", bad)));
  EXPECT_EQ(aligned(ValueType::kU64, std::uint64_t{64}), "accepted");
  EXPECT_EQ(aligned(ValueType::kI32, std::int32_t{64}), "accepted");
  EXPECT_THAT(aligned(ValueType::kI32, std::int32_t{-32}), HasSubstr("found -32"));
  EXPECT_THAT(aligned(ValueType::kF32, 32.0f), HasSubstr("expected an integer, found a value of type f32"));
  EXPECT_THAT(aligned(ValueType::kBool, std::uint8_t{1}), HasSubstr("found a value of type bool"));
  TestFile text;
  text.header(0, 1).string("general.alignment", "32");
  EXPECT_THAT(refusal(text), HasSubstr("expected an integer, found a value of type string"));
  TestFile array;
  array.header(0, 1).array("general.alignment", ValueType::kU32, std::vector<std::uint32_t>{32});
  EXPECT_THAT(refusal(array), HasSubstr("expected an integer, found an array of u32"));
}

// --- types and dimensions
// ---------------------------------------------------------------------------------------------

TEST(BadFile, TensorTypes) {
  const std::set<std::uint32_t> supported = {0, 1, 8, 10, 12, 16, 26, 30, 39};
  std::vector<std::uint32_t> ids(256);
  for (std::uint32_t id = 0; id < 256; ++id) ids[id] = id;
  ids.insert(ids.end(), {256, 1u << 16, 1u << 31, ~0u});
  for (const std::uint32_t id : ids) {
    TestFile file;
    file.header(1, 0).tensor("t", {256}, id, 0);
    const std::string message = refusal(file.data(1024));
    if (supported.contains(id)) EXPECT_EQ(message, "accepted") << id;
    else
      EXPECT_THAT(message, HasSubstr(cat("m.gguf: tensor t at byte 45: expected f32, f16, bf16, q8_0, q4_k, q2_k, "
                                         "iq2_xxs, mxfp4 or i32, found type id ",
                                         id, " (")))
          << id;
  }
  const auto type = [](std::uint32_t id) {
    return refusal(TestFile().header(1, 0).tensor("t", {256}, id, 0).data(1024));
  };
  EXPECT_THAT(type(14), HasSubstr("type id 14 (q6_k)"));
  EXPECT_THAT(type(31), HasSubstr("type id 31 (retired)"));
  EXPECT_THAT(type(23), HasSubstr("type id 23 (iq4_xs)"));
  EXPECT_THAT(type(29), HasSubstr("type id 29 (iq1_m)"));
  EXPECT_THAT(type(200), HasSubstr("type id 200 (unknown)"));
}

TEST(BadFile, Dimensions) {
  const auto dims = [](std::vector<std::uint64_t> sizes, std::uint32_t type = 0) {
    return refusal(TestFile().header(1, 0).tensor("t", sizes, type, 0).data(4096));
  };
  EXPECT_EQ(dims({1}), "accepted");
  EXPECT_EQ(dims({1, 2, 3, 4}), "accepted");
  EXPECT_THAT(dims({}), HasSubstr("tensor t at byte 33: expected 1 to 4 dimensions, found 0"));
  EXPECT_THAT(dims({1, 1, 1, 1, 1}), HasSubstr("expected 1 to 4 dimensions, found 5"));
  EXPECT_THAT(dims({0}), HasSubstr("tensor t at byte 37: expected dimension 0 of at least 1, found 0"));
  EXPECT_THAT(dims({4, 0}), HasSubstr("tensor t at byte 45: expected dimension 1 of at least 1, found 0"));
  for (const auto& [type, block] : {std::pair{8u, 32u}, {10u, 256u}, {12u, 256u}, {16u, 256u}, {39u, 32u}}) {
    EXPECT_EQ(dims({block, 2}, type), "accepted");
    EXPECT_THAT(dims({block / 2, 2}, type),
                HasSubstr(cat("tensor t at byte 37: expected a first dimension in blocks of ", block)));
    EXPECT_THAT(dims({block + 1}, type), HasSubstr(cat(", found ", block + 1)));
  }
}

// --- names
// ------------------------------------------------------------------------------------------------------------

std::string key_named(std::string_view key) {
  return refusal(TestFile().header(0, 1).scalar(key, ValueType::kU64, std::uint64_t{0}));
}
std::string tensor_named(std::string_view name) {
  return refusal(TestFile().header(1, 0).tensor(name, {8}, 0, 0).data(32));
}

TEST(BadFile, Names) {
  const std::string longest(65535, 'k');
  for (const auto& named : {key_named, tensor_named}) {
    for (const std::string& good : {std::string("a"), std::string("ключ｜😀"), std::string("a \"b\" \\c"), longest})
      EXPECT_EQ(named(good), "accepted");
    EXPECT_THAT(named(""), HasSubstr("#0 at byte 24: expected a name of 1 to 65535 bytes, found 0 bytes"));
    EXPECT_THAT(named(longest + "k"), HasSubstr("expected a name of 1 to 65535 bytes, found 65536 bytes"));
    EXPECT_THAT(named(std::string_view("a\0b", 3)),
                HasSubstr("#0 at byte 32: expected a name of printable UTF-8 characters, found \"a\\x00b\""));
    EXPECT_THAT(named("\x1b[31mred"), HasSubstr("found \"\\x1b[31mred\""));
    EXPECT_THAT(named("two\nlines"), HasSubstr("found \"two\\x0alines\""));
    EXPECT_THAT(named("\xc2\x9b"), HasSubstr("found \"\\xc2\\x9b\""));
    EXPECT_THAT(named("\xc0\x80"), HasSubstr("found \"\\xc0\\x80\""));
    EXPECT_THAT(named("del\x7f"), HasSubstr("found \"del\\x7f\""));
  }
}

TEST(BadFile, LongNamesAreCutInMessages) {
  const std::string name(5000, 'n');
  const std::string message = refusal(TestFile().header(0, 1).scalar(name, ValueType{77}, std::uint8_t{0}));
  EXPECT_THAT(message, HasSubstr("nnn... at byte 5032: expected a value type from 0 to 12, found type id 77"));
}

TEST(BadFile, Duplicates) {
  TestFile keys;
  keys.header(0, 3).scalar("k", ValueType::kU8, std::uint8_t{1}).scalar("a", ValueType::kU8, std::uint8_t{1});
  keys.scalar("k", ValueType::kU32, 2u);
  EXPECT_THAT(refusal(keys),
              HasSubstr("m.gguf: key k at byte 60: expected every key once, found it already as key #0"));
  TestFile tensors;
  tensors.header(2, 0).tensor("t", {8}, 0, 0).tensor("t", {8}, 0, 32).data(64);
  EXPECT_THAT(refusal(tensors),
              HasSubstr("m.gguf: tensor t at byte 57: expected every tensor once, found it already as tensor #0"));
}

// --- arrays, bools
// ----------------------------------------------------------------------------------------------------

TEST(BadFile, NestedArrays) {
  TestFile deep;
  deep.header(0, 1).array("k", ValueType::kArray, std::vector<std::uint32_t>{});
  for (int level = 0; level < 100; ++level) deep.put("", ValueType::kArray).put<std::uint64_t>("", 1);
  EXPECT_THAT(
      refusal(deep.with(deep.field("k count"), 1)),
      HasSubstr("m.gguf: key k at byte 37: expected an array of numbers, bools or strings, found an array of arrays"));
  EXPECT_THAT(refusal(deep.with(deep.field("k count"), 1ull << 40)), HasSubstr("array of arrays"));
}

TEST(BadFile, ArrayCounts) {
  TestFile file;
  file.header(0, 1).array("k", ValueType::kString, std::vector<std::string>{"", ""});
  const auto count = [&](std::uint64_t value) { return refusal(file.with(file.field("k count"), value)); };
  EXPECT_EQ(count(2), "accepted");
  EXPECT_EQ(count(1), "accepted");  // the rest is padding before no data
  EXPECT_THAT(count(3), HasSubstr("key k at byte 41: expected at least 24 bytes for 3 array elements, found 16 bytes "
                                  "before the end of the file"));
  EXPECT_THAT(count(1ull << 40), HasSubstr("expected at most 2097152 array elements, found 1099511627776"));
  EXPECT_THAT(
      refusal(file.with(file.field("k[1] length"), 1)),
      HasSubstr("key k at byte 57: expected array element 1 of 1 bytes, found 0 bytes before the end of the file"));
  EXPECT_THAT(refusal(file.with(file.field("k element type"), 13)),
              HasSubstr("expected an element type from 0 to 12, found type id 13"));
}

TEST(BadFile, Bools) {
  TestFile scalar;
  scalar.header(0, 1).scalar("k", ValueType::kBool, std::uint8_t{2});
  EXPECT_THAT(refusal(scalar), HasSubstr("key k at byte 37: expected a bool of 0 or 1, found 2"));
  TestFile array;
  array.header(0, 1).array("k", ValueType::kBool, std::vector<std::uint8_t>{0, 1, 255});
  EXPECT_THAT(refusal(array), HasSubstr("key k at byte 51: expected a bool of 0 or 1, found 255"));
}

// --- versions, counts, parts
// --------------------------------------------------------------------------------------------

TEST(BadFile, Versions) {
  const TestFile file = small_test_file();
  const auto version = [&](std::uint32_t value) { return refusal(file.with(file.field("version"), value)); };
  EXPECT_EQ(
      version(1),
      "m.gguf: header at byte 4: expected GGUF version 3, found version 1 (an old layout: convert the model again)");
  EXPECT_THAT(version(0), HasSubstr("found version 0"));
  EXPECT_THAT(version(2), HasSubstr("found version 2 (an old layout: convert the model again)"));
  EXPECT_THAT(version(4), HasSubstr("found version 4 (made by a later program)"));
  EXPECT_THAT(version(0x03000000),
              HasSubstr("expected a little-endian GGUF file of version 3, found a big-endian one of version 3"));
  EXPECT_THAT(version(0x02000000), HasSubstr("found a big-endian one of version 2"));
  EXPECT_THAT(version(~0u), HasSubstr("found version 4294967295"));
  EXPECT_THAT(refusal(file.with(file.field("magic"), 0x47475546)), HasSubstr("found a big-endian one"));
  EXPECT_THAT(refusal(file.with(file.field("magic"), 0x6c6d6767)),
              HasSubstr("expected magic \"GGUF\", found \"ggml\""));
}

TEST(BadFile, Counts) {
  TestFile file;
  file.header(0, 0);
  EXPECT_EQ(refusal(file), "accepted");
  EXPECT_THAT(refusal(file.with(file.field("tensor count"), 1)),
              HasSubstr("header at byte 8: expected at most 0 tensors in 8 bytes before the end of the file, found 1"));
  EXPECT_THAT(refusal(file.with(file.field("key count"), 1)),
              HasSubstr("header at byte 16: expected at most 0 keys in 0 bytes"));
  EXPECT_THAT(refusal(file.with(file.field("tensor count"), 1ull << 63)),
              HasSubstr("expected at most 65536 tensors, found 9223372036854775808"));
  EXPECT_THAT(refusal(file.with(file.field("key count"), 65537)),
              HasSubstr("expected at most 65536 keys, found 65537"));
}

TEST(BadFile, SplitFiles) {
  const auto parts = [](std::uint16_t count) {
    return refusal(TestFile().header(0, 1).scalar("split.count", ValueType::kU16, count));
  };
  EXPECT_EQ(parts(0), "accepted");
  EXPECT_EQ(parts(1), "accepted");
  EXPECT_EQ(parts(3),
            "m.gguf: key split.count at byte 47: expected a model in one file, found one of 3 parts: merge them into "
            "one file first");
}

}  // namespace
}  // namespace ds4::gguf
