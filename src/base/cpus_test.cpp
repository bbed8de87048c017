#include "base/cpus.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace ds4 {
namespace {

using Ids = std::vector<int>;

/// A small /sys and /proc in a temporary folder.
class CpusTest : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(root_); }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    const std::filesystem::path full = root_ + path;
    std::filesystem::create_directories(full.parent_path());
    std::ofstream(full) << text << "\n";
  }
  std::optional<double> quota() const { return cpus::quota(root_ + "/proc", root_ + "/sys"); }
  std::string root_ = testing::TempDir() + "ds4_cpus_" + testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(CpusTest, ThisMachine) {
  EXPECT_GE(available_cpus(), 1);
  EXPECT_GE(default_thread_count(), 1);
  EXPECT_LE(default_thread_count(), available_cpus());
}

TEST_F(CpusTest, Lists) {
  EXPECT_EQ(cpus::parse_list("0-3,8"), (Ids{0, 1, 2, 3, 8}));
  EXPECT_EQ(cpus::parse_list("5"), (Ids{5}));
  EXPECT_EQ(cpus::parse_list(""), Ids{});
  EXPECT_EQ(cpus::parse_list("1,x"), (Ids{1}));
  EXPECT_EQ(cpus::parse_list("3-1"), Ids{});
}

TEST_F(CpusTest, HyperThreadsCountOnce) {
  for (const int id : {0, 1, 2, 3}) {
    write("/sys/devices/system/cpu/cpu" + std::to_string(id) + "/topology/thread_siblings_list",
          id % 2 == 0 ? "0,2" : "1,3");
  }
  EXPECT_EQ(cpus::physical_cores(Ids{0, 1, 2, 3}, root_ + "/sys"), 2);
  EXPECT_EQ(cpus::physical_cores(Ids{2}, root_ + "/sys"), 1);
  EXPECT_EQ(cpus::physical_cores(Ids{0, 1, 9}, root_ + "/sys"), 3) << "a CPU without topology is a core";
}

TEST_F(CpusTest, NoCgroupNoQuota) { EXPECT_EQ(quota(), std::nullopt); }

TEST_F(CpusTest, QuotaV2IsTheLeastOnTheWayUp) {
  write("/proc/self/cgroup", "0::/slice/unit");
  write("/sys/fs/cgroup/slice/unit/cpu.max", "max 100000");
  EXPECT_EQ(quota(), std::nullopt);
  write("/sys/fs/cgroup/slice/cpu.max", "350000 100000");
  EXPECT_EQ(quota(), 3.5);
  write("/sys/fs/cgroup/cpu.max", "150000 100000");
  EXPECT_EQ(quota(), 1.5);
}

TEST_F(CpusTest, QuotaV2InTheRootOfAContainer) {
  write("/proc/self/cgroup", "0::/");
  write("/sys/fs/cgroup/cpu.max", "200000 100000");
  EXPECT_EQ(quota(), 2.0);
}

TEST_F(CpusTest, QuotaV1) {
  write("/proc/self/cgroup", "11:memory:/docker\n4:cpu,cpuacct:/docker");
  write("/sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us", "-1");
  write("/sys/fs/cgroup/cpu/docker/cpu.cfs_period_us", "100000");
  EXPECT_EQ(quota(), std::nullopt);
  write("/sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us", "400000");
  EXPECT_EQ(quota(), 4.0);
}

}  // namespace
}  // namespace ds4
