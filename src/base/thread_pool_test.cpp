#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <array>
#include <mutex>
#include <set>

namespace ds4 {
namespace {

TEST(ThreadPool, EveryThreadRunsTheJobOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    std::vector<int> calls(static_cast<std::size_t>(threads), 0);  // plain ints: a data race is TSan's business
    for (int job = 0; job < 200; ++job) {
      pool.run([&](int index, int count) {
        EXPECT_EQ(count, threads);
        ++calls[static_cast<std::size_t>(index)];
      });
    }
    for (const int seen : calls) EXPECT_EQ(seen, 200);
  }
}

TEST(ThreadPool, CallerIsThreadZeroAndWorkersHaveNames) {
  ThreadPool pool(3);
  std::mutex mutex;
  std::set<std::string> names;
  const auto caller = std::this_thread::get_id();
  pool.run([&](int index, int) {
    EXPECT_EQ(std::this_thread::get_id() == caller, index == 0);
    std::array<char, 16> name{};
    pthread_getname_np(pthread_self(), name.data(), name.size());
    const std::lock_guard lock(mutex);
    if (index != 0) names.insert(name.data());
  });
  EXPECT_EQ(names, (std::set<std::string>{"ds4-cpu-1", "ds4-cpu-2"}));
}

// Each phase reads what another thread wrote, without atomics, in the phase before.
TEST(ThreadPool, SyncSeparatesPhases) {
  for (const int threads : {1, 2, 4, 7}) {
    ThreadPool pool(threads);
    constexpr int kPhases = 100;
    std::vector<std::int64_t> values(static_cast<std::size_t>(threads), 0);
    for (int job = 0; job < 5; ++job) {
      pool.run([&](int index, int count) {
        for (int phase = 0; phase < kPhases; ++phase) {
          const std::int64_t neighbour = values[static_cast<std::size_t>((index + 1) % count)];
          pool.sync();
          values[static_cast<std::size_t>(index)] = neighbour + 1;
          pool.sync();
        }
      });
    }
    for (const auto value : values) EXPECT_EQ(value, 5 * kPhases);
  }
}

TEST(ThreadPool, TasksGoToOneThreadEachAndStartAnewInEveryPhase) {
  ThreadPool pool(4);
  constexpr std::int64_t kTasks = 1000;
  std::vector<int> taken(kTasks, 0);
  for (int job = 0; job < 3; ++job) {
    pool.run([&](int, int) {
      for (int phase = 0; phase < 2; ++phase) {
        for (auto task = pool.take_task(); task < kTasks; task = pool.take_task()) ++taken[std::size_t(task)];
        pool.sync();
      }
    });
  }
  for (const int count : taken) EXPECT_EQ(count, 6);
}

TEST(ThreadPool, EveryGroupHasTasksOfItsOwnAndTheOthersHelp) {
  ThreadPool pool(5, "ds4-cpu", Placement::unpinned(5, 2));
  ASSERT_EQ(pool.groups(), 2);
  constexpr std::int64_t kTasks[2] = {700, 40};
  std::vector<int> taken[2] = {std::vector<int>(700, 0), std::vector<int>(40, 0)};
  for (int phase = 0; phase < 3; ++phase) {
    pool.run([&](int index, int) {
      pool.take_tasks(
          index, [&](int group) { return kTasks[group]; },
          [&](int group, std::int64_t task) { ++taken[group][static_cast<std::size_t>(task)]; });
    });
  }
  for (const auto& group : taken)
    for (const int count : group) EXPECT_EQ(count, 3);
}

TEST(ThreadPool, TasksOfTheOwnGroupComeFirst) {
  ThreadPool pool(2, "ds4-cpu", Placement::unpinned(2, 2));
  std::vector<int> groups;
  pool.run([&](int index, int) {
    if (index == 1)
      pool.take_tasks(
          index, [](int group) { return 3 - group; }, [&](int group, std::int64_t) { groups.push_back(group); });
    pool.sync();
  });
  EXPECT_EQ(groups, (std::vector<int>{1, 1, 0, 0, 0}));
}

TEST(ThreadPool, PinnedThreadsStayAndTheCallerIsFreeAfterwards) {
  const std::vector<int> before = cpus::affinity();
  const int last = before.back();
  {
    ThreadPool pool(2, "ds4-cpu", {.cpu = {last, before.front()}, .group = {0, 0}});
    std::vector<int> seen[2];
    pool.run([&](int index, int) { seen[index] = cpus::affinity(); });
    EXPECT_EQ(seen[0], std::vector<int>{last});
    EXPECT_EQ(seen[1], std::vector<int>{before.front()});
    EXPECT_EQ(cpus::affinity(), std::vector<int>{last}) << "jobs follow each other: the caller stays";
    pool.release_caller();
    EXPECT_EQ(cpus::affinity(), before);
    pool.run([&](int index, int) { seen[index] = cpus::affinity(); });
    EXPECT_EQ(seen[0], std::vector<int>{last});
  }
  EXPECT_EQ(cpus::affinity(), before);
}

TEST(ThreadPool, TwoPoolsInTurnLeaveTheCallerFree) {
  const std::vector<int> before = cpus::affinity();
  const Placement placement{.cpu = {before.back(), before.front()}, .group = {0, 0}};
  ThreadPool first(2, "ds4-cpu", placement);
  ThreadPool second(2, "ds4-cpu", placement);
  first.run([](int, int) {});
  second.run([](int, int) {});
  first.release_caller();
  second.release_caller();
  EXPECT_EQ(cpus::affinity(), before);
}

// Pauses longer than the spin time between jobs and inside phases: everybody has gone to sleep and must wake up.
TEST(ThreadPool, SleepersWakeUp) {
  ThreadPool pool(3);
  const auto nap = 4 * ThreadPool::kMaxSpin;
  int sum = 0;
  for (int job = 0; job < 20; ++job) {
    std::this_thread::sleep_for(nap);
    pool.run([&](int index, int) {
      if (index == job % 3) std::this_thread::sleep_for(nap);
      pool.sync();
      if (index == (job + 1) % 3) ++sum;
      if (index == (job + 2) % 3) std::this_thread::sleep_for(nap);
    });
  }
  EXPECT_EQ(sum, 20);
}

TEST(ThreadPool, MadeAndDestroyedWithoutAJob) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(1 + i % 4);
}

TEST(ThreadPoolDeathTest, JobInsideAJobIsABug) {
  EXPECT_DEATH(
      {
        ThreadPool pool(1);
        pool.run([&](int, int) { pool.run([](int, int) {}); });
      },
      "running_");
}

TEST(ShareOf, CoversEverythingOnceInOrder) {
  for (const std::int64_t total : {0, 1, 7, 64, 1000}) {
    for (const int count : {1, 2, 3, 8, 100}) {
      for (const std::int64_t grain : {1, 4, 32}) {
        std::int64_t next = 0;
        for (int index = 0; index < count; ++index) {
          const Share share = share_of(total, index, count, grain);
          EXPECT_EQ(share.first, next);
          EXPECT_TRUE(share.first % grain == 0 || share.first == total);
          next = share.last;
          std::int64_t seen = 0;
          for (const auto i : share) seen += i >= share.first && i < share.last;
          EXPECT_EQ(seen, share.last - share.first);
        }
        EXPECT_EQ(next, total);
      }
    }
  }
}

}  // namespace
}  // namespace ds4
