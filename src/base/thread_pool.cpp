#include "base/thread_pool.h"

#include <pthread.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <utility>

#include "base/check.h"

namespace ds4 {

namespace {

/// Tells the core that this is a spin loop: tens of nanoseconds, friendly to the other hyper-thread.
inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");  // `yield` is a no-op on most arm64 cores
#endif
}

#ifdef __linux__
// The system calls themselves: std::atomic::wait() of libstdc++ yields four times before it sleeps.
static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));

/// Sleeps unless the word is no longer `seen`; may return early.
void sleep_while(const std::atomic<std::uint32_t>& word, std::uint32_t seen) {
  ::syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}
void wake_all(std::atomic<std::uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
}
#else
void sleep_while(const std::atomic<std::uint32_t>& word, std::uint32_t seen) { word.wait(seen); }
void wake_all(std::atomic<std::uint32_t>& word) { word.notify_all(); }
#endif

void name_this_thread(const std::string& name) {
  const std::string shown = name.substr(0, 15);  // the kernel's limit
#ifdef __APPLE__
  pthread_setname_np(shown.c_str());
#else
  pthread_setname_np(pthread_self(), shown.c_str());
#endif
}

}  // namespace

// Sequentially consistent: either the waiter sees the new value before it sleeps, or this sees the waiter.
void ThreadPool::Signal::advance() {
  value_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) != 0) wake_all(value_);
}

// Spinning pays while the other side is running. When it is not (an idle engine, a machine with other work), the CPU is
// better left to somebody else, so a spin in vain shortens the next ones, and one that ends in time lengthens them.
//
// No yielding before sleep: on a busy machine a thread that yields goes behind everybody else, milliseconds away, while
// one that sleeps is put in front of them when it is woken (measured with 20 busy processes on 2 CPUs: 10 times).
void ThreadPool::Signal::wait_beyond(std::uint32_t seen, bool spin) const {
  if (spin) {
    const std::int64_t patience = patience_.load(std::memory_order_relaxed);
    const auto adjust = [&](std::int64_t better) {
      better = std::clamp<std::int64_t>(better, kMinSpin.count(), kMaxSpin.count());
      if (better != patience) patience_.store(better, std::memory_order_relaxed);
    };
    if (spin_beyond(seen, std::chrono::nanoseconds(patience))) return adjust(2 * patience);
    adjust(patience / 4);
  }
  sleepers_.fetch_add(1, std::memory_order_seq_cst);
  while (value_.load(std::memory_order_seq_cst) == seen) sleep_while(value_, seen);
  sleepers_.fetch_sub(1, std::memory_order_relaxed);
}

bool ThreadPool::Signal::spin_beyond(std::uint32_t seen, std::chrono::nanoseconds time) const {
  constexpr int kPausesPerClock = 32;  // reading the clock costs as much as a pause
  const auto deadline = std::chrono::steady_clock::now() + time;
  do {
    for (int i = 0; i < kPausesPerClock; ++i) {
      if (value() != seen) return true;
      pause_briefly();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

ThreadPool::ThreadPool(int threads, const std::string& name, Placement placement)
    : size_(threads),
      spin_(threads <= available_cpus()),
      placement_(std::move(placement)),
      next_task_(static_cast<std::size_t>(placement_.groups())),
      caller_cpus_(placement_.cpu.empty() ? std::vector<int>() : cpus::affinity()) {
  DS4_CHECK(threads >= 1);
  DS4_CHECK(placement_.cpu.empty() || placement_.cpu.size() == static_cast<std::size_t>(threads));
  DS4_CHECK(placement_.group.empty() || placement_.group.size() == static_cast<std::size_t>(threads));
  workers_.reserve(static_cast<std::size_t>(threads - 1));
  for (int index = 1; index < threads; ++index) {
    workers_.emplace_back([this, index, label = name + "-" + std::to_string(index)] {
      name_this_thread(label);
      if (!placement_.cpu.empty()) run_on_cpus({&placement_.cpu[static_cast<std::size_t>(index)], 1});
      work(index);
    });
  }
}

ThreadPool::~ThreadPool() {
  DS4_CHECK(!running_.load(std::memory_order_relaxed));
  release_caller();
  job_ = {};
  start_.advance();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work(int index) {
  for (std::uint32_t seen = 0;;
       ++seen) {  // the n-th round runs the n-th job; none can be missed, all threads take part
    start_.wait_beyond(seen, spin_);
    if (job_.call == nullptr) return;
    job_.call(job_.context, index, size_);
    arrive();
  }
}

void ThreadPool::run_job(Job job) {
  DS4_CHECK(!running_.exchange(true, std::memory_order_relaxed));  // one job at a time, and not from inside a job
  if (!placement_.cpu.empty() && pinned_caller_ != std::this_thread::get_id()) pin_caller();
  begin_tasks();
  if (size_ == 1) {
    job.call(job.context, 0, 1);
  } else {
    job_ = job;
    start_.advance();
    job.call(job.context, 0, size_);
    const std::uint32_t seen = phase_.value();
    if (!arrive()) phase_.wait_beyond(seen, spin_);
  }
  running_.store(false, std::memory_order_relaxed);
}

void ThreadPool::sync() {
  // Nobody can complete this phase before we arrive, so the number read here is the number of this phase.
  const std::uint32_t seen = phase_.value();
  if (!arrive()) phase_.wait_beyond(seen, spin_);
}

/// True for the last of the threads, which opens the next phase. Whoever comes through sees what all did before.
bool ThreadPool::arrive() {
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 != size_) return false;
  arrived_.store(0, std::memory_order_relaxed);
  begin_tasks();
  phase_.advance();
  return true;
}

void ThreadPool::begin_tasks() {
  for (Counter& next : next_task_) next.value.store(0, std::memory_order_relaxed);
}

void ThreadPool::pin_caller() {
  pinned_caller_ = std::this_thread::get_id();
  run_on_cpus({placement_.cpu.data(), 1});
}

void ThreadPool::release_caller() {
  if (pinned_caller_ != std::this_thread::get_id()) return;
  run_on_cpus(caller_cpus_);
  pinned_caller_ = {};
}

}  // namespace ds4
