// Long writing work cut into one job per tensor, done by a few threads, with progress and a way to stop.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "base/result.h"

namespace ds4 {

struct JobSettings {
  int threads = 1;
  const std::atomic<bool>* cancel = nullptr;                              // looked at in every step
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;  // from one thread at a time; may be empty
};

/// A job calls it after each piece of its work and leaves with its error: kCancelled, when the work is to stop.
using JobStep = std::function<Status(std::uint64_t bytes)>;

/// Runs job(0) .. job(count - 1), in this order as threads come free. The first error stops all and is returned.
Status run_jobs(std::size_t count, std::uint64_t total_bytes, const JobSettings& settings,
                const std::function<Status(std::size_t index, const JobStep& step)>& job);

}  // namespace ds4
