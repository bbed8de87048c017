#include "quant/imatrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "base/faulty_file_system.h"
#include "base/text.h"

namespace ds4 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// A file put together by hand.
class Bytes {
 public:
  Bytes& number(std::int32_t value) {
    append(&value, sizeof value);
    return *this;
  }
  Bytes& text(std::string_view value) {
    number(static_cast<std::int32_t>(value.size()));
    append(value.data(), value.size());
    return *this;
  }
  Bytes& values(std::initializer_list<float> list) {
    number(static_cast<std::int32_t>(list.size()));
    for (const float value : list) append(&value, sizeof value);
    return *this;
  }
  std::span<const std::byte> view() const { return bytes_; }
  std::string error() const {
    const auto parsed = Imatrix::parse(bytes_, "m.dat");
    return parsed.ok() ? "" : parsed.error().message;
  }

 private:
  void append(const void* data, std::size_t size) {
    const auto* begin = static_cast<const std::byte*>(data);
    bytes_.insert(bytes_.end(), begin, begin + size);
  }
  std::vector<std::byte> bytes_;
};

Bytes two_entries() {
  Bytes bytes;
  bytes.number(2);
  bytes.text("blk.0.ffn_up_exps.weight").number(1).values({1, 2, 3, 4});
  bytes.text("a").number(4).values({8});
  return bytes;
}

class Scratch {
 public:
  Scratch() : path_(std::filesystem::temp_directory_path() / cat("ds4-imatrix-", ::getpid())) {
    std::filesystem::create_directories(path_);
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string path(const std::string& name) const { return (path_ / name).string(); }
  bool empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::filesystem::path path_;
};

TEST(Imatrix, Reads) {
  Bytes bytes = two_entries();
  bytes.number(17).text("calibration.txt");
  const auto file = Imatrix::parse(bytes.view(), "m.dat");
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->entries().size(), 2U);
  EXPECT_EQ(file->chunks(), 17);
  EXPECT_EQ(file->dataset(), "calibration.txt");
  const Imatrix::Entry* entry = file->find("blk.0.ffn_up_exps.weight");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->size(), 4U);
  std::vector<float> values(2);
  Imatrix::read(*entry, 1, values);
  EXPECT_THAT(values, ElementsAre(2, 3));
  std::vector<float> one(1);
  Imatrix::read(*file->find("a"), 0, one);
  EXPECT_EQ(one[0], 2.0F) << "a sum over four calls";
  EXPECT_EQ(file->find("b"), nullptr);
  EXPECT_EQ(file->find(""), nullptr);
}

TEST(Imatrix, TheEndMayBeMissing) {
  const auto file = Imatrix::parse(two_entries().view(), "m.dat");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->chunks(), 0);
  EXPECT_EQ(file->dataset(), "");
}

TEST(Imatrix, Refusals) {
  EXPECT_EQ(Bytes().error(),
            "m.dat: number of entries at byte 0: expected 4 bytes, found 0 before the end of the file");
  EXPECT_THAT(Bytes().number(0).error(), HasSubstr("number of entries at byte 0: expected 1 to 65536, found 0"));
  EXPECT_THAT(Bytes().number(-1).error(), HasSubstr("found -1"));
  EXPECT_THAT(Bytes().number(70000).error(), HasSubstr("found 70000"));
  EXPECT_THAT(Bytes().number(1).number(0).error(), HasSubstr("entry 0, length of the name at byte 4: expected 1 to"));
  EXPECT_THAT(Bytes().number(1).number(5000).error(), HasSubstr("found 5000"));
  EXPECT_THAT(Bytes().number(1).number(9).error(), HasSubstr("entry 0, name at byte 8: expected 9 bytes, found 0"));
  EXPECT_THAT(Bytes().number(1).text("a\n").error(), HasSubstr("expected printable text, found \"a\\x0a\""));
  EXPECT_THAT(Bytes().number(1).text("a").number(0).error(), HasSubstr("entry 0 (a), calls at byte 9: expected 1"));
  EXPECT_THAT(Bytes().number(1).text("a").number(1).number(0).error(), HasSubstr("number of values at byte 13"));
  EXPECT_THAT(Bytes().number(1).text("a").number(1).number(1 << 30).error(),
              HasSubstr("entry 0 (a), values at byte 17: expected 4294967296 bytes, found 0 before the end"));
  for (const float bad : {-1.0F, std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    EXPECT_THAT(Bytes().number(1).text("a").number(1).values({1, bad}).error(),
                HasSubstr("entry 0 (a), value 1 at byte 21: expected a mean square"));
  EXPECT_THAT(Bytes().number(2).text("a").number(1).values({1}).text("a").number(1).values({1}).error(),
              HasSubstr("name at byte 21: expected every tensor once, found a again"));
  EXPECT_THAT(two_entries().number(-1).error(), HasSubstr("number of chunks"));
  EXPECT_THAT(two_entries().number(1).number(70000).error(), HasSubstr("length of the data set's name"));
  EXPECT_THAT(two_entries().number(1).text("x").number(5).error(), HasSubstr("expected the end of the file, found 4"));
  EXPECT_EQ(Imatrix::open("/nowhere/m.dat").error().code, ErrorCode::kBadModel);
}

TEST(Imatrix, WriterAndReaderAgree) {
  const Scratch scratch;
  const std::string path = scratch.path("m.dat");
  {
    auto writer = ImatrixWriter::create(path, 2);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->add("blk.0.ffn_gate_exps.weight", std::vector<float>{1, 0.5F}).ok());
    ASSERT_TRUE(writer->add("blk.0.ffn_down_exps.weight", std::vector<float>{3}).ok());
    EXPECT_FALSE(std::filesystem::exists(path)) << "no name before it is complete";
    ASSERT_TRUE(writer->finish(12, "some text.txt").ok());
  }
  const auto file = Imatrix::open(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->chunks(), 12);
  EXPECT_EQ(file->dataset(), "some text.txt");
  ASSERT_NE(file->find("blk.0.ffn_gate_exps.weight"), nullptr);
  std::vector<float> values(2);
  Imatrix::read(*file->find("blk.0.ffn_gate_exps.weight"), 0, values);
  EXPECT_THAT(values, ElementsAre(1, 0.5F));
  EXPECT_EQ(file->entries()[1].name, "blk.0.ffn_down_exps.weight");
  // The layout that other programs read: count, then length, name, calls, number of values, values.
  std::ifstream raw(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(raw), {}};
  Bytes expected;
  expected.number(2);
  expected.text("blk.0.ffn_gate_exps.weight").number(1).values({1, 0.5F});
  expected.text("blk.0.ffn_down_exps.weight").number(1).values({3});
  expected.number(12).text("some text.txt");
  ASSERT_EQ(bytes.size(), expected.view().size());
  EXPECT_EQ(std::memcmp(bytes.data(), expected.view().data(), bytes.size()), 0);
}

TEST(Imatrix, AFailedWriteLeavesNothing) {
  const Scratch scratch;
  for (const auto call :
       {FaultyFileSystem::Call::kWrite, FaultyFileSystem::Call::kSync, FaultyFileSystem::Call::kRename}) {
    FaultyFileSystem disk(FileSystem::real());
    disk.fail(call, call == FaultyFileSystem::Call::kWrite ? 3 : 1, "No space left on device");
    const auto attempt = [&]() -> Status {
      DS4_ASSIGN_OR_RETURN(ImatrixWriter writer, ImatrixWriter::create(scratch.path("m.dat"), 1, disk));
      DS4_RETURN_IF_ERROR(writer.add("a", std::vector<float>{1}));
      return writer.finish(1, "");
    };
    const Status status = attempt();
    ASSERT_FALSE(status.ok());
    EXPECT_THAT(status.error().message, HasSubstr("No space left"));
    EXPECT_TRUE(scratch.empty());
  }
}

}  // namespace
}  // namespace ds4
