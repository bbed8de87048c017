// One conversation on a model: the caller hands over the whole conversation so far, the session decides what to reuse,
// extend or rebuild; then it samples and appends.
//
//   sync(prompt) ; generate()   and again, with the answer and the next question at the end of the prompt.
//
// A scheduler that computes many sessions in one forward pass takes the pieces that these are made of:
//
//   start(tokens) ; while pending(): computed(next rows, logits) ; feed(token) ; ...
//
// Invariants: the live track holds exactly the tokens of timeline(); the logits, when there are any, are those after
// its last token. An error or a cancel leaves a shorter timeline that is still all of this, and the next sync() picks
// up there. Resume points go to a StateStore: its own, or one that it shares. One thread at a time; only the cancel
// flags may be set from another. Must not outlive its model, tokenizer and store.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/disk_states.h"
#include "engine/sampler.h"
#include "engine/state_store.h"
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
  /// A session that starts from the points of `store` and leaves its own there. Driven piece by piece.
  Session(TokenModel& model, StateStore& store) : model_(&model), store_(&store), saver_(store.disk()) {}

  /// Makes the timeline equal to the whole conversation and computes the logits after it.
  Result<SyncReport> sync(std::span<const PromptSegment> prompt, const SyncOptions& options = {});
  Result<SyncReport> sync(std::span<const TokenId> tokens, const SyncOptions& options = {});

  /// Samples and appends until something stops it. Needs the logits of a sync(). A cancel is a stop, not an error.
  Result<GenerateReport> generate(const GenerateOptions& options);

  /// The pieces of generate(), for callers with a policy of their own. sample_next() where can_sample(). With `next`,
  /// append() need not bring more logits than such a draw, or a greedy one, needs.
  bool can_sample(const Sampling& sampling) const;
  TokenId sample_next(const Sampling& sampling) const;
  Status append(TokenId sampled, const std::atomic<bool>* cancel = nullptr, const Sampling* next = nullptr);

  /// The pieces of sync(). start() goes back to where `tokens` and what is known part; the rest is pending.
  /// `sampled` says of the first tokens whether the model had sampled them; `turn_start` is worth a resume point. See
  /// StateSaver for `answer_returns`.
  Result<SyncReport> start(std::span<const TokenId> tokens, std::int64_t turn_start = 0,
                           const std::vector<bool>& sampled = {}, bool answer_returns = true);
  /// A track that was computed elsewhere is the live one, before start(). `history` is what it holds.
  void adopt(Timeline history, std::unique_ptr<Track> track);
  /// Puts a sampled token behind the others.
  Status feed(TokenId sampled);
  std::int64_t pending() const { return static_cast<std::int64_t>(target_.size()) - timeline_.size(); }
  /// What to compute next, at most `rows` tokens: they end where a resume point is to be, or where logits are.
  std::span<const TokenId> next(std::int64_t rows) const;
  /// After next(rows) tokens nothing is pending: this step has to bring logits.
  bool wants_logits(std::int64_t rows) const { return rows == pending(); }
  Track& track() { return *live_; }
  /// The next `rows` tokens are on the track. `logits` as wants_logits() says.
  void computed(std::int64_t rows, NextLogits logits);
  /// Leaves the live track in the store as the end of an answer. The session is over.
  void retire();

  /// Starts over with `tokens` and hands out the logits after each of them, in order.
  using RowCallback = std::function<void(std::int64_t position, std::span<const float> logits)>;
  Status evaluate(std::span<const TokenId> tokens, const RowCallback& on_row, const SyncOptions& options = {});

  const Timeline& timeline() const { return timeline_; }
  /// All of them: not after a step that brought only the largest.
  bool has_logits() const { return !logits_.all.empty(); }
  /// After the last token; only when has_logits().
  std::span<const float> logits() const;
  /// Lengths of the resume points of this timeline, ascending.
  std::vector<std::int64_t> snapshots() const;

 private:
  Status check_tokens(std::span<const TokenId> tokens) const;
  Result<SyncReport> advance(std::span<const TokenId> target, std::int64_t turn_start, const std::vector<bool>& sampled,
                             const SyncOptions& options);
  Result<SyncStart> go_back(std::span<const TokenId> wanted);
  Status forward(TrackStep step, const StepOptions& options);

  TokenModel* model_;
  const Tokenizer* tokenizer_ = nullptr;
  std::unique_ptr<StateStore> own_store_;
  StateStore* store_;
  std::unique_ptr<Track> live_;
  Timeline timeline_;
  NextLogits logits_;  // after the last token, or none

  std::vector<TokenId> target_;       // timeline() and what is pending
  std::vector<bool> target_sampled_;  // [target_]
  StateSaver saver_;
  std::vector<std::int64_t> points_;  // where resume points are to be, ascending
};

}  // namespace ds4
