#include "base/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace ds4 {
namespace {

class MappedFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << text;
    return folder_ + "/" + name;
  }
  static std::string text_of(const MappedFile& file) {
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  }
  static std::string message_of(const std::string& path) {
    const auto file = MappedFile::open(path);
    EXPECT_FALSE(file.ok());
    if (file.ok()) return "";
    EXPECT_EQ(file.error().code, ErrorCode::kIo);
    return file.error().message;
  }
  std::string folder_ =
      testing::TempDir() + "ds4_mapped_" + testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(MappedFileTest, ShowsTheBytes) {
  const std::string path = write("a", std::string("one\0two", 7));
  const auto file = MappedFile::open(path);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(text_of(*file), std::string("one\0two", 7));
  EXPECT_EQ(file->path(), path);
}

TEST_F(MappedFileTest, WhatWasReleasedIsReadAgain) {
  std::string text;
  for (int i = 0; i < 100000; ++i) text += static_cast<char>('a' + i % 23);
  const auto file = MappedFile::open(write("large", text));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(text_of(*file), text);
  for (const std::size_t from : {0U, 1U, 5000U, 99999U}) file->release(file->bytes().subspan(from));
  EXPECT_EQ(text_of(*file), text);
}

TEST_F(MappedFileTest, AnEmptyFileIsEmpty) {
  const auto file = MappedFile::open(write("empty", ""));
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE(file->bytes().empty());
}

TEST_F(MappedFileTest, Moves) {
  auto first = MappedFile::open(write("a", "first"));
  auto second = MappedFile::open(write("b", "second"));
  ASSERT_TRUE(first.ok() && second.ok());
  MappedFile moved = *std::move(first);
  EXPECT_EQ(text_of(moved), "first");
  moved = *std::move(second);
  EXPECT_EQ(text_of(moved), "second");
}

TEST_F(MappedFileTest, RefusesWhatIsNotARegularFile) {
  EXPECT_EQ(message_of(folder_ + "/missing"), folder_ + "/missing: cannot open: No such file or directory");
  EXPECT_EQ(message_of(folder_), folder_ + ": expected a regular file, found a directory, device or pipe");
  EXPECT_NE(message_of("/dev/null").find("expected a regular file"), std::string::npos);
}

// A FIFO without a writer blocks a plain open() for ever.
TEST_F(MappedFileTest, RefusesAFifoAtOnce) {
  const std::string path = folder_ + "/fifo";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_NE(message_of(path).find("expected a regular file"), std::string::npos);
}

TEST_F(MappedFileTest, NamesInMessagesAreSafeToPrint) {
  EXPECT_EQ(message_of(folder_ + "/\x1b[2J").find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace ds4
