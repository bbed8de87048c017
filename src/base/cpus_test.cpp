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

/// Two memories with two cores of two hyper-threads each: cores {0, 4} and {2, 6} in node 0, {1, 5} and {3, 7} in 1.
class PlacementTest : public CpusTest {
 protected:
  void SetUp() override {
    CpusTest::SetUp();
    for (int id = 0; id < 8; ++id)
      write("/sys/devices/system/cpu/cpu" + std::to_string(id) + "/topology/thread_siblings_list",
            std::to_string(id % 4) + "," + std::to_string(id % 4 + 4));
    write("/sys/devices/system/node/node0/cpulist", "0,2,4,6");
    write("/sys/devices/system/node/node1/cpulist", "1,3,5,7");
    write("/sys/devices/system/cpu/online", "0-7");
  }
  Placement place(int threads, Pinning pinning, const Ids& ids = {0, 1, 2, 3, 4, 5, 6, 7}, bool quota = false) const {
    auto placement = cpus::place_threads(threads, pinning, ids, quota, root_ + "/sys");
    EXPECT_TRUE(placement.ok());
    return placement.ok() ? *placement : Placement{};
  }
};

TEST_F(PlacementTest, OneThreadForEachCoreThoseOfAMemoryTogether) {
  const Placement all = place(4, Pinning::kAuto);
  EXPECT_EQ(all.cpu, (Ids{0, 2, 1, 3}));
  EXPECT_EQ(all.group, (Ids{0, 0, 1, 1}));
  EXPECT_EQ(all.groups(), 2);
}

TEST_F(PlacementTest, AutoLeavesThreadsAloneWhereTheMachineIsShared) {
  EXPECT_TRUE(place(3, Pinning::kAuto).cpu.empty()) << "fewer threads than cores";
  EXPECT_TRUE(place(8, Pinning::kAuto).cpu.empty()) << "more threads than cores";
  EXPECT_TRUE(place(4, Pinning::kAuto, {0, 1, 2, 3}).cpu.empty()) << "a mask, even one that has every core";
  EXPECT_TRUE(place(2, Pinning::kAuto, {0, 2}).cpu.empty()) << "a mask";
  EXPECT_TRUE(place(4, Pinning::kAuto, {0, 1, 2, 3, 4, 5, 6, 7}, true).cpu.empty()) << "a quota";
  EXPECT_TRUE(place(4, Pinning::kOff).cpu.empty());
  EXPECT_EQ(place(4, Pinning::kOff).groups(), 1);
}

TEST_F(PlacementTest, OnTakesEquallyManyCoresOfEachMemory) {
  EXPECT_EQ(place(2, Pinning::kOn).cpu, (Ids{0, 1}));
  EXPECT_EQ(place(2, Pinning::kOn).group, (Ids{0, 1}));
  EXPECT_EQ(place(2, Pinning::kOn, {3, 5, 7}, true).cpu, (Ids{3, 5})) << "what the mask leaves: 3 and 7 are one core";
  EXPECT_EQ(place(2, Pinning::kOn, {3, 5, 7}, true).groups(), 1);
  const auto refused = cpus::place_threads(5, Pinning::kOn, Ids{0, 1, 2, 3, 4, 5, 6, 7}, false, root_ + "/sys");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
  EXPECT_NE(refused.error().message.find("expected at most 4"), std::string::npos) << refused.error().message;
}

TEST_F(PlacementTest, UnknownMemoriesAreOne) {
  std::filesystem::remove_all(root_ + "/sys/devices/system/node");
  EXPECT_EQ(place(4, Pinning::kAuto).cpu, (Ids{0, 1, 2, 3}));
  EXPECT_EQ(place(4, Pinning::kAuto).groups(), 1);
}

TEST_F(PlacementTest, UnpinnedGroupsAreOfEqualSizeAndNotMoreThanThreads) {
  EXPECT_EQ(Placement::unpinned(5, 2).group, (Ids{0, 0, 0, 1, 1}));
  EXPECT_EQ(Placement::unpinned(2, 3).group, (Ids{0, 1}));
  EXPECT_TRUE(Placement::unpinned(2, 2).cpu.empty());
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
