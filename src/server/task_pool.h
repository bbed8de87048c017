// A few threads for what a request needs before it can be queued: parsing, rendering, tokenizing. Bounded; a task that
// finds no room is refused. Any thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace ds4::server {

class TaskPool {
 public:
  TaskPool(int threads, std::size_t max_waiting);
  /// Runs what is waiting, then ends.
  ~TaskPool();
  TaskPool(const TaskPool&) = delete;
  TaskPool& operator=(const TaskPool&) = delete;

  /// False when too much is waiting.
  bool run(std::function<void()> task);

 private:
  void work();

  std::size_t max_waiting_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace ds4::server
