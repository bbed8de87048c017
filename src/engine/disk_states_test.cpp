#include "engine/disk_states.h"

#include <gtest/gtest.h>

#include <random>

#include "engine/fake_token_model.h"
#include "engine/worker.h"
#include "kvstore/simulated_folder.h"
#include "tokenizer/test_vocabulary.h"

namespace ds4 {
namespace {

using Ids = std::vector<TokenId>;
using kvstore::SimulatedDisk;

Ids ids(std::int64_t count, TokenId first = 0) {
  Ids out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = (first + static_cast<TokenId>(i * 7 + i / 50)) % 50;
  return out;
}

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class Waiter final : public Listener {
 public:
  void progress(std::int64_t, std::int64_t) override {
    if (on_progress) on_progress();
  }
  Verdict begin() override { return {}; }
  Verdict token(const TokenEvent& event) override {
    tokens.push_back(event.token);
    return {};
  }
  void done(const Finish& what) override {
    const std::lock_guard lock(mutex_);
    finish_ = what;
    ended_ = true;
    changed_.notify_all();
  }
  const Finish& wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_; });
    return finish_;
  }
  std::function<void()> on_progress;
  Ids tokens;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  Finish finish_;
  bool ended_ = false;
};

FakeOptions large() {
  FakeOptions options;
  options.context = 100000;
  options.max_rows = 200;
  options.max_logit_rows = 4;
  options.max_tracks = 12;
  return options;
}

Ids alone(const FakeTokenModel& model, const Ids& prompt, std::int64_t count) {
  Ids all = prompt;
  for (std::int64_t i = 0; i < count; ++i) all.push_back(sample(model.logits_of(all), Sampling{}, std::ssize(all)));
  return Ids(all.begin() + std::ssize(prompt), all.end());
}

DiskOptions rungs(std::int64_t interval, std::uint64_t budget = 1 << 30) {
  DiskOptions options;
  options.interval = interval;
  options.budget = budget;
  return options;
}

/// A process: a model and a worker, on a disk that may outlive it.
struct Process {
  explicit Process(SimulatedDisk& disk, DiskOptions options = {}, int points = 3) : model(large()) {
    kvstore::StoreOptions store;
    store.budget = options.budget;
    store.identity.fill(1);
    store.block_bytes = model.piece_sizes().block;
    store.point_bytes = model.piece_sizes().point;
    auto opened = kvstore::Store::open(disk.folder(), std::move(store));
    DS4_CHECK(opened.ok());
    states = std::make_unique<DiskStates>(std::move(opened).value(), std::move(options));
    WorkerOptions with;
    with.parallel = 2;
    with.points = points;
    with.disk = states.get();
    with.on_fault = [](const Error&) { return true; };
    with.on_rebuilt = [this](const Status& status) { rebuilds += status.ok() ? 1 : 0; };
    worker = std::make_unique<Worker>(model, nullptr, with);
  }
  std::shared_ptr<Waiter> submit(const Ids& prompt, std::int64_t tokens, std::int64_t turn_start = 0,
                                 bool answer_returns = true) {
    auto waiter = std::make_shared<Waiter>();
    Request request;
    request.prompt = Worker::as_given(prompt);
    request.prompt.turn_start = turn_start;
    request.max_tokens = tokens;
    request.answer_returns = answer_returns;
    request.listener = waiter;
    EXPECT_EQ(worker->submit(std::move(request)), Worker::Admission::kQueued);
    return waiter;
  }
  /// The answer; how much was computed before it.
  Ids ask(const Ids& prompt, std::int64_t tokens, std::int64_t turn_start = 0, bool answer_returns = true) {
    const auto waiter = submit(prompt, tokens, turn_start, answer_returns);
    finish = waiter->wait();
    EXPECT_EQ(waiter->tokens, alone(model, prompt, tokens));
    return waiter->tokens;
  }
  std::int64_t computed() const { return finish.prompt_tokens - finish.cached_tokens; }
  void flush() { EXPECT_TRUE(states->flush(10)); }

  FakeTokenModel model;
  std::atomic<int> rebuilds{0};
  std::unique_ptr<DiskStates> states;
  std::unique_ptr<Worker> worker;
  Finish finish;
};

TEST(DiskStates, ARestartedServerComputesAtMostABlockBeforeTheLastTurn) {
  for (const std::int64_t length : {130, 200, 383, 384, 385, 450, 1000, 1024, 3001}) {
    for (const std::int64_t answer : {1, 2, 20, 70, 300}) {
      SimulatedDisk disk;
      Ids conversation = ids(length);
      {
        Process first(disk);
        conversation = joined(conversation, first.ask(conversation, answer));
        first.flush();
      }
      const auto boundary = std::ssize(conversation);
      for (const TokenId next : {3, 4}) {  // what follows, and then the tail edited
        Process again(disk);
        again.ask(joined(conversation, ids(40, next)), 5);
        // 128 that had been computed, and the last token of the answer, which never was.
        EXPECT_LE(again.computed(), 128 + 1 + 40) << length << " " << answer;
        EXPECT_EQ(again.finish.loaded_tokens, again.finish.cached_tokens);
        EXPECT_LE(boundary - 1 - again.finish.loaded_tokens, 128);
        again.flush();
        // In this process memory has it.
        again.ask(joined(conversation, ids(40, next)), 5);
        EXPECT_EQ(again.computed(), 1);
      }
    }
  }
}

TEST(DiskStates, TheSameQuestionAgainNeedsItsLastTokenOnly) {
  for (const std::int64_t length : {129, 383, 384, 385, 512, 5000, 8192}) {
    for (const std::int64_t answer : {1, 200}) {
      SimulatedDisk disk;
      const Ids prompt = ids(length);
      {
        Process first(disk);
        first.ask(prompt, answer);
        first.flush();
      }
      Process again(disk);
      again.ask(prompt, answer);
      EXPECT_LE(again.computed(), 128) << length << " " << answer;
    }
  }
}

TEST(DiskStates, ALongColdPromptCanBeEditedAtItsLastTurn) {
  SimulatedDisk disk;
  const Ids prompt = ids(3000);
  {
    Process first(disk, rungs(1024));
    first.ask(prompt, 3, 2500);
    first.flush();
    // One at the turn, two rungs and one at the end.
    EXPECT_EQ(first.worker->stats().disk->written_points, 4u);
  }
  Process again(disk);
  const auto edited = [&](std::size_t at) {
    return joined(Ids(prompt.begin(), prompt.begin() + std::ptrdiff_t(at)), ids(30, 9));
  };
  again.ask(edited(2500), 3);
  EXPECT_LE(again.computed(), 128 + 30);
  again.ask(edited(1500), 3);
  EXPECT_EQ(again.finish.loaded_tokens, 1024);
  again.ask(edited(900), 3);
  EXPECT_EQ(again.finish.cached_tokens, 0);
}

TEST(DiskStates, ThinkingThatIsDroppedIsNotWaitedFor) {
  SimulatedDisk disk;
  const Ids prompt = ids(1000);
  {
    Process first(disk);
    first.ask(prompt, 400, 0, false);
    first.flush();
    const kvstore::StoreStats stats = *first.worker->stats().disk;
    EXPECT_EQ(stats.written_points, 1u);
    EXPECT_EQ(stats.written_blocks, 1000u / 128);
  }
  Process again(disk);
  again.ask(joined(prompt, ids(30, 2)), 3);
  EXPECT_EQ(again.finish.loaded_tokens, 896);
}

TEST(DiskStates, OneTurnWritesOnePointAndNoRowTwice) {
  SimulatedDisk disk;
  Process process(disk);
  Ids conversation = ids(300);
  std::int64_t turns = 0;
  for (TokenId turn = 0; turn < 20; ++turn, ++turns) {
    const auto turn_start = std::ssize(conversation);
    conversation = joined(conversation, ids(150 + 13 * turn, turn));
    conversation = joined(conversation, process.ask(conversation, 30 + turn, turn_start));
  }
  process.flush();
  const kvstore::StoreStats stats = *process.worker->stats().disk;
  EXPECT_LE(stats.written_points, static_cast<std::uint64_t>(turns) + 1);  // and the first prompt
  EXPECT_LE(stats.written_blocks, conversation.size() / 128);
  EXPECT_GE(stats.written_blocks, conversation.size() / 128 - 1);
  EXPECT_EQ(stats.restores, 0u);
}

TEST(DiskStates, ACancelledPromptLeavesWhatItHad) {
  SimulatedDisk disk;
  const Ids prompt = ids(6000);
  {
    Process first(disk, rungs(1024));
    auto waiter = std::make_shared<Waiter>();
    Request request;
    request.prompt = Worker::as_given(prompt);
    request.max_tokens = 5;
    request.listener = waiter;
    int slices = 0;
    waiter->on_progress = [&slices, cancel = request.cancel] {
      if (++slices == 25) *cancel = true;
    };
    first.worker->submit(std::move(request));
    EXPECT_EQ(waiter->wait().reason, FinishReason::kCancelled);
    first.flush();
  }
  Process again(disk);
  again.ask(prompt, 3);
  EXPECT_GE(again.finish.loaded_tokens, 1024);
}

TEST(DiskStates, BrokenFilesCostTimeAndNothingElse) {
  SimulatedDisk disk;
  Ids conversation = ids(500);
  {
    Process first(disk);
    conversation = joined(conversation, first.ask(conversation, 50));
    conversation = joined(conversation, ids(300, 4));
    first.ask(conversation, 10);
    first.flush();
  }
  // The point at the end goes, then a block in the middle.
  for (const char kind : {'p', 'b'}) {
    std::string victim;
    std::size_t longest = 0;
    for (const std::string& name : disk.names()) {
      if (name[0] != kind) continue;
      const auto position =
          static_cast<std::size_t>(disk.content(name)[112]) | static_cast<std::size_t>(disk.content(name)[113]) << 8;
      if (kind == 'p' ? position > longest : position == 256) victim = name, longest = position;
    }
    ASSERT_FALSE(victim.empty());
    disk.content(victim).back() ^= std::byte{1};
    Process again(disk, {}, 0);
    again.ask(conversation, 10);
    EXPECT_EQ(again.worker->stats().disk->rejected, 1u);
    EXPECT_EQ(again.finish.cached_tokens, kind == 'p' ? 512 : 0);
    again.flush();
  }
}

TEST(DiskStates, AStateOnWhichTheModelFailsIsForgotten) {
  SimulatedDisk disk;
  const Ids prompt = ids(500);
  {
    Process first(disk);
    first.ask(prompt, 5);
    first.flush();
  }
  {
    Process second(disk);
    second.model.fail_with = [&]() -> std::optional<Error> {
      if (second.model.restored == 0) return std::nullopt;
      return Error{ErrorCode::kNoDevice, "a fault"};
    };
    EXPECT_EQ(second.submit(joined(prompt, ids(5)), 3)->wait().reason, FinishReason::kFailed);
    second.flush();
  }
  Process third(disk);
  third.ask(joined(prompt, ids(5)), 3);
  EXPECT_EQ(third.finish.cached_tokens, 0);
}

TEST(DiskStates, AFaultOfTheDeviceCostsOnlyAStateThatWasJustLoaded) {
  SimulatedDisk disk;
  const Ids prompt = ids(500), other = ids(500, 9);
  {
    Process first(disk);
    first.ask(prompt, 5);
    first.ask(other, 5);
    first.flush();
  }
  for (const bool at_once : {false, true}) {
    Process process(disk);
    process.model.on_forward = [&, passes = 0](std::span<const TrackStep>) mutable -> std::optional<Error> {
      if (process.model.restored == 1 && ++passes == (at_once ? 1 : 2) && process.model.rebuilds == 0)
        process.model.fault = Error{ErrorCode::kNoDevice, "on fire"};
      return std::nullopt;
    };
    EXPECT_EQ(process.submit(joined(prompt, ids(5)), 3)->wait().reason, FinishReason::kDeviceFailed);
    EXPECT_EQ(process.model.restored, 1);
    while (process.rebuilds == 0) std::this_thread::yield();
    process.ask(joined(other, ids(5)), 3);
    EXPECT_GE(process.finish.loaded_tokens, 384);
    process.ask(joined(prompt, ids(5)), 3);
    EXPECT_GE(process.finish.cached_tokens, at_once ? 0 : 384);
    EXPECT_LT(process.finish.cached_tokens, at_once ? 384 : 512) << at_once;
    process.flush();
  }
}

TEST(DiskStates, OthersGoOnWhileAStateIsLoaded) {
  SimulatedDisk disk;
  {
    Process first(disk);
    first.ask(ids(2000), 5);
    first.flush();
  }
  Process again(disk);
  std::vector<std::shared_ptr<Waiter>> waiters;
  for (TokenId i = 0; i < 6; ++i) waiters.push_back(again.submit(joined(ids(i % 2 == 0 ? 2000 : 50), ids(20, i)), 8));
  for (TokenId i = 0; i < 6; ++i) {
    const auto& waiter = waiters[static_cast<std::size_t>(i)];
    EXPECT_EQ(waiter->wait().reason, FinishReason::kMaxTokens);
    EXPECT_EQ(waiter->tokens, alone(again.model, joined(ids(i % 2 == 0 ? 2000 : 50), ids(20, i)), 8));
  }
  // One is told to stop while it waits for the disk.
  const auto last = again.submit(ids(2000), 5);
  again.worker.reset();
  last->wait();
}

TEST(DiskStates, AnyConversationsWithAnyRestartsAnswerAsWithout) {
  std::mt19937 random(4);
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  for (int round = 0; round < 6; ++round) {
    SimulatedDisk disk;
    std::vector<Ids> conversations(3, ids(200));
    auto process = std::make_unique<Process>(disk, rungs(512, 60000));
    for (int turn = 0; turn < 25; ++turn) {
      Ids& conversation = conversations[static_cast<std::size_t>(pick(0, 2))];
      if (pick(0, 4) == 0) conversation.resize(conversation.size() - static_cast<std::size_t>(pick(0, 150)));
      const auto turn_start = std::ssize(conversation);
      conversation = joined(conversation, ids(pick(1, 400), pick(0, 49)));
      const Ids answer = process->ask(conversation, pick(1, 200), pick(0, 1) == 0 ? 0 : turn_start, pick(0, 3) > 0);
      conversation = joined(conversation, answer);
      if (conversation.size() > 4000) conversation = ids(200, pick(0, 3));
      switch (pick(0, 5)) {
        case 0: process->flush(); [[fallthrough]];
        case 1:
          process.reset();
          if (pick(0, 1) == 0) disk.cut_power(static_cast<std::uint64_t>(turn));
          process = std::make_unique<Process>(disk, rungs(512, 60000));
          break;
        case 2:
          if (const auto names = disk.names(); !names.empty()) {
            process->flush();
            auto& content = disk.content(names[static_cast<std::size_t>(pick(0, static_cast<int>(names.size()) - 1))]);
            content[content.size() / 2] ^= std::byte{4};
          }
          break;
        default: break;
      }
    }
    EXPECT_LE(disk.most_bytes(), 60000u);
  }
}

TEST(DiskStates, TextIsMatchedAgainstStoredHistories) {
  const Tokenizer tokenizer = testing_data::must_build(testing_data::small_tables({"t h", "th e"}, {}));
  FakeOptions options = large();
  options.vocab = tokenizer.vocab_size();
  SimulatedDisk disk;
  FakeTokenModel model(options);
  kvstore::StoreOptions store_options;
  store_options.block_bytes = model.piece_sizes().block;
  store_options.point_bytes = model.piece_sizes().point;
  const auto open = [&] {
    return std::make_unique<DiskStates>(std::move(kvstore::Store::open(disk.folder(), store_options)).value(),
                                        DiskOptions{});
  };
  // Single bytes, as the model might sample them: no tokenizer would cut text like this.
  std::string text;
  for (int i = 0; i < 300; ++i) text += "the "[i % 4];
  Ids sampled;
  for (const char c : text) {
    const auto one = tokenizer.encode_text(std::string(1, c), false);
    sampled.insert(sampled.end(), one.begin(), one.end());
  }
  ASSERT_EQ(sampled.size(), 300u);
  {
    auto states = open();
    StateSaver saver(states.get());
    StateStore points(model, 2);
    auto track = std::move(model.new_track()).value();
    Timeline history;
    saver.plan(std::span(sampled).first(2), 0, 0, true);
    for (const TokenId token : sampled) {
      const TrackStep step{track.get(), std::span(&token, 1), {}};
      ASSERT_TRUE(model.forward(std::span(&step, 1), {}).ok());
      history.append(token, true);
      saver.reached(history, *track);
    }
    saver.finish(history, *track);
    EXPECT_TRUE(states->flush(10));
  }
  const auto states = open();
  const std::vector<PromptSegment> prompt = {{SegmentKind::kUntrusted, text + " and more"}};
  const auto pieces = cut_prompt(tokenizer, prompt);
  ASSERT_TRUE(pieces.ok());
  const Timeline found = states->match(tokenizer, *pieces);
  ASSERT_EQ(found.size(), 256);
  EXPECT_TRUE(std::ranges::equal(found.tokens(), std::span(sampled).first(256)));
  EXPECT_TRUE(found.sampled(0) && found.sampled(255));
  const PromptTokens matched = match_prompt(tokenizer, *pieces, found);
  EXPECT_EQ(matched.kept, 256);
  EXPECT_EQ(states->longest(matched.tokens).position, 256u);
  const std::vector<PromptSegment> other = {{SegmentKind::kUntrusted, "something else"}};
  EXPECT_EQ(
      match_prompt(tokenizer, *cut_prompt(tokenizer, other), states->match(tokenizer, *cut_prompt(tokenizer, other)))
          .kept,
      0);
}

}  // namespace
}  // namespace ds4
