#include "base/file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/faulty_file_system.h"

namespace ds4 {
namespace {

using testing::HasSubstr;

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

class FileSystemFolder : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "file_system_XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name + "/";
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  std::string content(const std::string& name) const {
    std::ifstream in(root_ + name, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::string root_;
  FileSystem& disk_ = FileSystem::real();
};

TEST_F(FileSystemFolder, WriteTruncateSyncRenameRemove) {
  auto file = disk_.create(root_ + "a").value();
  ASSERT_TRUE(file->write_at(2, bytes("cd")).ok());
  ASSERT_TRUE(file->write_at(0, bytes("ab")).ok());
  ASSERT_TRUE(file->write_at(4, {}).ok());
  ASSERT_TRUE(file->truncate(6).ok());
  ASSERT_TRUE(file->sync().ok());
  EXPECT_EQ(content("a"), std::string("abcd\0\0", 6));
  std::ofstream(root_ + "b") << "old";
  ASSERT_TRUE(disk_.rename(root_ + "a", root_ + "b").ok());
  ASSERT_TRUE(disk_.sync_parent(root_ + "b").ok());
  EXPECT_EQ(content("b"), std::string("abcd\0\0", 6));
  ASSERT_TRUE(disk_.remove(root_ + "b").ok());
  EXPECT_TRUE(std::filesystem::is_empty(root_));
}

TEST_F(FileSystemFolder, ErrorsNameThePathAndTheReason) {
  EXPECT_EQ(disk_.remove(root_ + "x\n").error().message, root_ + "x\\x0a: cannot remove: No such file or directory");
  EXPECT_EQ(disk_.rename(root_ + "x", root_ + "y").error().message,
            root_ + "x: cannot rename to " + root_ + "y: No such file or directory");
  EXPECT_EQ(disk_.sync_parent(root_ + "no/x").error().message, root_ + "no: cannot open: No such file or directory");
  EXPECT_EQ(disk_.remove(root_ + "x").error().code, ErrorCode::kIo);
  auto file = disk_.create(root_ + "a").value();
  EXPECT_EQ(file->truncate(~0ull).error().message,
            root_ + "a: cannot make it 18446744073709551615 bytes long: File too large");
}

TEST_F(FileSystemFolder, OnlyRegularFilesAreCreated) {
  EXPECT_THAT(disk_.create(root_ + "no/a").error().message, HasSubstr("cannot create: No such file"));
  EXPECT_THAT(disk_.create(root_).error().message, HasSubstr("cannot create"));
  ASSERT_EQ(::mkfifo((root_ + "pipe").c_str(), 0600), 0);
  EXPECT_THAT(disk_.create(root_ + "pipe").error().message, HasSubstr("cannot create"));
  EXPECT_THAT(disk_.create("/dev/null").error().message, HasSubstr("expected a regular file"));
  std::ofstream(root_ + "target") << "keep";
  std::filesystem::create_symlink("target", root_ + "link");
  EXPECT_FALSE(disk_.create(root_ + "link").ok());
  EXPECT_EQ(content("target"), "keep");
}

TEST_F(FileSystemFolder, AFileHasOneWriter) {
  auto first = disk_.create(root_ + "a").value();
  ASSERT_TRUE(first->write_at(0, bytes("mine")).ok());
  EXPECT_THAT(disk_.create(root_ + "a").error().message, HasSubstr("another process is writing this file"));
  EXPECT_EQ(content("a"), "mine");
  first.reset();
  EXPECT_TRUE(disk_.create(root_ + "a").ok());
  EXPECT_EQ(content("a"), "");
}

TEST_F(FileSystemFolder, FaultsHitTheCallTheyWereSetFor) {
  using Call = FaultyFileSystem::Call;
  FaultyFileSystem faulty(disk_);
  auto file = faulty.create(root_ + "a").value();
  ASSERT_TRUE(file->write_at(0, bytes("abcd")).ok());
  faulty.fail(Call::kWrite, 2, "No space left on device");
  ASSERT_TRUE(file->write_at(0, bytes("efgh")).ok());
  EXPECT_EQ(file->write_at(0, bytes("ijkl")).error().message, root_ + "a: No space left on device");
  EXPECT_EQ(content("a"), "ijgh");  // half of it arrived
  EXPECT_TRUE(file->write_at(0, bytes("mnop")).ok());
  EXPECT_EQ(faulty.count(Call::kWrite), 4);
  faulty.fail(Call::kRemove, 1, "Input/output error");
  EXPECT_FALSE(faulty.remove(root_ + "a").ok());
  EXPECT_TRUE(faulty.remove(root_ + "a").ok());
}

}  // namespace
}  // namespace ds4
