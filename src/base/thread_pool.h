// ThreadPool: the threads that compute. One job at a time, run by all of them together, the caller included.
//
//   pool.run([&](int index, int count) {
//     for (const auto i : share_of(rows, index, count)) first_half(i);
//     pool.sync();                                  // everything before is visible to everyone after
//     for (auto task = pool.take_task(); task < tasks; task = pool.take_task()) second_half(task);
//   });
//
// A step of the model hands over hundreds of jobs, some of them a few microseconds long, so an idle worker spins for a
// while before it sleeps: a job that follows soon starts in about a microsecond. When there are more
// threads than CPUs, spinning only keeps the others from working, and waiting threads yield and sleep instead.
//
// Threads may be pinned to CPUs (Placement). The caller is pinned by its first run() and free again after
// release_caller(): threads that it starts meanwhile would have its CPU for their own. Where threads are in groups,
// each group has tasks of its own, those whose data lies in its memory, and helps the others when it has none left.
//
// Owner: whoever made it, usually a backend. run() is called by one thread at a time and never from inside a job;
// sync() and take_task() only inside a job. A job must not throw. run() and sync() do not allocate.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/cpus.h"

namespace ds4 {

class ThreadPool {
 public:
  /// How long an idle thread stays awake: up to kMaxSpin, less where that has not paid lately.
  static constexpr std::chrono::nanoseconds kMinSpin{5'000};
  static constexpr std::chrono::nanoseconds kMaxSpin{100'000};

  /// `threads` counts the caller: 1 starts none. At least 1. Workers are named <name>-1, <name>-2, ...
  explicit ThreadPool(int threads, const std::string& name = "ds4-cpu", Placement placement = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }
  int groups() const { return static_cast<int>(next_task_.size()); }
  int group_of(int index) const { return groups() == 1 ? 0 : placement_.group[static_cast<std::size_t>(index)]; }

  /// Calls job(index, count) once on every thread, index 0 on the caller, and returns when all calls have returned.
  template <typename Job>
  void run(Job&& job) {
    using Plain = std::remove_reference_t<Job>;
    run_job({[](void* context, int index, int count) { (*static_cast<Plain*>(context))(index, count); },
             const_cast<void*>(static_cast<const void*>(std::addressof(job)))});
  }

  /// Waits until every thread of the job is here. All threads of a job call it equally often.
  void sync();

  /// 0, 1, 2, ... each to one thread only; starts anew with every run() and sync(). Every group counts for itself.
  std::int64_t take_task(int group = 0) {
    return next_task_[static_cast<std::size_t>(group)].value.fetch_add(1, std::memory_order_relaxed);
  }
  /// Does the tasks of all groups, of which group g has count(g): work(g, task), first those of this thread's group.
  template <typename Count, typename Work>
  void take_tasks(int index, Count count, Work work) {
    for (int i = 0; i < groups(); ++i) {
      const int group = (group_of(index) + i) % groups();
      const std::int64_t tasks = count(group);
      for (std::int64_t task = take_task(group); task < tasks; task = take_task(group)) work(group, task);
    }
  }

  /// The caller may run anywhere again. By the thread that called run(), between jobs.
  void release_caller();

 private:
  struct alignas(64) Counter {
    std::atomic<std::int64_t> value{0};
  };
  struct Job {
    void (*call)(void* context, int index, int count) = nullptr;
    void* context = nullptr;
  };

  /// A number that one thread advances and others wait for: awake first, asleep later.
  class alignas(64) Signal {
   public:
    std::uint32_t value() const { return value_.load(std::memory_order_acquire); }
    void advance();
    void wait_beyond(std::uint32_t seen, bool spin) const;

   private:
    bool spin_beyond(std::uint32_t seen, std::chrono::nanoseconds time) const;
    std::atomic<std::uint32_t> value_{0};
    mutable std::atomic<int> sleepers_{0};
    mutable std::atomic<std::int64_t> patience_{kMaxSpin.count()};
  };

  void run_job(Job job);
  void work(int index);
  bool arrive();
  void begin_tasks();
  void pin_caller();

  const int size_;
  const bool spin_;
  const Placement placement_;
  Job job_;       // written by run_job before start_ advances; null call: the threads end
  Signal start_;  // one step per job
  Signal phase_;  // one step each time all threads have arrived: at sync() and at a job's end
  alignas(64) std::atomic<int> arrived_{0};
  std::vector<Counter> next_task_;  // one for each group
  std::atomic<bool> running_{false};
  std::thread::id pinned_caller_;  // none: the caller runs anywhere
  // Where it runs otherwise: asked when the pool is made, since another pool may have pinned it when this one does.
  const std::vector<int> caller_cpus_;
  std::vector<std::thread> workers_;
};

/// A half-open range of numbers, for range-for.
struct Share {
  std::int64_t first = 0;
  std::int64_t last = 0;
  struct Iterator {
    std::int64_t at;
    std::int64_t operator*() const { return at; }
    Iterator& operator++() {
      ++at;
      return *this;
    }
    bool operator!=(const Iterator& other) const { return at != other.at; }
  };
  Iterator begin() const { return {first}; }
  Iterator end() const { return {last}; }
};

/// Part `index` of `count` nearly equal parts of [0, total); bounds are multiples of `grain` (except total).
inline Share share_of(std::int64_t total, int index, int count, std::int64_t grain = 1) {
  const std::int64_t grains = (total + grain - 1) / grain;
  const auto bound = [&](int part) { return std::min(total, grains * part / count * grain); };
  return {bound(index), bound(index + 1)};
}

}  // namespace ds4
