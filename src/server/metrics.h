// Counters for /metrics, in the text format of Prometheus. Any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "engine/worker.h"
#include "server/api/answer.h"
#include "server/device_watch.h"
#include "server/http_server.h"

namespace ds4::server {

/// A histogram over seconds.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void add(double seconds);
  void write(std::string& out, std::string_view name, std::string_view help) const;

 private:
  std::vector<double> bounds_;
  mutable std::mutex mutex_;
  std::vector<std::uint64_t> counts_;
  double sum_ = 0;
};

class Metrics {
 public:
  Metrics();
  void count_reply(std::string_view route, int status);
  void count_answer(const Usage& usage, Ending ending);
  /// What the worker may hold at once, for those who draw a share of it.
  void set_limits(int parallel, int points) {
    parallel_ = parallel;
    points_ = points;
  }
  /// Counted while answers are written, where the worker counts when they end.
  std::atomic<std::uint64_t>& answer_tokens() { return answer_tokens_; }
  void count_cached(std::int64_t tokens) { cached_tokens_ += static_cast<std::uint64_t>(tokens); }
  std::string text(const WorkerStats& worker, const HttpCounts& http, const DeviceWatch& device, bool ready) const;

 private:
  std::atomic<int> parallel_{0}, points_{0};
  std::atomic<std::uint64_t> answer_tokens_{0}, cached_tokens_{0};
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, std::uint64_t> replies_;
  std::map<Ending, std::uint64_t> endings_;
  Histogram first_token_, per_token_, queue_;
};

}  // namespace ds4::server
