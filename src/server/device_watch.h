// Whether the device works, and what is done when it does not: it is set up again, unless that was done a short while
// ago. Knows no device; the worker tells it (WorkerOptions), the app asks. Any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "base/result.h"

namespace ds4::server {

/// A device that fails again before it has worked for so long is not worth another try.
inline constexpr std::chrono::minutes kGoodWork{10};

class DeviceWatch {
 public:
  using Clock = std::chrono::steady_clock;
  enum class State {
    kUp,
    kRebuilding,  // it has failed and is being set up again
    kLost,        // for good
  };

  /// It has failed. True: it is to be set up again. `may_rebuild` false: there is nothing to do it for any more.
  bool failed(const Error& fault, bool may_rebuild, Clock::time_point now = Clock::now());
  /// That has been done, or tried.
  void rebuilt(const Status& status, Clock::time_point now = Clock::now());

  State state() const;
  std::uint64_t faults() const;
  /// The last one; empty before the first.
  std::string fault() const;

  /// Waits until the device is lost, and says why, or until release().
  Status wait();
  void release();

 private:
  void lose(std::string why);

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  State state_ = State::kUp;
  std::uint64_t faults_ = 0;
  std::string fault_;
  std::optional<Clock::time_point> rebuilt_;
  Status lost_;
  bool released_ = false;
};

}  // namespace ds4::server
