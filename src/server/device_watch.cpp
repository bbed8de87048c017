#include "server/device_watch.h"

#include "base/text.h"

namespace ds4::server {

bool DeviceWatch::failed(const Error& fault, bool may_rebuild, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  ++faults_;
  fault_ = fault.message;
  const bool again = rebuilt_ && now - *rebuilt_ < kGoodWork;
  if (may_rebuild && !again) {
    state_ = State::kRebuilding;
    return true;
  }
  const auto worked = [&] { return std::chrono::duration_cast<std::chrono::seconds>(now - *rebuilt_).count(); };
  lose(again ? cat("the device failed again, ", worked(), " s after it was set up anew: ", fault_)
             : cat("the device failed: ", fault_));
  return false;
}

void DeviceWatch::rebuilt(const Status& status, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (!status.ok())
    return lose(cat("the device failed: ", fault_, "; it cannot be set up anew: ", status.error().message));
  state_ = State::kUp;
  rebuilt_ = now;
}

/// With the mutex held. Whatever stood in the way of a rebuild, the device is why the process ends.
void DeviceWatch::lose(std::string why) {
  state_ = State::kLost;
  lost_ = Error{ErrorCode::kNoDevice, std::move(why)};
  changed_.notify_all();
}

DeviceWatch::State DeviceWatch::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

std::uint64_t DeviceWatch::faults() const {
  const std::lock_guard lock(mutex_);
  return faults_;
}

std::string DeviceWatch::fault() const {
  const std::lock_guard lock(mutex_);
  return fault_;
}

Status DeviceWatch::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return released_ || !lost_.ok(); });
  return lost_;
}

void DeviceWatch::release() {
  const std::lock_guard lock(mutex_);
  released_ = true;
  changed_.notify_all();
}

}  // namespace ds4::server
