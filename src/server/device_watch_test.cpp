#include "server/device_watch.h"

#include <gtest/gtest.h>

#include <thread>

namespace ds4::server {
namespace {

using State = DeviceWatch::State;
using std::chrono::minutes;
using std::chrono::seconds;

const Error kFault{ErrorCode::kNoDevice, "on fire"};

TEST(DeviceWatch, SetsUpAgainOnceInTenMinutesOfWork) {
  const DeviceWatch::Clock::time_point start;
  DeviceWatch watch;
  EXPECT_EQ(watch.state(), State::kUp);
  EXPECT_TRUE(watch.failed(kFault, true, start));
  EXPECT_EQ(watch.state(), State::kRebuilding);
  EXPECT_EQ(watch.fault(), "on fire");
  watch.rebuilt({}, start + minutes(5));  // it is the work since then that counts
  EXPECT_EQ(watch.state(), State::kUp);
  EXPECT_TRUE(watch.failed(kFault, true, start + minutes(15)));
  watch.rebuilt({}, start + minutes(16));
  EXPECT_FALSE(watch.failed(kFault, true, start + minutes(26) - seconds(1)));
  EXPECT_EQ(watch.state(), State::kLost);
  EXPECT_EQ(watch.faults(), 3u);
  const Status lost = watch.wait();
  EXPECT_EQ(lost.error().code, ErrorCode::kNoDevice);
  EXPECT_EQ(lost.error().message, "the device failed again, 599 s after it was set up anew: on fire");
}

TEST(DeviceWatch, WhatCannotBeSetUpIsLostWithTheExitStatusOfADevice) {
  DeviceWatch watch;
  std::thread failing([&] {
    EXPECT_TRUE(watch.failed(kFault, true));
    watch.rebuilt(Error{ErrorCode::kOutOfMemory, "no room"});
  });
  EXPECT_EQ(watch.wait().error().message, "the device failed: on fire; it cannot be set up anew: no room");
  EXPECT_EQ(watch.wait().error().code, ErrorCode::kNoDevice);
  failing.join();
}

TEST(DeviceWatch, NothingIsSetUpForAServerThatStops) {
  DeviceWatch stopped, stopping;
  stopped.release();
  EXPECT_TRUE(stopped.wait().ok());
  EXPECT_FALSE(stopping.failed(kFault, false));
  EXPECT_EQ(stopping.wait().error().message, "the device failed: on fire");
}

}  // namespace
}  // namespace ds4::server
