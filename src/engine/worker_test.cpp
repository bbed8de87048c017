#include "engine/worker.h"

#include <gtest/gtest.h>

#include <future>
#include <map>
#include <thread>

#include "engine/fake_token_model.h"
#include "engine/scripted_model.h"
#include "tokenizer/test_vocabulary.h"

namespace ds4 {
namespace {

using Ids = std::vector<TokenId>;

Ids ids(std::int64_t count, TokenId first = 0) {
  Ids out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = (first + static_cast<TokenId>(i * 7)) % 50;
  return out;
}

/// Keeps what it is told, and lets a test wait for the end.
class Recorder final : public Listener {
 public:
  void progress(std::int64_t done, std::int64_t total) override {
    slices.push_back(done);
    all = total;
    if (on_progress) on_progress(done);
  }
  Verdict begin() override { return on_begin ? on_begin() : Verdict{}; }
  Verdict token(const TokenEvent& event) override {
    tokens.push_back(event.token);
    text += event.bytes;
    logprobs.push_back(event.logprob);
    top = event.top;
    return on_token ? on_token(event) : Verdict{};
  }
  void done(const Finish& what) override {
    const std::lock_guard lock(mutex_);
    finish = what;
    ++ends_;
    ended_.notify_all();
  }
  const Finish& wait() {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return ends_ > 0; });
    return finish;
  }
  int ends() {
    const std::lock_guard lock(mutex_);
    return ends_;
  }

  std::function<Verdict()> on_begin;
  std::function<Verdict(const TokenEvent&)> on_token;
  std::function<void(std::int64_t)> on_progress;
  std::vector<std::int64_t> slices;
  std::int64_t all = 0;
  Ids tokens;
  std::string text;
  std::vector<double> logprobs;
  std::vector<TokenLogprob> top;
  Finish finish;

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  int ends_ = 0;
};

Request request(const std::shared_ptr<Recorder>& recorder, Ids prompt, std::int64_t tokens, std::uint64_t seed = 0) {
  Request out;
  out.prompt = Worker::as_given(std::move(prompt));
  out.max_tokens = tokens;
  out.sampling.seed = seed;
  out.listener = recorder;
  return out;
}

FakeOptions many(int tracks = 40) {
  FakeOptions options;
  options.max_logit_rows = 8;
  options.max_tracks = tracks;
  return options;
}

/// What a model alone would say.
Ids alone(const FakeTokenModel& model, const Ids& prompt, std::int64_t count, std::uint64_t seed) {
  Ids all = prompt;
  Sampling sampling;
  sampling.seed = seed;
  for (std::int64_t i = 0; i < count; ++i) all.push_back(sample(model.logits_of(all), sampling, std::ssize(all)));
  return Ids(all.begin() + std::ssize(prompt), all.end());
}

TEST(Worker, ManyAnswersAtOnceAreThoseThatEachWouldGetAlone) {
  FakeTokenModel model(many());
  std::vector<std::shared_ptr<Recorder>> recorders;
  {
    Worker worker(model, nullptr, {.parallel = 5, .points = 6});
    for (int i = 0; i < 12; ++i) {
      recorders.push_back(std::make_shared<Recorder>());
      const auto seed = static_cast<std::uint64_t>(i);
      ASSERT_EQ(worker.submit(request(recorders.back(), ids(20 + 13 * i, i), 30, seed)), Worker::Admission::kQueued);
    }
    for (auto& recorder : recorders) EXPECT_EQ(recorder->wait().reason, FinishReason::kMaxTokens);
    const WorkerStats stats = worker.stats();
    EXPECT_EQ(stats.requests, 12u);
    EXPECT_EQ(stats.answer_tokens, 360u);
    EXPECT_LT(stats.passes, 360u);  // several rows a pass
  }
  for (int i = 0; i < 12; ++i) {
    const auto& recorder = *recorders[static_cast<std::size_t>(i)];
    EXPECT_EQ(recorder.tokens, alone(model, ids(20 + 13 * i, i), 30, static_cast<std::uint64_t>(i)));
    EXPECT_EQ(recorder.finish.prompt_tokens, 20 + 13 * i);
    EXPECT_EQ(recorder.finish.tokens, 30);
  }
  EXPECT_EQ(model.tracks, 0);
}

TEST(Worker, DrawsFromTheLargestLogitsAreThoseFromAll) {
  FakeOptions options = many();
  options.vocab = 500;
  options.draws = true;
  FakeTokenModel model(options);
  const auto sampling = [](int i) {
    Sampling out{.seed = static_cast<std::uint64_t>(i)};
    if (i % 6 == 0) out.temperature = 0;
    if (i % 6 == 1) out.temperature = 0.1;
    if (i % 6 == 2) out.top_k = 10;
    if (i % 6 == 3) out.top_p = 0.5;  // needs all, as do the flat rows of the next
    return out;
  };
  std::vector<std::shared_ptr<Recorder>> recorders;
  Worker worker(model, nullptr, {.parallel = 5, .points = 6});
  for (int i = 0; i < 12; ++i) {
    recorders.push_back(std::make_shared<Recorder>());
    Request asked = request(recorders.back(), ids(20 + 13 * i, i), 30);
    asked.sampling = sampling(i);
    asked.logprobs = i % 6 == 5;
    if (i == 10)
      recorders.back()->on_token = [](const TokenEvent& event) { return Verdict{.greedy = event.token % 2 == 0}; };
    ASSERT_EQ(worker.submit(std::move(asked)), Worker::Admission::kQueued);
  }
  for (int i = 0; i < 12; ++i) {
    Recorder& recorder = *recorders[static_cast<std::size_t>(i)];
    EXPECT_EQ(recorder.wait().reason, FinishReason::kMaxTokens);
    Ids all = ids(20 + 13 * i, i);
    Sampling next = sampling(i);
    for (const TokenId token : recorder.tokens) {
      EXPECT_EQ(token, sample(model.logits_of(all), next, std::ssize(all))) << i;
      all.push_back(token);
      next = sampling(i);
      if (i == 10 && token % 2 == 0) next.temperature = 0;
    }
    EXPECT_EQ(std::ssize(recorder.tokens), 30);
    EXPECT_EQ(std::ranges::all_of(recorder.logprobs, [](double p) { return p < 0; }), i % 6 == 5) << i;
  }
  EXPECT_GE(model.drawn_from_top, 6 * 30);
  EXPECT_LT(model.drawn_from_top, 9 * 30);
}

TEST(Worker, TheNextTurnComputesOnlyWhatIsNew) {
  FakeTokenModel model(many());
  Worker worker(model, nullptr, {.parallel = 2, .points = 6});
  auto first = std::make_shared<Recorder>();
  worker.submit(request(first, ids(200), 40));
  first->wait();
  Ids next = ids(200);
  next.insert(next.end(), first->tokens.begin(), first->tokens.end());
  const Ids question = ids(30, 3);
  next.insert(next.end(), question.begin(), question.end());
  auto second = std::make_shared<Recorder>();
  worker.submit(request(second, next, 10));
  EXPECT_EQ(second->wait().cached_tokens, 239);  // all but the last token, which nobody had computed
  EXPECT_EQ(second->tokens, alone(model, next, 10, 0));

  // The same question again, and a conversation that shares only the beginning.
  auto again = std::make_shared<Recorder>();
  worker.submit(request(again, next, 10));
  EXPECT_EQ(again->wait().cached_tokens, 269);
  EXPECT_EQ(again->tokens, second->tokens);
  Ids branch = ids(200);
  branch.push_back(17);
  auto other = std::make_shared<Recorder>();
  worker.submit(request(other, branch, 10));
  EXPECT_EQ(other->wait().cached_tokens, 200);
  EXPECT_EQ(other->tokens, alone(model, branch, 10, 0));
}

TEST(Worker, AShortPromptIsReadBeforeMoreOfALongOne) {
  FakeOptions options = many();
  options.context = 100000;
  options.max_rows = 32;
  for (const std::int64_t when : {320, 352, 384}) {  // whatever the number of passes so far
    FakeTokenModel model(options);
    Worker worker(model, nullptr, {.parallel = 3, .points = 4});
    auto brief = std::make_shared<Recorder>();
    auto endless = std::make_shared<Recorder>();
    std::atomic<std::int64_t> at_submit{-1}, at_token{-1}, read{0};
    endless->on_progress = [&](std::int64_t done) {
      read = done;
      if (at_submit < 0 && done >= when) {
        at_submit = done;
        worker.submit(request(brief, ids(20, 9), 1));
      }
    };
    brief->on_token = [&](const TokenEvent&) {
      at_token = read.load();
      return Verdict{};
    };
    worker.submit(request(endless, ids(20000), 1));
    brief->wait();
    EXPECT_LE(at_token - at_submit, 32 - 20) << when;
    endless->wait();
  }
}

TEST(Worker, AnswersGoOnWhileAPromptIsRead) {
  FakeOptions options = many();
  options.context = 100000;
  FakeTokenModel model(options);
  Worker worker(model, nullptr, {.parallel = 2, .points = 4});
  auto writer = std::make_shared<Recorder>();
  auto reader = std::make_shared<Recorder>();
  std::atomic<int> written{0};
  writer->on_token = [&](const TokenEvent&) {
    if (++written == 5) worker.submit(request(reader, ids(3000, 4), 1));
    return Verdict{};
  };
  std::vector<int> during;
  reader->on_progress = [&](std::int64_t) { during.push_back(written); };
  worker.submit(request(writer, ids(10), 90));
  reader->wait();
  ASSERT_GT(during.size(), 20u);
  for (std::size_t i = 1; i < 20; ++i) EXPECT_EQ(during[i], during[0] + static_cast<int>(i));
  writer->wait();
}

TEST(Worker, TheQueueIsBoundedAndCancelsReachIt) {
  FakeTokenModel model(many());
  std::atomic<bool> hold{true};
  model.before_layer = [&] {
    while (hold) std::this_thread::yield();
  };
  Worker worker(model, nullptr, {.parallel = 1, .points = 2, .max_queue = 2});
  std::vector<std::shared_ptr<Recorder>> recorders;
  std::vector<std::shared_ptr<std::atomic<bool>>> cancels;
  const auto submit = [&] {
    recorders.push_back(std::make_shared<Recorder>());
    Request one = request(recorders.back(), ids(5), 3);
    cancels.push_back(one.cancel);
    return worker.submit(std::move(one));
  };
  EXPECT_EQ(submit(), Worker::Admission::kQueued);
  while (worker.stats().active == 0) std::this_thread::yield();
  EXPECT_EQ(submit(), Worker::Admission::kQueued);
  EXPECT_EQ(submit(), Worker::Admission::kQueued);
  EXPECT_EQ(submit(), Worker::Admission::kFull);
  *cancels[1] = true;
  worker.wake();
  hold = false;
  EXPECT_EQ(recorders[0]->wait().reason, FinishReason::kMaxTokens);
  EXPECT_EQ(recorders[1]->wait().reason, FinishReason::kCancelled);
  EXPECT_EQ(recorders[1]->tokens, Ids{});
  EXPECT_EQ(recorders[2]->wait().reason, FinishReason::kMaxTokens);
  EXPECT_EQ(recorders[3]->ends(), 0);
}

TEST(Worker, ACancelEndsOneAnswerAndNotItsNeighbour) {
  FakeTokenModel model(many());
  Worker worker(model, nullptr, {.parallel = 2, .points = 4});
  auto goner = std::make_shared<Recorder>();
  auto stayer = std::make_shared<Recorder>();
  Request one = request(goner, ids(10), 900);
  const auto cancel = one.cancel;
  goner->on_token = [&](const TokenEvent&) {
    if (goner->tokens.size() == 20) *cancel = true;
    return Verdict{};
  };
  worker.submit(std::move(one));
  worker.submit(request(stayer, ids(10, 5), 200));
  EXPECT_EQ(goner->wait().reason, FinishReason::kCancelled);
  EXPECT_EQ(goner->tokens.size(), 20u);
  EXPECT_EQ(stayer->wait().reason, FinishReason::kMaxTokens);
  EXPECT_EQ(stayer->tokens, alone(model, ids(10, 5), 200, 0));
}

TEST(Worker, AnErrorEndsOnlyTheAnswerThatCausesIt) {
  FakeTokenModel model(many());
  model.on_forward = [](std::span<const TrackStep> steps) -> std::optional<Error> {
    for (const TrackStep& step : steps) {
      if (step.tokens.back() == 49) return Error{ErrorCode::kNoDevice, "poison"};
    }
    return std::nullopt;
  };
  Worker worker(model, nullptr, {.parallel = 3, .points = 4});
  auto good = std::make_shared<Recorder>();
  auto bad = std::make_shared<Recorder>();
  Sampling greedy;
  Request fine = request(good, ids(10, 1), 100);
  fine.adjustments.bias = {{49, -100.0f}};
  worker.submit(std::move(fine));
  worker.submit(request(bad, {3, 49}, 10));
  EXPECT_EQ(bad->wait().reason, FinishReason::kFailed);
  EXPECT_EQ(bad->finish.error.message, "poison");
  EXPECT_EQ(good->wait().reason, FinishReason::kMaxTokens);
  EXPECT_EQ(good->tokens.size(), 100u);
  auto impossible = std::make_shared<Recorder>();
  worker.submit(request(impossible, ids(2000), 1));
  EXPECT_NE(impossible->wait().error.message.find("2000 tokens, but the context holds 1000"), std::string::npos);
}

/// Takes the device down in pass number `nth` from now.
void break_at(FakeTokenModel& model, int nth) {
  model.on_forward = [&model, nth, passes = 0](std::span<const TrackStep>) mutable -> std::optional<Error> {
    if (++passes == nth) model.fault = Error{ErrorCode::kNoDevice, "on fire"};
    return std::nullopt;
  };
}

TEST(Worker, AFaultOfTheDeviceEndsEverythingAndARebuildBeginsAnew) {
  FakeTokenModel model(many());
  break_at(model, 5);
  std::vector<std::shared_ptr<Recorder>> recorders;
  std::atomic<bool> hold{true}, rebuilding{false}, go_on{false};
  model.before_layer = [&] {  // until all are there
    while (hold) std::this_thread::yield();
  };
  model.while_rebuilding = [&] {
    rebuilding = true;
    while (!go_on) std::this_thread::yield();
  };
  std::vector<std::string> told;  // the worker's thread; read when it waits or has been joined
  int ended_before = -1;
  WorkerOptions options{.parallel = 2, .points = 4};
  options.on_fault = [&](const Error& fault) {
    told.push_back(fault.message);
    ended_before = 0;
    for (auto& recorder : recorders) ended_before += recorder->ends();
    return true;
  };
  std::promise<Status> rebuilt;
  options.on_rebuilt = [&](const Status& status) { rebuilt.set_value(status); };
  {
    Worker worker(model, nullptr, options);
    std::vector<Request> requests;
    for (int i = 0; i < 5; ++i) {  // two at work, three in the queue
      recorders.push_back(std::make_shared<Recorder>());
      requests.push_back(request(recorders.back(), ids(10, i), 500));
    }
    for (Request& one : requests) EXPECT_EQ(worker.submit(std::move(one)), Worker::Admission::kQueued);
    hold = false;
    for (auto& recorder : recorders) {
      const Finish& finish = recorder->wait();
      EXPECT_EQ(finish.reason, FinishReason::kDeviceFailed);
      EXPECT_EQ(finish.error.code, ErrorCode::kNoDevice);
      EXPECT_EQ(finish.error.message, "the device failed: on fire");
    }
    EXPECT_GT(recorders[0]->tokens.size(), 0u);
    EXPECT_EQ(recorders[4]->tokens.size(), 0u);
    while (!rebuilding) std::this_thread::yield();
    EXPECT_EQ(told, std::vector<std::string>{"on fire"});
    EXPECT_EQ(ended_before, 0);
    auto early = std::make_shared<Recorder>();
    EXPECT_EQ(worker.submit(request(early, ids(10), 5)), Worker::Admission::kDown);
    EXPECT_EQ(early->ends(), 0);
    EXPECT_EQ(worker.stats().active + worker.stats().queued + worker.stats().points, 0);
    go_on = true;
    EXPECT_TRUE(rebuilt.get_future().get().ok());
    auto after = std::make_shared<Recorder>();
    EXPECT_EQ(worker.submit(request(after, ids(10), 20)), Worker::Admission::kQueued);
    EXPECT_EQ(after->wait().reason, FinishReason::kMaxTokens);
    EXPECT_EQ(after->tokens, alone(model, ids(10), 20, 0));
    EXPECT_EQ(after->finish.cached_tokens, 0);
  }
  EXPECT_EQ(told.size(), 1u);
  for (auto& recorder : recorders) EXPECT_EQ(recorder->ends(), 1);
  EXPECT_EQ(model.rebuilds, 1);
  EXPECT_EQ(model.tracks, 0);
}

TEST(Worker, WithoutARebuildADeviceThatFailedStaysDown) {
  for (const bool wanted : {false, true}) {  // nobody wants one; one is tried and fails
    FakeTokenModel model(many());
    model.cured = false;
    break_at(model, 3);
    std::promise<Status> rebuilt;
    WorkerOptions options{.parallel = 2, .points = 4};
    options.on_fault = [&](const Error&) { return wanted; };
    options.on_rebuilt = [&](const Status& status) { rebuilt.set_value(status); };
    {
      Worker worker(model, nullptr, options);
      auto recorder = std::make_shared<Recorder>();
      worker.submit(request(recorder, ids(10), 100));
      EXPECT_EQ(recorder->wait().reason, FinishReason::kDeviceFailed);
      if (wanted) {
        EXPECT_EQ(rebuilt.get_future().get().error().message, "still on fire");
      }
      EXPECT_EQ(worker.submit(request(recorder, ids(10), 5)), Worker::Admission::kDown);
      EXPECT_EQ(recorder->ends(), 1);
    }
    EXPECT_EQ(model.rebuilds, wanted ? 1 : 0);
    EXPECT_EQ(model.tracks, 0);
  }
}

TEST(Worker, MemoryForTheRunningIsTakenFromWhatIsKept) {
  FakeTokenModel model(many());
  Worker worker(model, nullptr, {.parallel = 1, .points = 4});
  auto first = std::make_shared<Recorder>();
  worker.submit(request(first, ids(100), 5));
  first->wait();
  while (worker.stats().active > 0) std::this_thread::yield();
  EXPECT_EQ(worker.stats().points, 2);
  std::atomic<int> failures{1};
  model.fail_with = [&]() -> std::optional<Error> {
    if (failures-- > 0) return Error{ErrorCode::kOutOfMemory, "no page left"};
    return std::nullopt;
  };
  auto second = std::make_shared<Recorder>();
  worker.submit(request(second, ids(100, 5), 5));
  EXPECT_EQ(second->wait().reason, FinishReason::kMaxTokens);
}

TEST(Worker, EveryWayToEnd) {
  FakeTokenModel model(many());
  Worker worker(model, nullptr, {.parallel = 1, .points = 4});
  const Ids answer = alone(model, ids(10), 10, 0);
  auto recorder = std::make_shared<Recorder>();
  Request one = request(recorder, ids(10), 10);
  one.stop = {answer[4]};
  worker.submit(std::move(one));
  EXPECT_EQ(recorder->wait().reason, FinishReason::kEnd);
  EXPECT_LE(recorder->tokens.size(), 4u);

  recorder = std::make_shared<Recorder>();
  recorder->on_token = [](const TokenEvent&) { return Verdict{.stop = true, .forced = {}}; };
  worker.submit(request(recorder, ids(10), 10));
  EXPECT_EQ(recorder->wait().reason, FinishReason::kListener);
  EXPECT_EQ(recorder->tokens.size(), 1u);

  recorder = std::make_shared<Recorder>();
  worker.submit(request(recorder, ids(990), 100));
  EXPECT_EQ(recorder->wait().reason, FinishReason::kContextFull);
  EXPECT_EQ(recorder->tokens.size(), 10u);

  recorder = std::make_shared<Recorder>();
  worker.submit(request(recorder, ids(10), 0));
  EXPECT_EQ(recorder->wait().reason, FinishReason::kMaxTokens);
  EXPECT_EQ(recorder->tokens.size(), 0u);
}

TEST(Worker, ForcedTokensComeFirstAndGreedyOnesAreTheMostProbable) {
  FakeTokenModel model(many());
  Worker worker(model, nullptr, {.parallel = 1, .points = 4});
  auto recorder = std::make_shared<Recorder>();
  recorder->on_begin = [] { return Verdict{.forced = {7, 8, 9}}; };
  recorder->on_token = [](const TokenEvent& event) { return Verdict{.greedy = event.token == 9, .forced = {}}; };
  worker.submit(request(recorder, ids(10), 5));
  recorder->wait();
  Ids history = ids(10);
  history.insert(history.end(), {7, 8, 9});
  const TokenId best = argmax(model.logits_of(history));
  EXPECT_EQ(Ids(recorder->tokens.begin(), recorder->tokens.begin() + 4), (Ids{7, 8, 9, best}));
}

TEST(Worker, LogprobsAreThoseOfTheModel) {
  FakeTokenModel model(many());
  Worker worker(model, nullptr, {.parallel = 1, .points = 4});
  auto recorder = std::make_shared<Recorder>();
  Request one = request(recorder, ids(10), 1);
  one.logprobs = true;
  one.top_logprobs = 3;
  one.sampling.temperature = 0;
  worker.submit(std::move(one));
  recorder->wait();
  const std::vector<float> logits = model.logits_of(ids(10));
  EXPECT_EQ(recorder->logprobs.at(0), logprob(logits, recorder->tokens.at(0)));
  ASSERT_EQ(recorder->top.size(), 3u);
  EXPECT_EQ(recorder->top[0].token, recorder->tokens[0]);
}

TEST(Worker, ItsEndIsTheEndOfEverything) {
  FakeTokenModel model(many());
  std::vector<std::shared_ptr<Recorder>> recorders;
  {
    Worker worker(model, nullptr, {.parallel = 2, .points = 4});
    for (int i = 0; i < 6; ++i) {
      recorders.push_back(std::make_shared<Recorder>());
      worker.submit(request(recorders.back(), ids(100, i), 800));
    }
  }
  for (auto& recorder : recorders) {
    EXPECT_EQ(recorder->ends(), 1);
    EXPECT_EQ(recorder->finish.reason, FinishReason::kCancelled);
  }
  EXPECT_EQ(model.tracks, 0);
}

const Tokenizer& tokenizer() {
  static const Tokenizer instance = testing_data::must_build(testing_data::small_tables(
      {"h e", "l l"}, {"<E>", "<O>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"}));
  return instance;
}

TEST(ScriptedModel, SaysWhatTheScriptSays) {
  const std::vector<ScriptRule> rules = {
      {.when = "weather", .reasoning = "hmm", .reply = "rain, hello", .fail_at = std::nullopt},
      {.when = "", .reasoning = "", .reply = "what?", .fail_at = std::nullopt}};
  ScriptedModel model(tokenizer(), rules, {.sessions = 2});
  Worker worker(model, &tokenizer(), {.parallel = 2, .points = 4});
  const auto answer = [&](const std::string& text, bool think) {
    auto recorder = std::make_shared<Recorder>();
    Request one;
    one.prompt = *worker.match(Prompt{{SegmentKind::kMarker, "<｜User｜>"},
                                      {SegmentKind::kUntrusted, text},
                                      {SegmentKind::kMarker, "<｜Assistant｜>"},
                                      {SegmentKind::kMarker, think ? "<think>" : "</think>"}});
    one.max_tokens = 100;
    one.stop = {tokenizer().eos()};
    one.listener = recorder;
    worker.submit(std::move(one));
    recorder->wait();
    return recorder->text;
  };
  EXPECT_EQ(answer("the weather", false), "rain, hello");
  EXPECT_EQ(answer("the weather", true), "hmm</think>rain, hello");
  EXPECT_EQ(answer("else", false), "what?");
}

}  // namespace
}  // namespace ds4
