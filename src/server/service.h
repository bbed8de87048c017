// From a parsed request to an answer: renders the conversation, finds its tokens, queues it at the worker, and puts
// what comes back into the words of the dialect. Thread-safe: requests come from the request threads, answers from the
// engine's thread, silence and departures from the connections' thread.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "engine/worker.h"
#include "server/api/dialect.h"
#include "server/http_server.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/replay_map.h"
#include "server/trace.h"

namespace ds4::server {

struct ServiceOptions {
  std::string model_id = "deepseek-v4-flash";
  Sampling sampling;                                    // where a request says nothing
  std::int64_t max_tokens = 393216;                     // as well; never more than the context has room for
  chat::Thinking thinking = chat::Thinking::kThinking;  // as well
  bool exact_replay = true;
  std::size_t replay_ids = 100000;  // what the ReplayMap is to hold
  int queue = 64;
};

/// Tokens of context from which Think Max is used: its long reasoning needs the room.
inline constexpr std::int64_t kThinkMaxContext = 393216;

class Service {
 public:
  /// All must outlive the service. `tokenizer` may be null.
  Service(const ServiceOptions& options, Worker& worker, const Tokenizer* tokenizer, ReplayMap& replay, Log& log,
          Metrics& metrics, Trace& trace);

  /// Answers the request through the exchange, now or later.
  void generate(Dialect dialect, const HttpRequest& request, std::shared_ptr<Exchange> exchange, Headers headers);
  /// The number of tokens that generate() would read, as Anthropic's count_tokens.
  HttpReply count_tokens(const HttpRequest& request);
  HttpReply tokenize(const HttpRequest& request);
  HttpReply detokenize(const HttpRequest& request);
  HttpReply models(std::string_view id) const;
  HttpReply props() const;

  /// Answers that are not complete yet.
  int running() const { return running_; }
  /// Ends them all, with an error that says why.
  void cancel_all();

 private:
  class Generation;
  struct Prepared {
    PromptTokens prompt;
    bool plain = false;
    bool thinking = false;
    bool answer_returns = true;  // see engine's Request
    std::string text;            // of the prompt, for the trace
  };
  using Outcome = std::variant<Prepared, ErrorInfo>;

  std::variant<GenerationRequest, ErrorInfo> read(Dialect dialect, const HttpRequest& request);
  Outcome prepare(GenerationRequest& request);
  chat::Thinking thinking_of(const GenerationRequest& request) const;
  std::optional<ErrorInfo> check_numbers(const GenerationRequest& request) const;
  Request request_for(const GenerationRequest& asked, Prepared prepared) const;
  Json model_json(std::string_view id) const;
  HttpReply failure(Dialect dialect, const ErrorInfo& error, Headers headers) const;

  const ServiceOptions options_;
  Worker& worker_;
  const Tokenizer* tokenizer_;
  ReplayMap& replay_;
  Log& log_;
  Metrics& metrics_;
  Trace& trace_;
  const std::int64_t started_;
  std::atomic<int> running_{0};
  std::mutex mutex_;  // guards cancels_
  std::vector<std::weak_ptr<std::atomic<bool>>> cancels_;
};

}  // namespace ds4::server
