#include "agent_loop.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "base/text.h"
#include "http_client.h"

namespace ds4::e2e {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kBlockHead = 736, kPointHead = 208;  // of docs/formats/kv-store.md

/// A number out of /metrics.
std::int64_t metric(int port, const std::string& name) {
  const std::string text = ask(port, http_get("/metrics")).body;
  const std::size_t at = text.find(cat("\n", name, " "));
  return at == std::string::npos ? 0 : static_cast<std::int64_t>(std::stod(text.substr(at + name.size() + 2)));
}

struct Answer {
  std::int64_t prompt = 0, cached = 0, tokens = 0;
  std::string text;
};

class Loop {
 public:
  explicit Loop(const AgentLoopOptions& options) : options_(options) { std::filesystem::remove_all(options.folder); }

  AgentLoopReport run() {
    if (!start()) return std::move(report_);
    for (int turn = 0; turn < options_.turns && report_.problem.empty(); ++turn) {
      if (turn == options_.restart_at) restart();
      if (report_.problem.empty()) take_turn(turn);
    }
    if (report_.problem.empty()) collect();
    report_.row_bytes = report_.row_bytes * blocks_;
    server_.reset();
    return std::move(report_);
  }

 private:
  bool start() {
    server_ = std::make_unique<ServerProcess>(
        std::vector<std::string>{"-m", nano_model(), "-c", cat(options_.tokens + 2048), "--parallel", "1", "--temp",
                                 "0", "--nothink", "--kv-disk-dir", options_.folder});
    if (!server_->ready()) report_.problem = cat("the server does not start: ", server_->log());
    return report_.problem.empty();
  }

  void wait_for_disk() {
    for (int i = 0; i < 500 && metric(server_->port(), "ds4_kv_disk_queued_bytes") > 0; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }

  /// Adds up what a server says about itself before it goes.
  void collect() {
    wait_for_disk();
    report_.written += metric(server_->port(), "ds4_kv_disk_written_bytes_total");
    report_.points += metric(server_->port(), "ds4_kv_disk_written_points_total");
    blocks_ += metric(server_->port(), "ds4_kv_disk_written_blocks_total");
    for (const auto& entry : std::filesystem::directory_iterator(options_.folder)) {
      const std::string name = entry.path().filename().string();
      const auto bytes = static_cast<std::int64_t>(entry.file_size());
      if (name.starts_with("p-")) report_.point_bytes = bytes - kPointHead;
      if (name.starts_with("b-")) report_.row_bytes = bytes - kBlockHead;
    }
  }

  void restart() {
    collect();
    const int status = server_->stop(options_.kill_it ? SIGKILL : SIGTERM);
    if (status != (options_.kill_it ? 128 + SIGKILL : 0)) report_.problem = cat("the server ended with ", status);
    else start();
    restarted_ = true;
  }

  /// The message of a turn: as long as it has to be for the conversation to reach its length with the last one.
  std::string message(int turn, int variant) const {
    const std::int64_t left = options_.tokens - known_;
    const std::int64_t wanted = std::max<std::int64_t>(40, left / std::max(1, options_.turns - turn) - 40);
    std::string text = cat("Result of step ", turn, variant == 0 ? "" : " (again)", ":");
    for (std::int64_t i = 0; i < wanted / 9; ++i)
      text += cat(" line ", i, " has value ", (i * 7919 + turn * 31 + variant * 17) % 1000, ".");
    return text;
  }

  void take_turn(int turn) {
    // An edited tail: the last question is put in other words, and what was answered to it is gone.
    const bool edited = turn > 0 && turn % options_.edit_every == 0;
    if (edited) {
      messages_.erase(messages_.end() - 2, messages_.end());
      known_ = before_;
    }
    before_ = known_;
    messages_.push_back({{"role", "user"}, {"content", message(turn, edited ? 1 : 0)}});
    const Answer answer = ask_server();
    if (!report_.problem.empty()) return;
    messages_.push_back({{"role", "assistant"}, {"content", answer.text}});
    const std::int64_t fresh = answer.prompt - before_;
    const std::int64_t computed = answer.prompt - answer.cached;
    report_.fresh += fresh;
    report_.prefilled += computed;
    report_.worst_turn = std::max(report_.worst_turn, computed - fresh);
    report_.last_prompt = answer.prompt;
    ++report_.turns;
    // What comes back of the answer is its tokens; the one that ends it is new to the next prompt.
    known_ = answer.prompt + answer.tokens;
    if (options_.verbose)
      std::printf("turn %2d%s%s: prompt %6lld, new %5lld, computed %5lld, answer %3lld\n", turn,
                  edited ? " edited" : "", restarted_ ? " restarted" : "", static_cast<long long>(answer.prompt),
                  static_cast<long long>(fresh), static_cast<long long>(computed),
                  static_cast<long long>(answer.tokens));
    restarted_ = false;
  }

  Answer ask_server() {
    const Json body = {{"messages", messages_}, {"max_tokens", 60}};
    Connection connection(server_->port(), 300);
    connection.send(http_post("/v1/chat/completions", body.dump()));
    const Reply reply = connection.read_reply();
    const Json json = Json::parse(reply.body, nullptr, false);
    if (reply.status != 200 || json.is_discarded()) {
      report_.problem = cat("status ", reply.status, ": ", reply.body);
      return {};
    }
    const Json& usage = json["usage"];
    return {usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], usage["completion_tokens"],
            json["choices"][0]["message"]["content"]};
  }

  const AgentLoopOptions options_;
  AgentLoopReport report_;
  std::unique_ptr<ServerProcess> server_;
  Json messages_ = Json::array();
  std::int64_t known_ = 0, before_ = 0;  // tokens of the conversation so far, and before its last turn
  std::int64_t blocks_ = 0;
  bool restarted_ = false;
};

}  // namespace

AgentLoopReport run_agent_loop(const AgentLoopOptions& options) { return Loop(options).run(); }

}  // namespace ds4::e2e
