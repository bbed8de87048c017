#include "server/metrics.h"

#include <algorithm>

#include "base/text.h"

namespace ds4::server {

namespace {

std::string_view name_of(Ending ending) {
  switch (ending) {
    case Ending::kStop: return "stop";
    case Ending::kStopString: return "stop_string";
    case Ending::kLength: return "length";
    case Ending::kToolCalls: return "tool_calls";
    case Ending::kCancelled: return "cancelled";
    case Ending::kError: return "error";
  }
  return "?";
}

void one(std::string& out, std::string_view name, std::string_view type, std::string_view help, double value) {
  out += cat("# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n", name, " ");
  char number[32];
  std::snprintf(number, sizeof number, "%.17g\n", value);
  out += number;
}

void disk_text(std::string& out, const kvstore::StoreStats& disk) {
  const auto number = [&](std::string_view name, std::string_view type, std::string_view help, std::uint64_t value) {
    one(out, cat("ds4_kv_disk_", name), type, help, static_cast<double>(value));
  };
  number("bytes", "gauge", "Bytes of stored states, as far as known.", disk.bytes);
  number("blocks", "gauge", "Stored blocks of KV rows.", disk.blocks);
  number("points", "gauge", "Stored resume points.", disk.points);
  number("queued_bytes", "gauge", "Bytes that wait for the disk.", disk.queued_bytes);
  number("written_bytes_total", "counter", "Bytes written.", disk.written_bytes);
  number("written_blocks_total", "counter", "Blocks written.", disk.written_blocks);
  number("written_points_total", "counter", "Resume points written.", disk.written_points);
  number("reused_blocks_total", "counter", "Blocks of stored states that were there already.", disk.reused_blocks);
  number("dropped_total", "counter", "States that were not stored.", disk.dropped);
  number("records_found_total", "counter", "Records of tool calls read.", disk.records_found);
  number("records_kept_total", "counter", "Records of tool calls written.", disk.records_kept);
  number("restores_total", "counter", "States loaded.", disk.restores);
  number("restored_tokens_total", "counter", "Tokens of states loaded.", disk.restored_tokens);
  number("restored_bytes_total", "counter", "Bytes of states loaded.", disk.restored_bytes);
  number("missed_total", "counter", "Loads that failed.", disk.missed);
  number("rejected_total", "counter", "Files that did not verify or could not be read.", disk.rejected);
  number("evicted_total", "counter", "Files removed to make room.", disk.evicted);
  number("evicted_bytes_total", "counter", "Bytes of files removed to make room.", disk.evicted_bytes);
}

}  // namespace

void Histogram::add(double seconds) {
  const std::lock_guard lock(mutex_);
  const auto at = std::lower_bound(bounds_.begin(), bounds_.end(), seconds) - bounds_.begin();
  ++counts_[static_cast<std::size_t>(at)];
  sum_ += seconds;
}

void Histogram::write(std::string& out, std::string_view name, std::string_view help) const {
  const std::lock_guard lock(mutex_);
  out += cat("# HELP ", name, " ", help, "\n# TYPE ", name, " histogram\n");
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < counts_.size(); ++i) {
    total += counts_[i];
    out += cat(name, "_bucket{le=\"", i < bounds_.size() ? cat(bounds_[i]) : std::string("+Inf"), "\"} ", total, "\n");
  }
  out += cat(name, "_sum ", sum_, "\n", name, "_count ", total, "\n");
}

Metrics::Metrics()
    : first_token_({0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300}),
      per_token_({0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1}),
      queue_({0.001, 0.01, 0.1, 1, 10, 100}) {}

void Metrics::count_reply(std::string_view route, int status) {
  const std::lock_guard lock(mutex_);
  ++replies_[{std::string(route), status}];
}

void Metrics::count_answer(const Usage& usage, Ending ending) {
  queue_.add(usage.queue_seconds);
  if (usage.answer_tokens > 0) {
    first_token_.add(usage.queue_seconds + usage.prompt_seconds);
    per_token_.add(usage.answer_seconds / static_cast<double>(usage.answer_tokens));
  }
  const std::lock_guard lock(mutex_);
  ++endings_[ending];
}

std::string Metrics::text(const WorkerStats& worker, const HttpCounts& http, const DeviceWatch& device,
                          bool ready) const {
  std::string out;
  one(out, "ds4_ready", "gauge", "1 when requests are served.", ready ? 1 : 0);
  one(out, "ds4_device_up", "gauge", "0 from a fault of the device until it has been set up again.",
      device.state() == DeviceWatch::State::kUp ? 1 : 0);
  one(out, "ds4_device_faults_total", "counter", "Faults of the device.", static_cast<double>(device.faults()));
  one(out, "ds4_requests_waiting", "gauge", "Requests in the queue.", worker.queued);
  one(out, "ds4_requests_running", "gauge", "Requests in work.", worker.active);
  one(out, "ds4_resume_points", "gauge", "KV states kept for prompts to come.", worker.points);
  one(out, "ds4_resume_points_limit", "gauge", "Most KV states kept.", points_);
  one(out, "ds4_parallel", "gauge", "Most requests in work at once.", parallel_);
  const auto number = [](std::uint64_t value) { return static_cast<double>(value); };
  one(out, "ds4_generations_total", "counter", "Requests taken into the queue.", number(worker.requests));
  one(out, "ds4_prompt_tokens_total", "counter", "Prompt tokens computed.", number(worker.prompt_tokens));
  one(out, "ds4_cached_tokens_total", "counter", "Prompt tokens that were already there.", number(cached_tokens_));
  one(out, "ds4_answer_tokens_total", "counter", "Tokens of answers.", number(answer_tokens_));
  one(out, "ds4_passes_total", "counter", "Forward passes.", number(worker.passes));
  if (worker.disk) disk_text(out, *worker.disk);
  one(out, "ds4_connections", "gauge", "Open connections.", static_cast<double>(http.open));
  one(out, "ds4_connections_total", "counter", "Connections accepted.", number(http.accepted));
  one(out, "ds4_connections_refused_total", "counter", "Connections over the limit.", number(http.refused));
  one(out, "ds4_timeouts_total", "counter", "Connections closed for being slow.", number(http.timed_out));
  {
    const std::lock_guard lock(mutex_);
    out += "# HELP ds4_http_replies_total Replies by route and status.\n# TYPE ds4_http_replies_total counter\n";
    for (const auto& [key, count] : replies_) {
      out += cat("ds4_http_replies_total{route=\"", key.first, "\",status=\"", key.second, "\"} ", count, "\n");
    }
    out += "# HELP ds4_answers_total Answers by how they ended.\n# TYPE ds4_answers_total counter\n";
    for (const auto& [ending, count] : endings_) {
      out += cat("ds4_answers_total{ending=\"", name_of(ending), "\"} ", count, "\n");
    }
  }
  first_token_.write(out, "ds4_first_token_seconds", "From the request to the first token.");
  per_token_.write(out, "ds4_token_seconds", "Time per token of an answer.");
  queue_.write(out, "ds4_queue_seconds", "Time in the queue.");
  return out;
}

}  // namespace ds4::server
