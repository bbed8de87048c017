#include "engine/worker.h"

#include <pthread.h>

#include <algorithm>

#include "base/text.h"

namespace ds4 {

namespace {

/// Fewer prompt rows than this in one pass are not worth a pass, however slow the machine.
constexpr std::int64_t kFewestRows = 16;
/// Until something has been measured.
constexpr std::int64_t kFirstRows = 64;
/// A state that is computed again in no time is not worth a place in the store.
constexpr std::int64_t kShortestKept = 16;
/// What the disk must have beyond what memory has.
constexpr std::int64_t kWorthLoading = kvstore::kBlockTokens;
constexpr Sampling kGreedy{.temperature = 0};

double seconds(std::chrono::steady_clock::duration time) { return std::chrono::duration<double>(time).count(); }

}  // namespace

/// Loads end on another thread, possibly after the worker.
struct Worker::Bell {
  std::mutex mutex;
  Worker* worker = nullptr;
  void ring() {
    const std::lock_guard lock(mutex);
    if (worker != nullptr) worker->wake();
  }
};

namespace {

/// A state on its way from the disk. `state` belongs to the worker once `done` is set.
struct Loading {
  kvstore::Key key{};
  std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();
  std::atomic<bool> done{false};
  std::optional<Result<kvstore::LoadedState>> state;
};

}  // namespace

/// A request from the queue to its end.
struct Worker::Job {
  Job(Request r, TokenModel& model, StateStore& store) : request(std::move(r)), session(model, store) {}
  /// There is something to compute for it.
  bool runs() const { return !over && loading == nullptr; }
  bool cancelled() const { return request.cancel->load(std::memory_order_relaxed); }
  /// Of the next token.
  const Sampling& sampling() const { return greedy ? kGreedy : request.sampling; }
  /// It may be drawn from the largest logits alone.
  bool top_may_do() const { return !request.adjustments.any() && !request.logprobs && may_settle(sampling()); }

  Request request;
  Session session;
  Finish finish;
  bool reading = true;       // the prompt is not all there yet
  std::uint64_t served = 0;  // the turn in which some of it was read last; who has waited longest is next
  bool over = false;
  bool greedy = false;  // for the next token
  std::deque<TokenId> forced;
  std::vector<TokenId> answer;
  std::shared_ptr<Loading> loading;  // waits for the disk
  std::optional<kvstore::Key> from;  // the state on disk that it was begun with
  Clock::time_point arrived = Clock::now(), started, answering;
};

Worker::Worker(TokenModel& model, const Tokenizer* tokenizer, const WorkerOptions& options)
    : model_(model),
      tokenizer_(tokenizer),
      options_(options),
      store_(model, options.points, options.disk),
      bell_(std::make_shared<Bell>()) {
  bell_->worker = this;
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "ds4-engine");
    run();
  });
}

Worker::~Worker() {
  {
    const std::lock_guard lock(bell_->mutex);
    bell_->worker = nullptr;
  }
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

Result<PromptTokens> Worker::match(std::span<const PromptSegment> prompt) const {
  if (tokenizer_ == nullptr) {
    return Error{ErrorCode::kUsage, "this model has no tokenizer: give token ids in place of text"};
  }
  DS4_ASSIGN_OR_RETURN(const std::vector<PromptPiece> pieces, cut_prompt(*tokenizer_, prompt));
  const auto histories = store_.histories();
  std::vector<const Timeline*> known;
  for (const auto& history : histories) known.push_back(history.get());
  Timeline stored;
  if (options_.disk != nullptr) {
    stored = options_.disk->match(*tokenizer_, pieces);
    known.push_back(&stored);
  }
  return match_prompt(*tokenizer_, pieces, known);
}

PromptTokens Worker::as_given(std::vector<TokenId> tokens) {
  PromptTokens prompt;
  prompt.tokens = std::move(tokens);
  return prompt;
}

Worker::Admission Worker::submit(Request request) {
  auto job = std::make_unique<Job>(std::move(request), model_, store_);
  {
    const std::lock_guard lock(mutex_);
    if (stop_) return Admission::kStopped;
    if (down_) return Admission::kDown;
    if (queue_.size() >= static_cast<std::size_t>(options_.max_queue)) return Admission::kFull;
    queue_.push_back(std::move(job));
    stats_.queued = static_cast<int>(queue_.size());
    ++stats_.requests;
  }
  wake_.notify_all();
  return Admission::kQueued;
}

void Worker::wake() {
  {
    const std::lock_guard lock(mutex_);
    look_ = true;
  }
  wake_.notify_all();
}

WorkerStats Worker::stats() const {
  WorkerStats stats;
  {
    const std::lock_guard lock(mutex_);
    stats = stats_;
  }
  if (options_.disk != nullptr) stats.disk = options_.disk->store().stats();
  return stats;
}

void Worker::run() {
  while (take_work()) {
    if (!jobs_.empty()) pass();
    if (const Status health = model_.health(); !health.ok() && !recover(health.error())) return;
  }
  for (auto& job : jobs_) finish(*job, FinishReason::kCancelled);
  // The end may have come after the queue was looked at; nothing enters it any more.
  std::deque<std::unique_ptr<Job>> waiting;
  {
    const std::lock_guard lock(mutex_);
    waiting.swap(queue_);
  }
  for (auto& job : waiting) finish(*job, FinishReason::kCancelled);
}

/// The device has failed: everything ends, and begins anew if it can. False: it cannot.
bool Worker::recover(const Error& fault) {
  std::deque<std::unique_ptr<Job>> waiting;
  {
    const std::lock_guard lock(mutex_);
    down_ = true;
    waiting.swap(queue_);
    stats_.queued = 0;
  }
  const bool again = options_.on_fault && options_.on_fault(fault);
  const Error error{fault.code, cat("the device failed: ", fault.message)};
  for (auto& job : jobs_) finish(*job, FinishReason::kDeviceFailed, error);
  for (auto& job : waiting) finish(*job, FinishReason::kDeviceFailed, error);
  jobs_.clear();
  store_.clear();
  turn_ = 0;
  rows_per_second_ = 0;
  {
    const std::lock_guard lock(mutex_);
    stats_.active = stats_.points = 0;
    if (stop_ || !again) return false;
  }
  const Status rebuilt = model_.rebuild();
  if (rebuilt.ok()) {
    const std::lock_guard lock(mutex_);
    down_ = false;
  }
  if (options_.on_rebuilt) options_.on_rebuilt(rebuilt);
  return rebuilt.ok();
}

/// Waits for something to do and moves requests from the queue into work; false at the end.
bool Worker::take_work() {
  std::vector<std::unique_ptr<Job>> entering, leaving;
  std::erase_if(jobs_, [](const auto& job) { return job->over; });
  {
    std::unique_lock lock(mutex_);
    stats_.active = static_cast<int>(jobs_.size());
    stats_.points = store_.size();
    const auto runs = [](const auto& job) { return job->runs(); };
    const bool full = jobs_.size() >= static_cast<std::size_t>(options_.parallel);
    wake_.wait(lock, [&] { return stop_ || look_ || (!queue_.empty() && !full) || std::ranges::any_of(jobs_, runs); });
    look_ = false;
    for (auto at = queue_.begin(); at != queue_.end();) {
      const bool room = jobs_.size() + entering.size() < static_cast<std::size_t>(options_.parallel);
      const bool leaves = stop_ || (*at)->cancelled();
      if (!room && !leaves) {
        ++at;
        continue;
      }
      (leaves ? leaving : entering).push_back(std::move(*at));
      at = queue_.erase(at);
    }
    stats_.queued = static_cast<int>(queue_.size());
  }
  for (auto& job : leaving) finish(*job, FinishReason::kCancelled);
  for (auto& job : entering) start(std::move(job));
  for (auto& job : jobs_) {
    if (job->loading != nullptr && job->loading->done) end_load(*job);
  }
  const std::lock_guard lock(mutex_);
  stats_.active = static_cast<int>(jobs_.size());
  return !stop_;
}

void Worker::start(std::unique_ptr<Job> job) {
  job->started = job->answering = Clock::now();
  job->finish.queue_seconds = seconds(job->started - job->arrived);
  job->finish.prompt_tokens = static_cast<std::int64_t>(job->request.prompt.tokens.size());
  job->served = turn_ == 0 ? 0 : turn_ - 1;  // before who was read last, behind who still waits
  jobs_.push_back(std::move(job));
  if (!begin_load(*jobs_.back())) begin(*jobs_.back());
}

/// True when the disk has more of the prompt than memory has: the job waits for it, the others go on.
bool Worker::begin_load(Job& job) {
  const std::span<const TokenId> tokens(job.request.prompt.tokens);
  if (options_.disk == nullptr || tokens.empty()) return false;
  const std::span<const TokenId> wanted = tokens.first(tokens.size() - 1);
  const kvstore::Tree::Found found = options_.disk->longest(wanted);
  if (static_cast<std::int64_t>(found.position) < store_.carries(wanted) + kWorthLoading) return false;
  auto loading = std::make_shared<Loading>();
  loading->key = found.key;
  job.loading = loading;
  options_.disk->store().load(found.key, [loading, bell = bell_](Result<kvstore::LoadedState> state) {
    loading->state = std::move(state);
    loading->done = true;
    bell->ring();
  });
  return true;
}

void Worker::end_load(Job& job) {
  const std::shared_ptr<Loading> loading = std::exchange(job.loading, nullptr);
  const Result<kvstore::LoadedState>& state = *loading->state;
  if (job.over) return;
  // What could not be read is not stored any more: the next best, until nothing is left.
  if (!state.ok()) {
    if (!begin_load(job)) begin(job);
    return;
  }
  SequencePieces pieces;
  for (const auto& block : state->blocks) pieces.blocks.push_back(block.payload());
  pieces.point = state->point.payload();
  Result<std::unique_ptr<Track>> track = store_.restore(pieces);
  if (track.ok()) {
    Timeline history;
    for (std::size_t i = 0; i < state->tokens.size(); ++i) history.append(state->tokens[i], state->sampled[i]);
    job.from = loading->key;
    job.finish.loaded_tokens = history.size();
    job.session.adopt(std::move(history), std::move(track).value());
  } else if (track.error().code != ErrorCode::kOutOfMemory) {
    options_.disk->store().forget(loading->key, track.error().message);
  }
  job.finish.load_seconds = seconds(Clock::now() - loading->since);
  begin(job);
}

void Worker::begin(Job& job) {
  const PromptTokens& prompt = job.request.prompt;
  const Result<SyncReport> report =
      job.session.start(prompt.tokens, prompt.turn_start, prompt.sampled, job.request.answer_returns);
  if (!report.ok()) return finish(job, FinishReason::kFailed, report.error());
  job.finish.cached_tokens = report->reused;
  job.request.listener->progress(report->reused, report->total);
}

void Worker::pass() {
  for (auto& job : jobs_) {
    if (job->cancelled()) finish(*job, FinishReason::kCancelled);
  }
  std::vector<Part> parts = choose_parts();
  if (parts.empty()) return;
  const auto begin = Clock::now();
  const Status status = forward(parts);
  const double took = seconds(Clock::now() - begin);
  if (status.ok()) return commit(parts, took);
  if (!model_.health().ok()) return;  // run() sees it too: nobody is to blame, and nothing else will work
  if (parts.size() == 1) {
    const bool cancelled = status.error().code == ErrorCode::kCancelled;
    return finish(*parts[0].job, cancelled ? FinishReason::kCancelled : FinishReason::kFailed, status.error());
  }
  // Whose fault it was shows when each goes alone.
  for (Part& part : parts) {
    const std::span<Part> alone(&part, 1);
    if (const Status single = forward(alone); single.ok()) {
      commit(alone, 0);
    } else if (!model_.health().ok()) {
      return;
    } else {
      const bool cancelled = single.error().code == ErrorCode::kCancelled;
      finish(*part.job, cancelled ? FinishReason::kCancelled : FinishReason::kFailed, single.error());
    }
  }
}

/// A row for every answer, then prompts in turn as far as the pass has room.
std::vector<Worker::Part> Worker::choose_parts() {
  std::vector<Part> parts;
  std::int64_t logit_rows = model_.max_logit_rows();
  std::int64_t room = model_.max_rows();
  const auto take = [&](Job& job, std::int64_t rows) {
    const auto tokens = job.session.next(rows);
    const auto count = static_cast<std::int64_t>(tokens.size());
    const bool wants = job.session.wants_logits(count);
    if (wants && logit_rows == 0) return false;
    logit_rows -= wants ? 1 : 0;
    room -= count;
    parts.push_back({&job, tokens, wants});
    return true;
  };
  for (auto& job : jobs_) {
    if (job->runs() && !job->reading && room > 0) take(*job, 1);
  }
  room = std::min(room, prompt_rows(!parts.empty()));
  std::vector<Job*> readers;
  for (auto& job : jobs_) {
    if (job->runs() && job->reading) readers.push_back(job.get());
  }
  std::ranges::stable_sort(readers, {}, &Job::served);
  ++turn_;
  for (Job* job : readers) {
    if (room > 0 && take(*job, room)) job->served = turn_;
  }
  return parts;
}

std::int64_t Worker::prompt_rows(bool mixed) const {
  const double time = mixed ? options_.mixed_slice : options_.slice;
  const std::int64_t most = mixed ? std::min(options_.mixed_rows, model_.max_rows()) : model_.max_rows();
  const auto measured = static_cast<std::int64_t>(rows_per_second_ * time);
  return std::min(most, rows_per_second_ == 0 ? kFirstRows : std::max(kFewestRows, measured));
}

Status Worker::forward(std::span<Part> parts) {
  std::vector<TrackStep> steps;
  for (Part& part : parts) {
    TrackStep& step = steps.emplace_back(&part.job->session.track(), part.tokens);
    if (part.loud && model_.draws() && part.job->top_may_do()) {
      step.sampling = &part.job->sampling();
      step.next = &part.logits;
    } else if (part.loud) {
      part.logits.all.resize(static_cast<std::size_t>(model_.vocab()));
      step.logits = part.logits.all;
    }
  }
  StepOptions step;
  if (parts.size() == 1) step.cancel = parts[0].job->request.cancel.get();
  Status status = model_.forward(steps, step);
  // Points hold pages that nobody has asked for; running conversations go first.
  while (!status.ok() && status.error().code == ErrorCode::kOutOfMemory && store_.evict()) {
    status = model_.forward(steps, step);
  }
  return status;
}

/// `took` 0: not measured.
void Worker::commit(std::span<Part> parts, double took) {
  std::int64_t rows = 0;
  for (const Part& part : parts) rows += static_cast<std::int64_t>(part.tokens.size());
  if (took > 0 && rows >= kFewestRows) {
    const double rate = static_cast<double>(rows) / took;
    rows_per_second_ = rows_per_second_ == 0 ? rate : 0.5 * (rows_per_second_ + rate);
  }
  std::uint64_t prompt_rows = 0;
  for (Part& part : parts) {
    Job& job = *part.job;
    const auto count = static_cast<std::int64_t>(part.tokens.size());
    job.session.computed(count, std::move(part.logits));
    if (!job.reading) {
      next_token(job);
      continue;
    }
    prompt_rows += static_cast<std::uint64_t>(count);
    job.request.listener->progress(job.session.timeline().size(), job.finish.prompt_tokens);
    if (job.session.pending() > 0) continue;
    job.reading = false;
    job.answering = Clock::now();
    job.finish.prompt_seconds = seconds(job.answering - job.started);
    accept(job, job.request.listener->begin());
    next_token(job);
  }
  const std::lock_guard lock(mutex_);
  ++stats_.passes;
  stats_.prompt_tokens += prompt_rows;
}

void Worker::accept(Job& job, Verdict verdict) {
  job.greedy = verdict.greedy;
  job.forced.insert(job.forced.end(), verdict.forced.begin(), verdict.forced.end());
}

/// The logits after everything so far are there: one token more, or the end.
void Worker::next_token(Job& job) {
  const Request& request = job.request;
  const auto full = [&] { return static_cast<std::int64_t>(job.answer.size()) >= request.max_tokens; };
  if (job.cancelled()) return finish(job, FinishReason::kCancelled);
  if (full()) return finish(job, FinishReason::kMaxTokens);
  if (job.session.timeline().size() >= model_.context()) return finish(job, FinishReason::kContextFull);

  TokenId token = 0;
  if (!job.forced.empty()) {
    token = job.forced.front();
    job.forced.pop_front();
  } else {
    token = draw(job);
    if (std::ranges::find(request.stop, token) != request.stop.end()) return finish(job, FinishReason::kEnd);
  }
  const Verdict verdict = request.listener->token(describe(job, token));
  job.answer.push_back(token);
  // The last token of an answer is not computed: it comes back with the next prompt, if there is one.
  if (verdict.stop) return finish(job, FinishReason::kListener);
  if (full()) return finish(job, FinishReason::kMaxTokens);
  accept(job, verdict);
  if (const Status status = job.session.feed(token); !status.ok()) finish(job, FinishReason::kFailed, status.error());
}

TokenId Worker::draw(Job& job) const {
  if (!job.request.adjustments.any()) return job.session.sample_next(job.sampling());
  const std::int64_t position = job.session.timeline().size();
  const auto prompt = std::span(job.request.prompt.tokens);
  return sample(adjusted(job.session.logits(), job.request.adjustments, prompt, job.answer), job.sampling(), position);
}

TokenEvent Worker::describe(const Job& job, TokenId token) const {
  TokenEvent event;
  event.token = token;
  if (tokenizer_ != nullptr) event.bytes = tokenizer_->token_bytes(token);
  if (!job.request.logprobs) return event;
  event.logprob = logprob(job.session.logits(), token);
  if (job.request.top_logprobs > 0) {
    event.top = top_logprobs(job.session.logits(), static_cast<std::size_t>(job.request.top_logprobs));
  }
  return event;
}

void Worker::finish(Job& job, FinishReason reason, Error error) {
  if (job.over) return;
  job.over = true;
  job.finish.reason = reason;
  job.finish.error = std::move(error);
  job.finish.tokens = static_cast<std::int64_t>(job.answer.size());
  const auto now = Clock::now();
  if (job.started == Clock::time_point()) {
    job.finish.queue_seconds = seconds(now - job.arrived);
  } else if (job.reading) {
    job.finish.prompt_seconds = seconds(now - job.started);
  } else {
    job.finish.answer_seconds = seconds(now - job.answering);
  }
  const bool failed = reason == FinishReason::kFailed || reason == FinishReason::kDeviceFailed;
  // A state that fails at once would fail again; one that may have taken the device down least of all may do so again.
  if (failed && job.from && job.session.timeline().size() == job.finish.loaded_tokens)
    options_.disk->store().forget(*job.from, cat("the first step after it failed: ", job.finish.error.message));
  // What a failed pass has touched is not handed to anybody else.
  if (!failed && job.session.timeline().size() >= kShortestKept) job.session.retire();
  {
    const std::lock_guard lock(mutex_);
    stats_.cached_tokens += static_cast<std::uint64_t>(job.finish.cached_tokens);
    stats_.answer_tokens += static_cast<std::uint64_t>(job.finish.tokens);
  }
  job.request.listener->done(job.finish);
}

}  // namespace ds4
