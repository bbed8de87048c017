// Many conversations on one model: a thread that owns the model, a bounded queue in front of it, and one forward pass
// after the other, each with the next token of every answer and a slice of a prompt.
//
//   worker.match(prompt)  ->  worker.submit(request)  ->  listener: begin, progress*, token*, done
//
// Fair by construction: requests enter in the order they came; each pass takes every answer one token further; prompts
// take turns with slices that are cut to a time, so that a short one is through while a long one is being read.
// What an answer leaves is kept in a StateStore that all conversations share.
//
// submit(), match(), wake() and stats() may be called by any thread. Listeners are called by the worker's thread only:
// they must not block it and not throw. A cancel flag is polled before each pass, and inside it when the pass serves
// nobody else; call wake() after setting it.
//
// When the model's device fails (TokenModel::health()), everything that runs or waits ends with kDeviceFailed, what was
// kept in memory is dropped, and the model is rebuilt on the worker's thread if the owner wants that.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "base/result.h"
#include "engine/disk_states.h"
#include "engine/prompt_match.h"
#include "engine/sampler.h"
#include "engine/session.h"
#include "engine/state_store.h"
#include "engine/token_model.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

struct WorkerOptions {
  int parallel = 1;            // answers and prompts in work at once
  int points = 3;              // resume points kept, all conversations together
  int max_queue = 64;          // requests that wait
  double slice = 0.3;          // seconds that a pass with a prompt should take: at most half a second comes of it
  double mixed_slice = 0.2;    // the same while answers are being written
  int mixed_rows = 128;        // and at most so many prompt tokens then
  DiskStates* disk = nullptr;  // states for later processes, and from earlier ones; must outlive the worker
  /// The device has failed. Called by the worker's thread, before the requests that this ends are told; from now on
  /// submit() says kDown. True: the model is to be set up again. Without it nothing is.
  std::function<bool(const Error& fault)> on_fault = {};
  /// That was done, and requests are taken again; or it failed, and they never will be.
  std::function<void(const Status& rebuilt)> on_rebuilt = {};
};

/// A token of an answer.
struct TokenEvent {
  TokenId token = 0;
  std::string_view bytes;
  double logprob = 0;             // of the model, before temperature and adjustments; when asked for
  std::vector<TokenLogprob> top;  // the same of the most probable ones
};

/// What the listener wants next.
struct Verdict {
  bool stop = false;            // the answer is complete with this token
  bool greedy = false;          // the next token is to be the most probable one
  std::vector<TokenId> forced;  // these come next, whatever the model thinks
};

enum class FinishReason {
  kEnd,       // the model ended its answer
  kListener,  // Verdict::stop
  kMaxTokens,
  kContextFull,
  kCancelled,
  kFailed,        // Finish::error says why
  kDeviceFailed,  // as well; nothing is wrong with the request
};

struct Finish {
  FinishReason reason = FinishReason::kEnd;
  Error error;
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;  // of them, not computed again
  std::int64_t loaded_tokens = 0;  // of the cached ones, from disk
  std::int64_t tokens = 0;         // of the answer
  double queue_seconds = 0;
  double load_seconds = 0;  // for the disk
  double prompt_seconds = 0;
  double answer_seconds = 0;
};

class Listener {
 public:
  virtual ~Listener() = default;
  /// Prompt tokens that are known, of all. Once when the request leaves the queue, then after every slice.
  virtual void progress(std::int64_t done, std::int64_t total) = 0;
  /// The prompt is read: what is wanted of the first token.
  virtual Verdict begin() = 0;
  virtual Verdict token(const TokenEvent& event) = 0;
  /// The last call, once, whatever happened.
  virtual void done(const Finish& finish) = 0;
};

struct Request {
  PromptTokens prompt;
  Sampling sampling;
  LogitAdjustments adjustments;
  std::int64_t max_tokens = 0;
  bool answer_returns = true;  // the next prompt will have the answer as it is: thinking that is dropped will not
  std::vector<TokenId> stop;   // tokens that end the answer and are not part of it
  bool logprobs = false;
  int top_logprobs = 0;
  std::shared_ptr<std::atomic<bool>> cancel = std::make_shared<std::atomic<bool>>(false);
  std::shared_ptr<Listener> listener;
};

struct WorkerStats {
  int queued = 0;
  int active = 0;
  int points = 0;
  std::uint64_t requests = 0;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t cached_tokens = 0;
  std::uint64_t answer_tokens = 0;
  std::uint64_t passes = 0;
  std::optional<kvstore::StoreStats> disk;  // absent without one
};

class Worker {
 public:
  /// Starts the thread. `tokenizer` may be null: then only token ids are taken. Both must outlive the worker.
  Worker(TokenModel& model, const Tokenizer* tokenizer, const WorkerOptions& options);
  /// Cancels what is running or waiting; every listener has had its done().
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// The tokens of a whole conversation: those of a known one as far as its bytes agree, the rest tokenized.
  Result<PromptTokens> match(std::span<const PromptSegment> prompt) const;
  /// Token ids as they are.
  static PromptTokens as_given(std::vector<TokenId> tokens);

  enum class Admission { kQueued, kFull, kDown, kStopped };
  /// Anything but kQueued: the listener will not be called.
  Admission submit(Request request);
  void wake();

  WorkerStats stats() const;
  std::int64_t context() const { return model_.context(); }
  int vocab() const { return model_.vocab(); }
  int parallel() const { return options_.parallel; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Job;
  struct Bell;
  struct Part {
    Job* job;
    std::span<const TokenId> tokens;
    bool loud;  // brings logits
    NextLogits logits = {};
  };

  void run();
  bool recover(const Error& fault);
  bool take_work();
  void start(std::unique_ptr<Job> job);
  bool begin_load(Job& job);
  void end_load(Job& job);
  void begin(Job& job);
  void pass();
  std::vector<Part> choose_parts();
  std::int64_t prompt_rows(bool mixed) const;
  Status forward(std::span<Part> parts);
  void commit(std::span<Part> parts, double seconds);
  static void accept(Job& job, Verdict verdict);
  void next_token(Job& job);
  TokenId draw(Job& job) const;
  TokenEvent describe(const Job& job, TokenId token) const;
  void finish(Job& job, FinishReason reason, Error error = {});

  TokenModel& model_;
  const Tokenizer* tokenizer_;
  const WorkerOptions options_;
  StateStore store_;
  std::shared_ptr<Bell> bell_;  // how loads wake the worker, while there is one

  // The worker's thread only.
  std::vector<std::unique_ptr<Job>> jobs_;
  std::uint64_t turn_ = 0;  // passes so far
  double rows_per_second_ = 0;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_;
  bool stop_ = false;
  bool down_ = false;  // the device has failed
  bool look_ = false;  // something may have been cancelled
  WorkerStats stats_;

  std::thread thread_;
};

}  // namespace ds4
