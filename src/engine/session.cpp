#include "engine/session.h"

#include <algorithm>

#include "base/text.h"
#include "engine/prompt_match.h"

namespace ds4 {

namespace {

/// A snapshot closer than this to where the computation starts or ends is not worth a track: rewinding covers it.
constexpr std::int64_t kSnapshotGap = kRewindSlack;

bool is_set(const std::atomic<bool>* flag) { return flag != nullptr && flag->load(std::memory_order_relaxed); }

Error cancelled() { return Error{ErrorCode::kCancelled, "cancelled"}; }

std::int64_t common_prefix(std::span<const TokenId> a, std::span<const TokenId> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

/// The largest length at most `wanted` that `track` can be brought to without computing.
std::int64_t reachable(const Track& track, std::int64_t wanted) {
  if (track.length() <= wanted) return track.length();
  return wanted >= track.rewind_floor() ? wanted : 0;
}

}  // namespace

std::string_view sync_start_name(SyncStart start) {
  switch (start) {
    case SyncStart::kReady: return "ready";
    case SyncStart::kExtended: return "extended";
    case SyncStart::kRewound: return "rewound";
    case SyncStart::kSnapshot: return "snapshot";
    case SyncStart::kRebuilt: return "rebuilt";
  }
  return "?";
}

Result<Session> Session::create(TokenModel& model, const Tokenizer* tokenizer, int snapshots) {
  DS4_ASSIGN_OR_RETURN(std::unique_ptr<Track> live, model.new_track());
  return Session(model, tokenizer, snapshots, std::move(live));
}

std::span<const float> Session::logits() const {
  DS4_CHECK(has_logits());
  return logits_;
}

std::vector<std::int64_t> Session::snapshots() const {
  std::vector<std::int64_t> lengths;
  for (const Snapshot& snapshot : snapshots_) lengths.push_back(snapshot.length);
  return lengths;
}

Status Session::check_tokens(std::span<const TokenId> tokens) const {
  if (tokens.empty()) return Error{ErrorCode::kUsage, "the prompt is empty: at least one token is needed"};
  const auto count = static_cast<std::int64_t>(tokens.size());
  if (count > model_->context()) {
    return Error{ErrorCode::kUsage, cat("the prompt has ", count, " tokens, but the context holds ", model_->context(),
                                        ": shorten it, or make the context larger")};
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= model_->vocab()) {
      return Error{ErrorCode::kUsage, cat("token ", i, " of the prompt is ", tokens[i], ": expected 0 to ",
                                          model_->vocab() - 1, ", the vocabulary of this model")};
    }
  }
  return {};
}

Result<SyncReport> Session::sync(std::span<const PromptSegment> prompt, const SyncOptions& options) {
  if (tokenizer_ == nullptr) {
    return Error{ErrorCode::kUsage, "this model has no tokenizer: give token ids in place of text"};
  }
  DS4_ASSIGN_OR_RETURN(const std::vector<PromptPiece> pieces, cut_prompt(*tokenizer_, prompt));
  const PromptTokens matched = match_prompt(*tokenizer_, pieces, timeline_);
  return advance(matched.tokens, matched.turn_start, options);
}

Result<SyncReport> Session::sync(std::span<const TokenId> tokens, const SyncOptions& options) {
  return advance(tokens, 0, options);
}

Result<SyncReport> Session::advance(std::span<const TokenId> target, std::int64_t turn_start,
                                    const SyncOptions& options) {
  DS4_RETURN_IF_ERROR(check_tokens(target));
  if (is_set(options.cancel)) return cancelled();

  const auto total = static_cast<std::int64_t>(target.size());
  const std::int64_t common = common_prefix(target, timeline_.tokens());
  if (common == total && total == timeline_.size() && has_logits())
    return SyncReport{total, 0, total, SyncStart::kReady};

  // A prompt that is all there still needs the logits of its last token: step back by one and compute that one again.
  const SyncStart start = go_back(std::min(common, total - 1));
  const std::int64_t reused = timeline_.size();

  std::vector<std::int64_t> points;
  if (turn_start - reused >= kSnapshotGap && total - turn_start >= kSnapshotGap) points.push_back(turn_start);
  points.push_back(total);
  DS4_RETURN_IF_ERROR(prefill(target, points, options));
  return SyncReport{reused, total - reused, total, start};
}

SyncStart Session::go_back(std::int64_t wanted) {
  logits_.clear();
  const std::int64_t length = timeline_.size();
  std::int64_t best = reachable(*live_, wanted);
  std::size_t source = snapshots_.size();  // the live track
  for (std::size_t i = 0; i < snapshots_.size(); ++i) {
    const std::int64_t reach = reachable(*snapshots_[i].track, wanted);
    if (reach > best) {
      best = reach;
      source = i;
    }
  }
  const bool from_snapshot = source < snapshots_.size();
  if (from_snapshot) {
    resume_from(source, best);
  } else {
    DS4_CHECK(live_->rewind(best));
  }
  timeline_.truncate(best);
  drop_snapshots_beyond(best);
  if (best == length && length > 0) return SyncStart::kExtended;
  if (best == 0) return SyncStart::kRebuilt;
  return from_snapshot ? SyncStart::kSnapshot : SyncStart::kRewound;
}

void Session::resume_from(std::size_t snapshot, std::int64_t length) {
  live_.reset();  // its slot may be the one that the fork needs
  Snapshot& from = snapshots_[snapshot];
  // A snapshot that goes on to serve is copied. One that lies beyond `length` would be dropped: it becomes the track.
  if (from.length <= length) {
    if (Result<std::unique_ptr<Track>> copy = from.track->fork(); copy.ok()) live_ = std::move(copy).value();
  }
  if (live_ == nullptr) {
    live_ = std::move(from.track);
    snapshots_.erase(snapshots_.begin() + static_cast<std::ptrdiff_t>(snapshot));
  }
  DS4_CHECK(live_->rewind(length));
}

Status Session::prefill(std::span<const TokenId> target, std::span<const std::int64_t> snapshot_points,
                        const SyncOptions& options) {
  const auto total = static_cast<std::int64_t>(target.size());
  const std::int64_t first = timeline_.size();
  std::vector<float> logits(static_cast<std::size_t>(model_->vocab()));
  while (timeline_.size() < total) {
    if (is_set(options.cancel)) return cancelled();
    const std::int64_t at = timeline_.size();
    const std::int64_t next_point = *std::upper_bound(snapshot_points.begin(), snapshot_points.end(), at);
    const std::int64_t end = std::min(next_point, at + model_->max_rows());
    const auto chunk = target.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(end - at));

    StepOptions step{options.cancel, {}};
    if (options.progress) {
      options.progress(at - first, total - first);
      step.progress = [&](int layers_done) {
        options.progress(at - first + (end - at) * layers_done / model_->layers(), total - first);
      };
    }
    DS4_RETURN_IF_ERROR(forward(chunk, end == total ? std::span<float>(logits) : std::span<float>(), step));
    for (const TokenId token : chunk) timeline_.append(token, false);
    if (end == next_point) take_snapshot();
  }
  logits_ = std::move(logits);
  if (options.progress) options.progress(total - first, total - first);
  return {};
}

Status Session::forward(std::span<const TokenId> tokens, std::span<float> logits, const StepOptions& options) {
  Status status = model_->forward(*live_, tokens, logits, options);
  if (!status.ok() && status.error().code == ErrorCode::kOutOfMemory && !snapshots_.empty()) {
    snapshots_.clear();  // they hold pages that nobody has asked for; the live conversation goes first
    status = model_->forward(*live_, tokens, logits, options);
  }
  return status;
}

void Session::take_snapshot() {
  const std::int64_t length = timeline_.size();
  if (max_snapshots_ == 0 || (!snapshots_.empty() && snapshots_.back().length == length)) return;
  if (static_cast<int>(snapshots_.size()) == max_snapshots_) {
    // The one closest to its predecessor goes: losing it costs the least. What stays is a ladder.
    std::size_t victim = 0;
    std::int64_t least = snapshots_[0].length;
    for (std::size_t i = 1; i < snapshots_.size(); ++i) {
      const std::int64_t gap = snapshots_[i].length - snapshots_[i - 1].length;
      if (gap < least) {
        least = gap;
        victim = i;
      }
    }
    snapshots_.erase(snapshots_.begin() + static_cast<std::ptrdiff_t>(victim));
  }
  // A snapshot is a convenience: without memory for it the session works on.
  if (Result<std::unique_ptr<Track>> copy = live_->fork(); copy.ok()) {
    snapshots_.push_back({std::move(copy).value(), length});
  }
}

void Session::drop_snapshots_beyond(std::int64_t length) {
  std::erase_if(snapshots_, [&](const Snapshot& snapshot) { return snapshot.length > length; });
}

Status Session::append(TokenId sampled, const std::atomic<bool>* cancel) {
  DS4_RETURN_IF_ERROR(check_tokens(std::span(&sampled, 1)));
  if (timeline_.size() >= model_->context()) {
    return Error{ErrorCode::kUsage, cat("the context of ", model_->context(), " tokens is full")};
  }
  std::vector<float> logits(static_cast<std::size_t>(model_->vocab()));
  DS4_RETURN_IF_ERROR(forward(std::span(&sampled, 1), logits, StepOptions{cancel, {}}));
  timeline_.append(sampled, true);
  logits_ = std::move(logits);
  return {};
}

Result<GenerateReport> Session::generate(const GenerateOptions& options) {
  DS4_RETURN_IF_ERROR(check_sampling(options.sampling));
  if (!has_logits()) return Error{ErrorCode::kUsage, "nothing to continue: no prompt has been computed"};
  GenerateReport report;
  const auto stop = [&](StopReason reason) {
    report.stop = reason;
    return report;
  };
  while (true) {
    if (report.tokens >= options.max_tokens) return stop(StopReason::kMaxTokens);
    if (is_set(options.cancel)) return stop(StopReason::kCancelled);
    if (timeline_.size() >= model_->context()) return stop(StopReason::kContextFull);
    const TokenId token = sample_next(options.sampling);
    if (std::find(options.stop.begin(), options.stop.end(), token) != options.stop.end()) {
      return stop(StopReason::kStopToken);
    }
    ++report.tokens;
    const bool go_on = !options.on_token || options.on_token(token);
    if (const Status status = append(token, options.cancel); !status.ok()) {
      if (status.error().code == ErrorCode::kCancelled) return stop(StopReason::kCancelled);
      return status.error();
    }
    if (!go_on) return stop(StopReason::kCaller);
  }
}

Status Session::evaluate(std::span<const TokenId> tokens, const RowCallback& on_row, const SyncOptions& options) {
  DS4_RETURN_IF_ERROR(check_tokens(tokens));
  go_back(0);
  const auto vocab = static_cast<std::size_t>(model_->vocab());
  const auto total = static_cast<std::int64_t>(tokens.size());
  const std::int64_t rows = std::min(model_->max_rows(), model_->max_logit_rows());
  std::vector<float> logits(vocab * static_cast<std::size_t>(std::min(rows, total)));
  while (timeline_.size() < total) {
    if (is_set(options.cancel)) return cancelled();
    const std::int64_t at = timeline_.size();
    const auto count = static_cast<std::size_t>(std::min(rows, total - at));
    const auto chunk = tokens.subspan(static_cast<std::size_t>(at), count);
    const std::span<float> chunk_logits(logits.data(), count * vocab);
    DS4_RETURN_IF_ERROR(forward(chunk, chunk_logits, StepOptions{options.cancel, {}}));
    for (std::size_t i = 0; i < count; ++i) {
      timeline_.append(chunk[i], false);
      on_row(at + static_cast<std::int64_t>(i), chunk_logits.subspan(i * vocab, vocab));
    }
    if (options.progress) options.progress(timeline_.size(), total);
    if (timeline_.size() == total) {
      const auto last = chunk_logits.last(vocab);
      logits_.assign(last.begin(), last.end());
    }
  }
  return {};
}

}  // namespace ds4
