#include "engine/session.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <random>
#include <thread>

#include "engine/fake_token_model.h"

namespace ds4 {
namespace {

using Ids = std::vector<TokenId>;

Session make_session(FakeTokenModel& model, int snapshots = 3) {
  Result<Session> session = Session::create(model, nullptr, snapshots);
  DS4_CHECK(session.ok());
  return std::move(session).value();
}

Ids ids(std::int64_t count, TokenId first = 0) {
  Ids out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = (first + static_cast<TokenId>(i * 7)) % 50;
  return out;
}

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// The header's invariant: the timeline is `want`, and the logits are those of exactly this history.
void expect_state(const FakeTokenModel& model, const Session& session, const Ids& want) {
  const Ids have(session.timeline().tokens().begin(), session.timeline().tokens().end());
  ASSERT_EQ(have, want);
  ASSERT_TRUE(session.has_logits());
  const Ids history(want);
  EXPECT_TRUE(std::ranges::equal(session.logits(), model.logits_of(history)));
}

SyncReport sync(Session& session, const Ids& tokens) {
  const Result<SyncReport> report = session.sync(tokens);
  EXPECT_TRUE(report.ok()) << report.error().message;
  return *report;
}

TEST(Session, BuildsExtendsAndKeeps) {
  FakeTokenModel model;
  Session session = make_session(model);
  SyncReport report = sync(session, ids(100));
  EXPECT_EQ(report.start, SyncStart::kRebuilt);
  EXPECT_EQ(report.computed, 100);
  expect_state(model, session, ids(100));

  const Ids longer = joined(ids(100), ids(30, 3));
  report = sync(session, longer);
  EXPECT_EQ(report.start, SyncStart::kExtended);
  EXPECT_EQ(report.reused, 100);
  EXPECT_EQ(report.computed, 30);
  EXPECT_EQ(report.total, 130);
  expect_state(model, session, longer);

  model.computed = 0;
  EXPECT_EQ(sync(session, longer).start, SyncStart::kReady);
  EXPECT_EQ(model.computed, 0);
}

TEST(Session, AnEditWithinTheWindowRewinds) {
  FakeTokenModel model;
  Session session = make_session(model, 0);
  sync(session, ids(200));
  Ids edited = ids(200);
  edited[150] = 49;
  const SyncReport report = sync(session, edited);
  EXPECT_EQ(report.start, SyncStart::kRewound);
  EXPECT_EQ(report.reused, 150);
  expect_state(model, session, edited);
}

TEST(Session, AnEditBeyondTheWindowGoesBackToASnapshotOrToNothing) {
  FakeTokenModel model;
  Session session = make_session(model);
  sync(session, ids(100));
  const Ids second = joined(ids(100), ids(200, 1));
  sync(session, second);
  EXPECT_EQ(session.snapshots(), (std::vector<std::int64_t>{100, 300}));
  Ids edited = second;
  edited[130] = 49;
  SyncReport report = sync(session, edited);
  EXPECT_EQ(report.start, SyncStart::kSnapshot);
  EXPECT_EQ(report.reused, 100);
  EXPECT_EQ(session.snapshots(), (std::vector<std::int64_t>{100, 300}));  // the one that served is still there
  expect_state(model, session, edited);
  edited[10] = 49;
  report = sync(session, edited);
  EXPECT_EQ(report.start, SyncStart::kRebuilt);
  EXPECT_EQ(report.reused, 0);
  expect_state(model, session, edited);
}

TEST(Session, ASnapshotIsRewoundToo) {
  FakeTokenModel model;
  Session session = make_session(model);
  sync(session, ids(100));
  sync(session, joined(ids(100), ids(200, 1)));
  Ids edited = ids(100);
  edited[60] = 49;  // below the floor of the live track, within the window of the snapshot at 100
  const SyncReport report = sync(session, edited);
  EXPECT_EQ(report.start, SyncStart::kSnapshot);
  EXPECT_EQ(report.reused, 60);
  expect_state(model, session, edited);
}

TEST(Session, AFullyCachedPromptStillYieldsLogits) {
  FakeTokenModel model;
  Session session = make_session(model);
  sync(session, ids(300));
  GenerateOptions options;
  options.max_tokens = 150;
  ASSERT_TRUE(session.generate(options).ok());
  model.computed = 0;
  const SyncReport report = sync(session, ids(300));
  EXPECT_EQ(report.reused, 299);
  EXPECT_EQ(report.start, SyncStart::kSnapshot);
  EXPECT_EQ(model.computed, 1);
  expect_state(model, session, ids(300));
}

TEST(Session, OneTokenIsEnough) {
  FakeTokenModel model;
  Session session = make_session(model);
  for (int i = 0; i < 3; ++i) {
    sync(session, {7});
    expect_state(model, session, {7});
    ASSERT_TRUE(session.append(3).ok());
  }
}

TEST(Session, PromptsThatCannotBeAreRefusedAndChangeNothing) {
  FakeTokenModel model;
  Session session = make_session(model);
  sync(session, ids(100));
  const auto message = [&](const Ids& tokens) { return session.sync(tokens).error().message; };
  EXPECT_NE(message({}).find("empty"), std::string::npos);
  EXPECT_NE(message({1, 50}).find("token 1 of the prompt is 50: expected 0 to 49"), std::string::npos);
  EXPECT_NE(message({-1}).find("-1"), std::string::npos);
  EXPECT_NE(message(ids(1001)).find("1001 tokens, but the context holds 1000"), std::string::npos);
  EXPECT_NE(session.sync(Prompt{{SegmentKind::kTrusted, "x"}}).error().message.find("tokenizer"), std::string::npos);
  expect_state(model, session, ids(100));
}

TEST(Session, SnapshotsStayWithinTheirNumberAndTheTracksOfTheModel) {
  FakeTokenModel model;
  Session session = make_session(model, 3);
  Ids tokens;
  for (int turn = 0; turn < 12; ++turn) {
    tokens = joined(tokens, ids(70, turn));
    sync(session, tokens);
    EXPECT_LE(session.snapshots().size(), 3u);
    EXPECT_EQ(session.snapshots().back(), session.timeline().size());
    EXPECT_LE(model.tracks, 4);
    expect_state(model, session, tokens);
  }
}

TEST(Session, WithoutATrackForAForkTheSnapshotItselfServes) {
  FakeOptions options;
  options.max_tracks = 2;
  FakeTokenModel model(options);
  Session session = make_session(model, 3);
  sync(session, ids(100));
  sync(session, joined(ids(100), ids(200, 1)));  // no track for a second snapshot
  EXPECT_EQ(session.snapshots(), (std::vector<std::int64_t>{100}));
  const Ids other = joined(ids(100), ids(20, 9));
  EXPECT_EQ(sync(session, other).reused, 100);
  expect_state(model, session, other);
}

TEST(Session, MemoryForTheLiveConversationIsTakenFromSnapshots) {
  FakeTokenModel model;
  Session session = make_session(model);
  sync(session, ids(100));
  int failures = 1;
  model.fail_with = [&]() -> std::optional<Error> {
    if (failures-- > 0) return Error{ErrorCode::kOutOfMemory, "no page left"};
    return std::nullopt;
  };
  const Ids longer = joined(ids(100), ids(30, 3));
  EXPECT_EQ(sync(session, longer).reused, 100);
  EXPECT_EQ(session.snapshots(), (std::vector<std::int64_t>{130}));
  expect_state(model, session, longer);
}

TEST(Session, AnErrorInTheMiddleLeavesWhatIsDone) {
  FakeTokenModel model;
  Session session = make_session(model);
  int calls = 0;
  model.fail_with = [&]() -> std::optional<Error> {
    if (++calls == 3) return Error{ErrorCode::kNoDevice, "the device fell over"};
    return std::nullopt;
  };
  const Ids tokens = ids(200);
  EXPECT_EQ(session.sync(tokens).error().message, "the device fell over");
  EXPECT_EQ(session.timeline().size(), 64);
  EXPECT_FALSE(session.has_logits());
  EXPECT_FALSE(session.generate({}).ok());
  EXPECT_EQ(sync(session, tokens).reused, 64);
  expect_state(model, session, tokens);
}

TEST(Session, GenerateSamplesFromTheModelAndMarksWhatItSampled) {
  FakeTokenModel model;
  Session session = make_session(model);
  sync(session, ids(10));
  GenerateOptions options;
  options.sampling.seed = 5;
  options.max_tokens = 40;
  Ids answer;
  options.on_token = [&](TokenId token) {
    EXPECT_EQ(token, sample(model.logits_of(joined(ids(10), answer)), options.sampling, 10 + std::ssize(answer)));
    answer.push_back(token);
    return true;
  };
  const Result<GenerateReport> report = session.generate(options);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->tokens, 40);
  EXPECT_EQ(report->stop, StopReason::kMaxTokens);
  expect_state(model, session, joined(ids(10), answer));
  for (std::int64_t i = 0; i < 50; ++i) EXPECT_EQ(session.timeline().sampled(i), i >= 10);
}

TEST(Session, GenerateTakesTheLargestLogitsWhereTheySettleTheDraw) {
  FakeTokenModel model({.vocab = 500, .draws = true});
  Session session = make_session(model);
  sync(session, ids(10));
  GenerateOptions options;
  options.sampling = {.temperature = 0.1, .seed = 5};
  options.max_tokens = 40;
  Ids all = ids(10);
  options.on_token = [&](TokenId token) {
    EXPECT_EQ(token, sample(model.logits_of(all), options.sampling, std::ssize(all)));
    all.push_back(token);
    return true;
  };
  ASSERT_TRUE(session.generate(options).ok());
  EXPECT_EQ(model.drawn_from_top, 40);
  EXPECT_FALSE(session.has_logits());
  ASSERT_TRUE(session.generate(options).ok());  // and on, in the same way
  EXPECT_EQ(model.drawn_from_top, 80);

  options.sampling.temperature = 1;
  EXPECT_EQ(session.generate(options).error().code, ErrorCode::kUsage) << "so many tokens were not brought";
  const Ids known = all;
  EXPECT_EQ(sync(session, known).computed, 1);
  expect_state(model, session, known);
  ASSERT_TRUE(session.generate(options).ok());
  EXPECT_EQ(model.drawn_from_top, 80) << "flat rows need all logits";
}

TEST(Session, EveryWayToStop) {
  FakeTokenModel model;
  Session session = make_session(model);
  sync(session, ids(10));
  GenerateOptions greedy;
  greedy.sampling.temperature = 0;

  greedy.stop = {argmax(session.logits())};
  Result<GenerateReport> report = session.generate(greedy);
  EXPECT_EQ(report->stop, StopReason::kStopToken);
  EXPECT_EQ(report->tokens, 0);
  EXPECT_EQ(session.timeline().size(), 10);
  greedy.stop.clear();

  greedy.on_token = [](TokenId) { return false; };
  report = session.generate(greedy);
  EXPECT_EQ(report->stop, StopReason::kCaller);
  EXPECT_EQ(session.timeline().size(), 11);
  greedy.on_token = nullptr;

  greedy.max_tokens = 0;
  EXPECT_EQ(session.generate(greedy)->stop, StopReason::kMaxTokens);
  greedy.max_tokens = 50000;

  std::atomic<bool> cancel{true};
  greedy.cancel = &cancel;
  EXPECT_EQ(session.generate(greedy)->stop, StopReason::kCancelled);
  greedy.cancel = nullptr;

  report = session.generate(greedy);
  EXPECT_EQ(report->stop, StopReason::kContextFull);
  EXPECT_EQ(session.timeline().size(), model.context());
  EXPECT_EQ(report->tokens, model.context() - 11);
  EXPECT_EQ(session.append(1).error().code, ErrorCode::kUsage);
}

TEST(Session, ACancelAtAnyPollLeavesAUsableSession) {
  const Ids first = ids(90);
  const Ids second = joined(ids(70), ids(150, 5));
  for (int poll = 1;; ++poll) {
    FakeTokenModel model;
    Session session = make_session(model);
    sync(session, first);
    std::atomic<bool> cancel{false};
    int polls = 0;
    model.before_layer = [&] { cancel = cancel || ++polls == poll; };
    SyncOptions options;
    options.cancel = &cancel;
    const Result<SyncReport> report = session.sync(second, options);
    model.before_layer = nullptr;
    if (!report.ok()) {
      EXPECT_EQ(report.error().code, ErrorCode::kCancelled);
      const auto have = session.timeline().tokens();
      EXPECT_TRUE(std::ranges::equal(have, std::span(second).first(have.size())));
      EXPECT_FALSE(session.has_logits());
    }
    EXPECT_GE(sync(session, second).reused, 70);
    expect_state(model, session, second);
    if (report.ok()) break;
    ASSERT_LT(poll, 100);
  }
}

TEST(Session, ACancelWhileATokenIsComputedKeepsTheLogitsBeforeIt) {
  FakeTokenModel model;
  Session session = make_session(model);
  sync(session, ids(10));
  std::atomic<bool> cancel{false};
  GenerateOptions options;
  options.cancel = &cancel;
  int seen = 0;
  options.on_token = [&](TokenId) {
    cancel = ++seen == 5;
    return true;
  };
  EXPECT_EQ(session.generate(options)->stop, StopReason::kCancelled);
  EXPECT_EQ(session.timeline().size(), 14);
  const auto have = session.timeline().tokens();
  expect_state(model, session, Ids(have.begin(), have.end()));
}

TEST(Session, ACancelFromAnotherThread) {
  FakeTokenModel model;
  Session session = make_session(model);
  sync(session, ids(10));
  std::atomic<bool> cancel{false};
  std::atomic<int> tokens{0};
  GenerateOptions options;
  options.cancel = &cancel;
  options.on_token = [&](TokenId) {
    ++tokens;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return true;
  };
  std::thread stopper([&] {
    while (tokens < 3) std::this_thread::yield();
    cancel = true;
  });
  EXPECT_EQ(session.generate(options)->stop, StopReason::kCancelled);
  stopper.join();
  EXPECT_LT(session.timeline().size(), model.context());
}

TEST(Session, EvaluateGivesEveryRow) {
  FakeOptions options;
  options.max_logit_rows = 7;
  FakeTokenModel model(options);
  Session session = make_session(model);
  sync(session, ids(40, 9));
  const Ids tokens = ids(50);
  std::int64_t next = 0;
  const Status status = session.evaluate(tokens, [&](std::int64_t position, std::span<const float> logits) {
    EXPECT_EQ(position, next++);
    EXPECT_TRUE(std::ranges::equal(logits, model.logits_of(std::span(tokens).first(static_cast<std::size_t>(next)))));
  });
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(next, 50);
  expect_state(model, session, tokens);
}

TEST(Session, ProgressRisesToTheEnd) {
  FakeTokenModel model;
  Session session = make_session(model);
  std::vector<std::int64_t> seen;
  SyncOptions options;
  options.progress = [&](std::int64_t done, std::int64_t todo) {
    EXPECT_EQ(todo, 100);
    seen.push_back(done);
  };
  ASSERT_TRUE(session.sync(ids(100), options).ok());
  EXPECT_TRUE(std::ranges::is_sorted(seen));
  EXPECT_EQ(seen.front(), 0);
  EXPECT_EQ(seen.back(), 100);
}

// Whatever a client does, the session is what a fresh one would be, and within the memory it was given.
TEST(SessionProperty, AnyStoryEndsWhereAFreshSessionBegins) {
  for (std::uint32_t seed = 0; seed < 80; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](std::int64_t low, std::int64_t high) {
      return std::uniform_int_distribution<std::int64_t>(low, high)(random);
    };
    FakeOptions fake;
    fake.max_rows = static_cast<int>(pick(1, 100));
    fake.max_tracks = static_cast<int>(pick(1, 5));
    FakeTokenModel model(fake);
    Session session = make_session(model, 3);
    Ids conversation = ids(pick(1, 200));
    for (int turn = 0; turn < 12; ++turn) {
      const auto size = std::ssize(conversation);
      switch (pick(0, 3)) {
        case 0: break;
        case 1: conversation[static_cast<std::size_t>(pick(0, size - 1))] = static_cast<TokenId>(pick(0, 49)); break;
        case 2: conversation.resize(static_cast<std::size_t>(pick(1, size))); break;
        default: conversation = joined(conversation, ids(pick(1, 80), static_cast<TokenId>(turn))); break;
      }
      if (std::ssize(conversation) > model.context()) conversation.resize(500);
      std::atomic<bool> cancel{false};
      SyncOptions options;
      options.cancel = &cancel;
      std::int64_t countdown = pick(0, 10);
      model.before_layer = [&] { cancel = cancel || (countdown > 0 && --countdown == 0); };
      const Result<SyncReport> report = session.sync(conversation, options);
      model.before_layer = nullptr;
      if (!report.ok()) {
        ASSERT_EQ(report.error().code, ErrorCode::kCancelled);
        sync(session, conversation);
      }
      expect_state(model, session, conversation);
      GenerateOptions generate;
      generate.max_tokens = pick(0, 60);
      generate.sampling.seed = seed;
      ASSERT_TRUE(session.generate(generate).ok());
      const auto have = session.timeline().tokens();
      expect_state(model, session, Ids(have.begin(), have.end()));
      if (pick(0, 1) == 0) conversation.assign(have.begin(), have.end());
    }
  }
}

}  // namespace
}  // namespace ds4
