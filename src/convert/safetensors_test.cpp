#include "convert/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/test_checkpoint.h"

namespace ds4 {
namespace {

using ::testing::HasSubstr;

Result<SafetensorsFile> parse(const std::string& bytes) {
  return SafetensorsFile::parse(std::as_bytes(std::span(bytes)), "test.safetensors");
}

std::string small_file() {
  return SafetensorsBuilder()
      .add<float>("b", "F32", {2, 2}, {1, 2, 3, 4})
      .add<std::uint8_t>("a", "F8_E8M0", {3}, {7, 8, 9})
      .add<float>("empty", "F32", {0, 5}, {})
      .add<float>("scalar", "F32", {}, {5})
      .bytes();
}

TEST(Safetensors, Reads) {
  const std::string bytes = small_file();
  const auto file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.error().message;
  ASSERT_EQ(file->tensors().size(), 4u);
  const SafeTensor* a = file->find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->type, SafeType::kF8_E8M0);
  EXPECT_EQ(a->elements(), 3u);
  EXPECT_EQ(std::to_integer<int>(a->data[2]), 9);
  EXPECT_EQ(describe(*file->find("b")), "F32 [2, 2]");
  EXPECT_EQ(file->find("scalar")->elements(), 1u);
  EXPECT_EQ(file->find("empty")->elements(), 0u);
  EXPECT_EQ(file->find("c"), nullptr);
  EXPECT_EQ(file->tensor_error(*a, "no").message,
            cat("test.safetensors: tensor a at byte ", bytes.size() - 4 - 3, ": no"));
}

TEST(Safetensors, OpensTheGoldenFiles) {
  const auto file = SafetensorsFile::open(golden_folder("small-odd") + "/golden.safetensors");
  ASSERT_TRUE(file.ok()) << file.error().message;
  const SafeTensor* logits = file->find("logits");
  ASSERT_NE(logits, nullptr);
  EXPECT_EQ(logits->shape, (std::vector<std::uint64_t>{21, 320}));
  EXPECT_FALSE(SafetensorsFile::open("/nowhere/at/all").ok());
}

TEST(Safetensors, MetadataAndPaddingAreAllowed) {
  const auto file = parse(SafetensorsBuilder::with_header(
      R"({"__metadata__":{"format":"pt"},"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}     )", "ab"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->tensors().size(), 1u);
}

struct BadHeader {
  std::string header;
  std::string data;
  std::string message;  // a part of it
};

TEST(Safetensors, BadHeadersSayWhatIsWrong) {
  const auto one = [](const std::string& fields) { return cat("{\"x\":{", fields, "}}"); };
  const std::vector<BadHeader> cases = {
      {"[1]", "", "header at byte 8: expected a JSON object of 3 bytes"},
      {"{\"x\":", "", "expected a JSON object"},
      {"{\"x\":1}", "", "tensor x: expected an object"},
      {"{\"x\":{\"dtype\":\"\xff\"}}", "", "expected a JSON object"},
      {one(R"("shape":[1],"data_offsets":[0,1])"), "a", "tensor x: dtype: expected a string"},
      {one(R"("dtype":"Q9","shape":[1],"data_offsets":[0,1])"), "a", "tensor x: dtype: expected one of"},
      {one(R"("dtype":"U8","data_offsets":[0,1])"), "a", "tensor x: shape: expected a list"},
      {one(R"("dtype":"U8","shape":[1.5],"data_offsets":[0,1])"), "a", "tensor x: shape: expected whole numbers"},
      {one(R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])"), "a", "tensor x: shape: expected whole numbers"},
      {one(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])"), "a",
       "tensor x: shape: expected a list"},
      {one(R"("dtype":"U8","shape":[1])"), "a", "tensor x: data_offsets: expected a list"},
      {one(R"("dtype":"U8","shape":[1],"data_offsets":[0])"), "a", "tensor x: data_offsets: expected two numbers"},
      {one(R"("dtype":"U8","shape":[1],"data_offsets":[1,0])"), "a", "expected begin <= end <= 1"},
      {one(R"("dtype":"U8","shape":[2],"data_offsets":[0,2])"), "a", "(the data in the file), found [0, 2]"},
      {one(R"("dtype":"F32","shape":[1],"data_offsets":[0,1])"), "a", "expected the size of F32 [1], found 1 bytes"},
      {one(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"), "", "expected the size of U8"},
      {one(R"("dtype":"U8","shape":[1],"data_offsets":[1,2])"), "ab", "expected its data at byte"},
      {one(R"("dtype":"U8","shape":[1],"data_offsets":[0,1])"), "ab", "expected the file to end at byte"},
      {R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"y":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       "abc", "tensor y: expected its data at byte"},
      {R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
       "a", "tensor x: the name occurs twice"},
      {R"({"__metadata__":3})", "", "__metadata__: expected an object"},
      {one(R"("dtype":"U8","shape":[[[[1]]]],"data_offsets":[0,1])"), "a", "nested too deeply"},
      {cat("{\"x\":", std::string(100000, '['), std::string(100000, ']'), "}"), "", "nested too deeply"},
      {R"({"a\u001b[2J":1})", "", "tensor a\\x1b[2J: expected an object"},
  };
  for (const BadHeader& bad : cases) {
    const auto file = parse(SafetensorsBuilder::with_header(bad.header, bad.data));
    ASSERT_FALSE(file.ok()) << bad.header.substr(0, 200);
    EXPECT_THAT(file.error().message, HasSubstr("test.safetensors: "));
    EXPECT_THAT(file.error().message, HasSubstr(bad.message));
    EXPECT_EQ(file.error().code, ErrorCode::kBadModel);
  }
}

TEST(Safetensors, HeaderLengthBeyondTheFile) {
  std::string bytes = small_file();
  for (const std::uint64_t length : {std::uint64_t{bytes.size()}, std::uint64_t{1} << 40, ~std::uint64_t{0}}) {
    std::memcpy(bytes.data(), &length, 8);
    const auto file = parse(bytes);
    ASSERT_FALSE(file.ok());
    EXPECT_THAT(file.error().message, HasSubstr("header length at byte 0: expected at most"));
  }
}

TEST(Safetensors, EveryTruncationIsNoticed) {
  const std::string bytes = small_file();
  for (std::size_t size = 0; size < bytes.size(); ++size) EXPECT_FALSE(parse(bytes.substr(0, size)).ok()) << size;
  EXPECT_FALSE(parse(bytes + "x").ok());
}

TEST(Safetensors, EveryChangedByteIsHarmless) {
  const std::string good = small_file();
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const int change : {1, 0x10, 0x80, 0xff}) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(bytes[at] ^ change);
      const auto file = parse(bytes);
      if (!file.ok()) continue;
      for (const SafeTensor& tensor : file->tensors()) {
        EXPECT_LE(tensor.offset + tensor.data.size(), bytes.size());
        EXPECT_EQ(file->find(tensor.name), &tensor);
      }
    }
  }
}

}  // namespace
}  // namespace ds4
