#include "base/available_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace ds4 {
namespace {

class Memory : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::temp_directory_path() /
            (std::string("ds4_memory_") + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(root_);
    source_ = {root_ / "meminfo", root_ / "cgroup", root_ / "sys"};
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  std::filesystem::path root_;
  MemorySource source_;
};

TEST_F(Memory, NothingIsKnownWithoutTheFiles) { EXPECT_EQ(available_memory(source_), std::nullopt); }

TEST_F(Memory, TheSystemSaysWhatIsAvailable) {
  write("meminfo", "MemTotal:       100 kB\nMemFree:         10 kB\nMemAvailable:    50 kB\n");
  EXPECT_EQ(available_memory(source_), 50u * 1024);
}

TEST_F(Memory, TheTightestGroupOnTheWayUpCounts) {
  write("meminfo", "MemAvailable:    1000000 kB\n");
  write("cgroup", "1:name=x:/old\n0::/a/b\n");
  write("sys/a/b/memory.max", "max\n");
  write("sys/a/b/memory.current", "700\n");
  write("sys/a/memory.max", "5000\n");
  write("sys/a/memory.current", "3000\n");
  EXPECT_EQ(available_memory(source_), 2000u);
  write("sys/a/b/memory.max", "1000\n");
  EXPECT_EQ(available_memory(source_), 300u);
}

TEST_F(Memory, PageCacheIsNotInUse) {
  write("cgroup", "0::/\n");
  write("sys/memory.max", "5000\n");
  write("sys/memory.current", "4000\n");
  write("sys/memory.stat", "anon 900\nfile 3000\ninactive_file 1000\nactive_file 1500\n");
  EXPECT_EQ(available_memory(source_), 3500u);
}

TEST_F(Memory, AnOverfullGroupLeavesNothing) {
  write("cgroup", "0::/x\n");
  write("sys/x/memory.max", "5000\n");
  write("sys/x/memory.current", "6000\n");
  EXPECT_EQ(available_memory(source_), 0u);
}

TEST(MemoryHere, ThisMachineAnswers) { EXPECT_GT(available_memory().value_or(0), 1u << 20); }

}  // namespace
}  // namespace ds4
