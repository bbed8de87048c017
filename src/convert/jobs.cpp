#include "convert/jobs.h"

#include <mutex>
#include <optional>

#include "base/thread_pool.h"

namespace ds4 {

Status run_jobs(std::size_t count, std::uint64_t total_bytes, const JobSettings& settings,
                const std::function<Status(std::size_t index, const JobStep& step)>& job) {
  std::mutex mutex;  // guards done and error
  std::uint64_t done = 0;
  std::optional<Error> error;

  const JobStep step = [&](std::uint64_t bytes) -> Status {
    const std::lock_guard lock(mutex);
    done += bytes;
    if (settings.progress) settings.progress(done, total_bytes);
    if (error) return *error;
    if (settings.cancel != nullptr && settings.cancel->load(std::memory_order_relaxed))
      return Error{ErrorCode::kCancelled, "stopped before the file was complete"};
    return {};
  };
  ThreadPool pool(settings.threads, "ds4-convert");
  pool.run([&](int, int) {
    for (auto task = pool.take_task(); task < static_cast<std::int64_t>(count); task = pool.take_task()) {
      Status status = job(static_cast<std::size_t>(task), step);
      if (status.ok()) continue;
      const std::lock_guard lock(mutex);
      if (!error) error = std::move(status).error();
      return;
    }
  });
  if (error) return *error;
  return {};
}

}  // namespace ds4
