#include "convert/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/test_checkpoint.h"

namespace ds4 {
namespace {

using ::testing::HasSubstr;

std::string shard(const std::string& tensor) {
  return SafetensorsBuilder().add<std::uint8_t>(tensor, "U8", {1}, {1}).bytes();
}

TEST(Checkpoint, OneFile) {
  const auto checkpoint = Checkpoint::open(golden_folder("tiny-official"));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const Checkpoint::Entry entry = checkpoint->find("layers.0.attn.wkv.scale");
  ASSERT_TRUE(entry);
  EXPECT_EQ(describe(*entry.tensor), "F8_E8M0 [1, 2]");
  EXPECT_FALSE(checkpoint->find("layers.0.attn.wkv"));
  EXPECT_EQ(checkpoint->shard_count(), 1u);
}

TEST(Checkpoint, Shards) {
  TestFolder folder;
  folder.write("one.safetensors", shard("a"));
  folder.write("two.safetensors", shard("b"));
  folder.write("model.safetensors.index.json",
               R"({"metadata":{"total_size":2},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->shard_count(), 2u);
  EXPECT_EQ(checkpoint->names().size(), 2u);
  EXPECT_EQ(checkpoint->find("b").file->path(), folder.path("two.safetensors"));
}

TEST(Checkpoint, BadIndexes) {
  struct Case {
    std::string index;
    std::string message;
  };
  const std::vector<Case> cases = {
      {"nonsense", "index.json: expected a JSON object with an object weight_map"},
      {"{}", "expected a JSON object with an object weight_map"},
      {R"({"weight_map":{"a":3}})", "weight_map: tensor a: expected the name of a file beside the index"},
      {R"({"weight_map":{"a":"../one.safetensors"}})", "weight_map: tensor a: expected the name of a file"},
      {R"({"weight_map":{"a":"three.safetensors"}})", "three.safetensors: cannot open"},
      {R"({"weight_map":{"a":"one.safetensors","c":"one.safetensors"}})",
       "tensor c: expected in one.safetensors, found in no shard"},
      {R"({"weight_map":{"a":"two.safetensors","b":"one.safetensors"}})",
       "tensor a: expected in two.safetensors, found "},
      {R"({"weight_map":{"a":"one.safetensors","b":"again.safetensors"}})", "tensor a at byte"},
  };
  TestFolder folder;
  folder.write("one.safetensors", shard("a"));
  folder.write("two.safetensors", shard("b"));
  folder.write("again.safetensors", shard("a"));
  for (const Case& bad : cases) {
    folder.write("model.safetensors.index.json", bad.index);
    const auto checkpoint = Checkpoint::open(folder.path());
    ASSERT_FALSE(checkpoint.ok()) << bad.index;
    EXPECT_THAT(checkpoint.error().message, HasSubstr(bad.message));
  }
}

TEST(Checkpoint, EmptyFolder) {
  TestFolder folder;
  const auto checkpoint = Checkpoint::open(folder.path());
  ASSERT_FALSE(checkpoint.ok());
  EXPECT_THAT(checkpoint.error().message, HasSubstr("expected model.safetensors or model.safetensors.index.json"));
  EXPECT_EQ(checkpoint.error().code, ErrorCode::kBadModel);
}

}  // namespace
}  // namespace ds4
