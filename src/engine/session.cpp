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
  auto store = std::make_unique<StateStore>(model, snapshots);
  Session session(model, *store);
  session.own_store_ = std::move(store);
  session.tokenizer_ = tokenizer;
  DS4_ASSIGN_OR_RETURN(session.live_, model.new_track());
  return session;
}

std::span<const float> Session::logits() const {
  DS4_CHECK(has_logits());
  return logits_.all;
}

std::vector<std::int64_t> Session::snapshots() const {
  std::vector<std::int64_t> lengths;
  for (const auto& history : store_->histories()) {
    if (common_prefix(history->tokens(), timeline_.tokens()) == history->size()) lengths.push_back(history->size());
  }
  std::sort(lengths.begin(), lengths.end());
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
  const auto histories = store_->histories();
  std::vector<const Timeline*> known = {&timeline_};
  for (const auto& history : histories) known.push_back(history.get());
  const PromptTokens matched = match_prompt(*tokenizer_, pieces, known);
  return advance(matched.tokens, matched.turn_start, matched.sampled, options);
}

Result<SyncReport> Session::sync(std::span<const TokenId> tokens, const SyncOptions& options) {
  return advance(tokens, 0, {}, options);
}

Result<SyncReport> Session::start(std::span<const TokenId> tokens, std::int64_t turn_start,
                                  const std::vector<bool>& sampled, bool answer_returns) {
  DS4_RETURN_IF_ERROR(check_tokens(tokens));
  const auto total = static_cast<std::int64_t>(tokens.size());
  const bool same = std::ranges::equal(tokens, timeline_.tokens());
  SyncReport report{total, 0, total, SyncStart::kReady};
  if (!same || !has_logits()) {
    // A prompt that is all there still needs the logits of its last token: step back by one and compute that one again.
    DS4_ASSIGN_OR_RETURN(report.start, go_back(tokens.first(tokens.size() - 1)));
    report.reused = timeline_.size();
    report.computed = total - report.reused;
  }
  target_.assign(tokens.begin(), tokens.end());
  target_sampled_ = sampled;
  target_sampled_.resize(target_.size(), false);
  points_.clear();
  if (turn_start - report.reused >= kSnapshotGap && total - turn_start >= kSnapshotGap) points_.push_back(turn_start);
  points_.push_back(total);
  saver_.plan(tokens, report.reused, turn_start, answer_returns);
  saver_.reached(timeline_, *live_);
  return report;
}

void Session::adopt(Timeline history, std::unique_ptr<Track> track) {
  timeline_ = std::move(history);
  live_ = std::move(track);
  logits_ = {};
}

Result<SyncReport> Session::advance(std::span<const TokenId> target, std::int64_t turn_start,
                                    const std::vector<bool>& sampled, const SyncOptions& options) {
  if (is_set(options.cancel)) return cancelled();
  DS4_ASSIGN_OR_RETURN(const SyncReport report, start(target, turn_start, sampled));
  const std::int64_t todo = pending();
  while (pending() > 0) {
    if (is_set(options.cancel)) return cancelled();
    const std::int64_t done = todo - pending();
    const std::span<const TokenId> chunk = next(model_->max_rows());
    const auto rows = static_cast<std::int64_t>(chunk.size());
    StepOptions step{options.cancel, {}};
    if (options.progress) {
      options.progress(done, todo);
      step.progress = [&](int layers_done) { options.progress(done + rows * layers_done / model_->layers(), todo); };
    }
    NextLogits logits;
    if (wants_logits(rows)) logits.all.resize(static_cast<std::size_t>(model_->vocab()));
    DS4_RETURN_IF_ERROR(forward({live_.get(), chunk, logits.all}, step));
    computed(rows, std::move(logits));
  }
  if (options.progress && todo > 0) options.progress(todo, todo);
  return report;
}

/// To the longest beginning of `wanted` that needs no computing: here, or at a point of the store.
Result<SyncStart> Session::go_back(std::span<const TokenId> wanted) {
  logits_ = {};
  const std::int64_t length = timeline_.size();
  const std::int64_t here = live_ == nullptr ? 0 : reachable(*live_, common_prefix(wanted, timeline_.tokens()));
  if (store_->reach(wanted) > here) {
    live_.reset();  // its slot may be the one that a copy needs
    StateStore::Start start = store_->take(wanted);
    live_ = std::move(start.track);
    timeline_ = std::move(start.history);
    return SyncStart::kSnapshot;
  }
  if (live_ == nullptr) {
    DS4_ASSIGN_OR_RETURN(live_, store_->fresh());
  }
  DS4_CHECK(live_->rewind(here));
  timeline_.truncate(here);
  if (here == 0) return SyncStart::kRebuilt;
  return here == length ? SyncStart::kExtended : SyncStart::kRewound;
}

std::span<const TokenId> Session::next(std::int64_t rows) const {
  const std::int64_t at = timeline_.size();
  const auto point = std::upper_bound(points_.begin(), points_.end(), at);
  const auto total = static_cast<std::int64_t>(target_.size());
  const std::int64_t end = saver_.cut(at, std::min({point == points_.end() ? total : *point, total, at + rows}));
  return std::span(target_).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(end - at));
}

void Session::computed(std::int64_t rows, NextLogits logits) {
  for (const std::int64_t end = timeline_.size() + rows; timeline_.size() < end;) {
    const auto at = static_cast<std::size_t>(timeline_.size());
    timeline_.append(target_[at], target_sampled_[at]);
  }
  logits_ = std::move(logits);
  saver_.reached(timeline_, *live_);
  if (std::binary_search(points_.begin(), points_.end(), timeline_.size())) store_->put_copy(timeline_, *live_);
}

Status Session::feed(TokenId sampled) {
  DS4_RETURN_IF_ERROR(check_tokens(std::span(&sampled, 1)));
  DS4_CHECK(pending() == 0);
  if (timeline_.size() >= model_->context()) {
    return Error{ErrorCode::kUsage, cat("the context of ", model_->context(), " tokens is full")};
  }
  points_.clear();
  target_.push_back(sampled);
  target_sampled_.push_back(true);
  return {};
}

void Session::retire() {
  if (live_ == nullptr) return;
  saver_.finish(timeline_, *live_);
  store_->put(timeline_, std::move(live_), true);
  live_.reset();
  timeline_ = {};
  logits_ = {};
  target_.clear();
}

Status Session::forward(TrackStep step, const StepOptions& options) {
  Status status = model_->forward(std::span(&step, 1), options);
  // Points hold pages that nobody has asked for; the live conversation goes first.
  while (!status.ok() && status.error().code == ErrorCode::kOutOfMemory && store_->evict()) {
    status = model_->forward(std::span(&step, 1), options);
  }
  return status;
}

bool Session::can_sample(const Sampling& sampling) const {
  return has_logits() || settles(logits_.top, model_->vocab(), sampling);
}

TokenId Session::sample_next(const Sampling& sampling) const {
  DS4_CHECK(can_sample(sampling));
  if (has_logits()) return sample(logits(), sampling, timeline_.size());
  return sample(logits_.top, sampling, timeline_.size());
}

Status Session::append(TokenId sampled, const std::atomic<bool>* cancel, const Sampling* next) {
  if (target_.size() != static_cast<std::size_t>(timeline_.size())) {
    return Error{ErrorCode::kUsage, "nothing to continue: no prompt has been computed"};
  }
  DS4_RETURN_IF_ERROR(feed(sampled));
  NextLogits logits;
  TrackStep step{live_.get(), this->next(1)};
  if (next != nullptr && model_->draws() && may_settle(*next)) {
    step.sampling = next;
    step.next = &logits;
  } else {
    logits.all.resize(static_cast<std::size_t>(model_->vocab()));
    step.logits = logits.all;
  }
  if (Status status = forward(step, StepOptions{cancel, {}}); !status.ok()) {
    target_.pop_back();  // the logits before it still hold
    target_sampled_.pop_back();
    return status;
  }
  computed(1, std::move(logits));
  return {};
}

Result<GenerateReport> Session::generate(const GenerateOptions& options) {
  DS4_RETURN_IF_ERROR(check_sampling(options.sampling));
  if (!can_sample(options.sampling)) {
    return Error{ErrorCode::kUsage, logits_.none() ? "nothing to continue: no prompt has been computed"
                                                   : "to continue with another sampling, sync() first"};
  }
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
    if (const Status status = append(token, options.cancel, &options.sampling); !status.ok()) {
      if (status.error().code == ErrorCode::kCancelled) return stop(StopReason::kCancelled);
      return status.error();
    }
    if (!go_on) return stop(StopReason::kCaller);
  }
}

Status Session::evaluate(std::span<const TokenId> tokens, const RowCallback& on_row, const SyncOptions& options) {
  DS4_RETURN_IF_ERROR(check_tokens(tokens));
  DS4_ASSIGN_OR_RETURN([[maybe_unused]] const SyncStart from, go_back({}));
  target_.assign(tokens.begin(), tokens.end());
  target_sampled_.assign(tokens.size(), false);
  points_.clear();
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
    DS4_RETURN_IF_ERROR(forward({live_.get(), chunk, chunk_logits}, StepOptions{options.cancel, {}}));
    for (std::size_t i = 0; i < count; ++i) {
      timeline_.append(chunk[i], false);
      on_row(at + static_cast<std::int64_t>(i), chunk_logits.subspan(i * vocab, vocab));
    }
    if (options.progress) options.progress(timeline_.size(), total);
    if (timeline_.size() == total) {
      const auto last = chunk_logits.last(vocab);
      logits_ = {{last.begin(), last.end()}};
    }
  }
  return {};
}

}  // namespace ds4
