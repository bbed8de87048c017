// One conversation on a model: the caller hands over the whole conversation so far, the session decides what to reuse,
// extend or rebuild; then it samples and appends.
//
//   sync(prompt) ; generate()   and again, with the answer and the next question at the end of the prompt.
//
// Invariants: the live track holds exactly the tokens of timeline(); every snapshot is a prefix of it; logits(), when
// there are any, are those after its last token. An error or a cancel leaves a shorter timeline that is still all of
// this, and the next sync() picks up there.
// One thread at a time; only the cancel flags may be set from another. Must not outlive its model and tokenizer.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/sampler.h"
#include "engine/timeline.h"
#include "engine/token_model.h"
#include "tokenizer/segment.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

struct SyncOptions {
  const std::atomic<bool>* cancel = nullptr;
  /// Tokens computed so far, of those to compute. Called between layers as well: the first number may stand still.
  std::function<void(std::int64_t done, std::int64_t todo)> progress;
};

/// Where the computation began.
enum class SyncStart {
  kReady,     // nothing to compute
  kExtended,  // at the end of the timeline
  kRewound,   // at an earlier point of it, within the kept window
  kSnapshot,  // at a snapshot
  kRebuilt,   // at nothing
};
std::string_view sync_start_name(SyncStart start);

struct SyncReport {
  std::int64_t reused = 0;
  std::int64_t computed = 0;
  std::int64_t total = 0;
  SyncStart start = SyncStart::kReady;
};

enum class StopReason { kStopToken, kMaxTokens, kContextFull, kCancelled, kCaller };

struct GenerateOptions {
  Sampling sampling;
  std::int64_t max_tokens = 50000;
  std::vector<TokenId> stop;  // ends the answer; not appended to the timeline
  const std::atomic<bool>* cancel = nullptr;
  /// Called with each token before it is computed; false ends the answer after that token.
  std::function<bool(TokenId)> on_token;
};

struct GenerateReport {
  std::int64_t tokens = 0;  // handed to on_token
  StopReason stop = StopReason::kMaxTokens;
};

class Session {
 public:
  /// `tokenizer` may be null: then only token ids are taken. At most `snapshots` tracks are kept besides the live one.
  static Result<Session> create(TokenModel& model, const Tokenizer* tokenizer, int snapshots);

  /// Makes the timeline equal to the whole conversation and computes the logits after it.
  Result<SyncReport> sync(std::span<const PromptSegment> prompt, const SyncOptions& options = {});
  Result<SyncReport> sync(std::span<const TokenId> tokens, const SyncOptions& options = {});

  /// Samples and appends until something stops it. Needs the logits of a sync(). A cancel is a stop, not an error.
  Result<GenerateReport> generate(const GenerateOptions& options);

  /// The pieces of generate(), for callers with a policy of their own.
  TokenId sample_next(const Sampling& sampling) const { return sample(logits(), sampling, timeline_.size()); }
  Status append(TokenId sampled, const std::atomic<bool>* cancel = nullptr);

  /// Starts over with `tokens` and hands out the logits after each of them, in order.
  using RowCallback = std::function<void(std::int64_t position, std::span<const float> logits)>;
  Status evaluate(std::span<const TokenId> tokens, const RowCallback& on_row, const SyncOptions& options = {});

  const Timeline& timeline() const { return timeline_; }
  bool has_logits() const { return !logits_.empty(); }
  /// After the last token; only when has_logits().
  std::span<const float> logits() const;
  /// Lengths of the snapshots, ascending.
  std::vector<std::int64_t> snapshots() const;

 private:
  struct Snapshot {
    std::unique_ptr<Track> track;
    std::int64_t length = 0;
  };
  Session(TokenModel& model, const Tokenizer* tokenizer, int snapshots, std::unique_ptr<Track> live)
      : model_(&model), tokenizer_(tokenizer), max_snapshots_(snapshots), live_(std::move(live)) {}

  Status check_tokens(std::span<const TokenId> tokens) const;
  Result<SyncReport> advance(std::span<const TokenId> target, std::int64_t turn_start, const SyncOptions& options);
  SyncStart go_back(std::int64_t wanted);
  void resume_from(std::size_t snapshot, std::int64_t length);
  Status prefill(std::span<const TokenId> target, std::span<const std::int64_t> snapshot_points,
                 const SyncOptions& options);
  Status forward(std::span<const TokenId> tokens, std::span<float> logits, const StepOptions& options);
  void take_snapshot();
  void drop_snapshots_beyond(std::int64_t length);

  TokenModel* model_;
  const Tokenizer* tokenizer_;
  int max_snapshots_;
  std::unique_ptr<Track> live_;
  Timeline timeline_;
  std::vector<float> logits_;        // [vocab], or empty
  std::vector<Snapshot> snapshots_;  // by ascending length
};

}  // namespace ds4
