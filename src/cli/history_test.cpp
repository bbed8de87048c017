#include "cli/history.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

namespace ds4::cli {
namespace {

class HistoryFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              (std::string("ds4_history_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path() const { return (folder_ / "state/ds4/history").string(); }
  std::filesystem::path folder_;
};

TEST_F(HistoryFile, KeepsEntriesOfSeveralLinesForTheNextTime) {
  const std::vector<std::string> entries = {"one", "two\nlines \\n and a backslash \\", "\xE6\x97\xA5"};
  History first(path());
  EXPECT_TRUE(first.entries().empty());
  for (const std::string& entry : entries) ASSERT_TRUE(first.add(entry).ok());
  ASSERT_TRUE(first.add(entries.back()).ok());
  EXPECT_EQ(History(path()).entries(), entries);
  struct stat info = {};
  ASSERT_EQ(stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(HistoryFile, ForgetsTheOldestBeyondItsSize) {
  History history("");
  for (std::size_t i = 0; i < History::kMaxEntries + 5; ++i) ASSERT_TRUE(history.add(std::to_string(i)).ok());
  EXPECT_EQ(history.entries().size(), History::kMaxEntries);
  EXPECT_EQ(history.entries().front(), "5");
}

TEST_F(HistoryFile, AFolderThatCannotBeIsAnErrorWithItsName) {
  History history("/proc/nowhere/history");
  const Status status = history.add("x");
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("/proc/nowhere/history"), std::string::npos);
}

}  // namespace
}  // namespace ds4::cli
