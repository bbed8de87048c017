// The engine on real weights: whatever a session went through, its logits are those of a fresh one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <random>
#include <stdexcept>

#include "base/text.h"
#include "engine/engine.h"
#include "engine/worker.h"
#include "models.h"

namespace ds4::e2e {
namespace {

std::unique_ptr<Engine> load(const std::string& path, EngineOptions options = {}) {
  Result<ModelFile> file = open_model_file(path);
  DS4_CHECK(file.ok());
  options.kv = KvFormat::kF32;
  if (options.backend.device == "cpu") options.backend.threads = 1;
  Result<std::unique_ptr<Engine>> engine = Engine::load(std::move(file).value(), options);
  if (!engine.ok()) throw std::runtime_error(engine.error().message);
  return std::move(engine).value();
}

double difference(std::span<const float> a, std::span<const float> b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  return worst;
}

TEST(EngineOnWeights, AnySessionEqualsAFreshOne) {
  EngineOptions options;
  options.context = 1024;
  options.sessions = 2;
  options.prefill_chunk = 100;
  const std::unique_ptr<Engine> engine = load(token_model(), options);
  Session session = *engine->new_session();
  Session fresh = *engine->new_session();
  std::mt19937 random(3);
  const auto pick = [&](std::size_t low, std::size_t high) {
    return std::uniform_int_distribution<std::size_t>(low, high)(random);
  };

  std::vector<TokenId> conversation(golden().tokens.begin(), golden().tokens.begin() + 300);
  int starts[5] = {};
  for (int turn = 0; turn < 14; ++turn) {
    const Result<SyncReport> report = session.sync(conversation);
    ASSERT_TRUE(report.ok()) << report.error().message;
    ++starts[static_cast<int>(report->start)];
    ASSERT_TRUE(fresh.sync(std::vector<TokenId>{static_cast<TokenId>(turn)}).ok());
    ASSERT_TRUE(fresh.sync(conversation).ok());
    EXPECT_LT(difference(session.logits(), fresh.logits()), 1e-4)
        << "turn " << turn << " " << sync_start_name(report->start);

    GenerateOptions generate;
    generate.max_tokens = static_cast<std::int64_t>(pick(0, 30));
    generate.sampling.seed = static_cast<std::uint64_t>(turn);
    ASSERT_TRUE(session.generate(generate).ok());
    const auto have = session.timeline().tokens();
    if (turn % 2 == 0) conversation.assign(have.begin(), have.end());
    switch (turn % 4) {
      case 0: conversation[conversation.size() - pick(1, 50)] = 7; break;
      case 1: conversation.resize(conversation.size() - pick(1, 100)); break;
      case 2: conversation.insert(conversation.end(), golden().tokens.begin(), golden().tokens.begin() + 70); break;
      default: break;
    }
  }
  EXPECT_GT(starts[static_cast<int>(SyncStart::kExtended)] + starts[static_cast<int>(SyncStart::kRewound)], 0);
  EXPECT_GT(starts[static_cast<int>(SyncStart::kSnapshot)], 0);
}

/// What a worker says about an answer: its tokens and how probable the model found them.
class Told final : public Listener {
 public:
  void progress(std::int64_t, std::int64_t) override {}
  Verdict begin() override { return {}; }
  Verdict token(const TokenEvent& event) override {
    said.emplace_back(event.token, event.logprob);
    return {};
  }
  void done(const Finish&) override {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_; });
  }
  std::vector<std::pair<TokenId, double>> said;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
};

TEST(EngineOnWeights, AnAnswerDoesNotDependOnItsNeighboursInASingleBit) {
  const auto answers = [](int parallel, int chunk) {
    EngineOptions options;
    options.context = 1024;
    options.sessions = parallel;
    options.prefill_chunk = chunk;
    const std::unique_ptr<Engine> engine = load(token_model(), options);
    Worker worker(engine->token_model(), nullptr, {.parallel = parallel, .points = 3 * parallel});
    std::vector<std::shared_ptr<Told>> told;
    for (std::size_t i = 0; i < 7; ++i) {
      Request request;
      const auto first = golden().tokens.begin() + static_cast<std::ptrdiff_t>(10 * i);
      request.prompt = Worker::as_given({first, first + 60 + static_cast<std::ptrdiff_t>(31 * i)});
      request.max_tokens = 12 + static_cast<std::int64_t>(i);
      request.sampling.seed = i;
      request.logprobs = true;
      request.listener = told.emplace_back(std::make_shared<Told>());
      EXPECT_EQ(worker.submit(std::move(request)), Worker::Admission::kQueued);
    }
    std::vector<std::vector<std::pair<TokenId, double>>> out;
    for (const auto& one : told) {
      one->wait();
      out.push_back(one->said);
    }
    return out;
  };
  const auto alone = answers(1, 512);
  ASSERT_EQ(alone[6].size(), 18u);
  EXPECT_EQ(answers(5, 100), alone);
  EXPECT_EQ(answers(3, 17), alone);
}

TEST(EngineOnWeights, AStateIsOfOneModelOneFormatAndOneBackend) {
  const auto identity = [](const std::string& path, KvFormat kv, const std::string& backend, PieceSizes sizes) {
    const Result<ModelFile> file = open_model_file(path);
    DS4_CHECK(file.ok());
    return state_identity(*file, kv, backend, sizes);
  };
  const PieceSizes sizes{100, 200};
  const kvstore::Key one = identity(token_model(), KvFormat::kF32, "cpu/avx2", sizes);
  EXPECT_EQ(one, identity(token_model(), KvFormat::kF32, "cpu/avx2", sizes));
  EXPECT_NE(one, identity(chat_model(), KvFormat::kF32, "cpu/avx2", sizes));  // the same weights, another tokenizer
  EXPECT_NE(one, identity(token_model(), KvFormat::kF16, "cpu/avx2", sizes));
  EXPECT_NE(one, identity(token_model(), KvFormat::kF32, "cpu/avx512", sizes));
  EXPECT_NE(one, identity(token_model(), KvFormat::kF32, "cpu/avx2", {100, 201}));
  // One bit of the weights, in the same place under the same header; and a copy elsewhere.
  std::string bytes = read_file(token_model());
  const std::string copy = cat(work_dir(), "/copy.gguf"), tuned = cat(work_dir(), "/tuned.gguf");
  write_file(copy, bytes);
  EXPECT_EQ(one, identity(copy, KvFormat::kF32, "cpu/avx2", sizes));
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file(tuned, bytes);
  EXPECT_NE(one, identity(tuned, KvFormat::kF32, "cpu/avx2", sizes));
}

/// What a server does after a fault; the device here is well.
TEST(EngineOnWeights, ARebuiltModelIsTheSameModel) {
  const std::unique_ptr<Engine> engine = load(token_model());
  TokenModel& model = engine->token_model();
  const std::vector<TokenId> tokens(golden().tokens.begin(), golden().tokens.begin() + 200);
  const auto logits_of = [&] {
    Session session = *engine->new_session();
    EXPECT_TRUE(session.sync(tokens).ok());
    return std::vector<float>(session.logits().begin(), session.logits().end());
  };
  const std::vector<float> before = logits_of();
  const std::string name = engine->backend_name();
  const int rows = model.max_rows();
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(model.health().ok());
    ASSERT_TRUE(model.rebuild().ok());
    EXPECT_EQ(logits_of(), before);
    EXPECT_EQ(engine->backend_name(), name);
    EXPECT_EQ(model.max_rows(), rows);
  }
}

TEST(EngineOnWeights, ACancelledPrefillGoesOnWhereItStopped) {
  EngineOptions options;
  options.prefill_chunk = 64;
  const std::unique_ptr<Engine> engine = load(token_model(), options);
  Session session = *engine->new_session();
  std::atomic<bool> cancel{false};
  SyncOptions sync;
  sync.cancel = &cancel;
  sync.progress = [&](std::int64_t done, std::int64_t) { cancel = done >= 150; };
  const Result<SyncReport> report = session.sync(golden().tokens, sync);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(session.timeline().size(), 128);
  const Result<SyncReport> rest = session.sync(golden().tokens);
  ASSERT_TRUE(rest.ok());
  EXPECT_EQ(rest->reused, 128);
  const std::unique_ptr<Engine> other = load(token_model());
  Session straight = *other->new_session();
  ASSERT_TRUE(straight.sync(golden().tokens).ok());
  EXPECT_LT(difference(session.logits(), straight.logits()), 1e-4);
}

TEST(EngineOnWeights, APlanThatDoesNotFitIsRefusedWithWhatWould) {
  const std::string meminfo = work_dir() + "/meminfo";
  EngineOptions options;
  options.context = 4096;
  options.prefill_chunk = 4;
  options.backend.device = "reference";
  options.memory = {meminfo, "/nowhere", "/nowhere"};
  int shorter = 0;
  for (int kib = 100; kib < 6000; kib += 40) {
    write_file(meminfo, cat("MemAvailable:   ", kib, " kB\n"));
    options.context = 4096;
    Result<ModelFile> file = open_model_file(token_model());
    ASSERT_TRUE(file.ok());
    const Result<EnginePlan> plan = plan_engine(*file, options);
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    options.context = plan->fitting_context();
    if (plan->fits()) {
      EXPECT_TRUE(Engine::load(std::move(file).value(), options).ok());
      continue;
    }
    if (options.context > 0) {
      ++shorter;
      EXPECT_NE(plan->refusal().message.find(cat(options.context, " tokens fit")), std::string::npos);
      EXPECT_TRUE(plan_engine(*file, options)->fits()) << kib << " KiB, " << options.context << " tokens";
      options.context = std::min<std::int64_t>(options.context + kPageTokens, 4096);
      EXPECT_FALSE(plan_engine(*file, options)->fits()) << kib << " KiB, " << options.context << " tokens";
    }
    options.context = 4096;
    const Result<std::unique_ptr<Engine>> engine = Engine::load(std::move(file).value(), options);
    ASSERT_FALSE(engine.ok());
    EXPECT_EQ(engine.error().code, ErrorCode::kOutOfMemory);
    EXPECT_NE(engine.error().message.find(cat(human_bytes(std::uint64_t(kib) * 1024), " are available")),
              std::string::npos);
  }
  EXPECT_GT(shorter, 3);
}

TEST(EngineOnWeights, WithoutRoomForRepackedWeightsThoseOfTheFileDo) {
  const std::string path = std::string(DS4_MODELS_DIR) + "/ds4-nano.gguf";
  const std::string meminfo = work_dir() + "/meminfo";
  EngineOptions options;
  options.context = 512;
  options.prefill_chunk = 40;
  options.backend.threads = 1;
  options.memory = {meminfo, "/nowhere", "/nowhere"};
  std::vector<std::vector<float>> logits;
  std::vector<MemoryPlan> plans;
  std::uint64_t available = std::uint64_t{4} << 30;
  for (int round = 0; round < 2; ++round) {
    write_file(meminfo, cat("MemAvailable:   ", available / 1024, " kB\n"));
    Result<ModelFile> file = open_model_file(path);
    ASSERT_TRUE(file.ok());
    const Result<std::unique_ptr<Engine>> engine = Engine::load(std::move(file).value(), options);
    ASSERT_TRUE(engine.ok()) << engine.error().message;
    plans.push_back((*engine)->plan().memory);
    available = plans.front().total() - 1024;
    Session session = *(*engine)->new_session();
    std::vector<TokenId> tokens;
    for (TokenId token = 0; token < 100; ++token) tokens.push_back(token * 7 % 500);
    ASSERT_TRUE(session.sync(tokens).ok());
    logits.emplace_back(session.logits().begin(), session.logits().end());
  }
  EXPECT_GT(plans[0].weights, plans[1].weights);
  EXPECT_LT(plans[0].weights_mapped, plans[1].weights_mapped);
  EXPECT_EQ(logits[0], logits[1]);
}

TEST(EngineOnWeights, ContextsOutOfRangeAreRefused) {
  Result<ModelFile> file = open_model_file(token_model());
  ASSERT_TRUE(file.ok());
  EngineOptions options;
  options.context = 4097;
  EXPECT_EQ(plan_engine(*file, options).error().code, ErrorCode::kUsage);
  options.context = 0;
  EXPECT_EQ(plan_engine(*file, options)->model.context, 4096);
}

}  // namespace
}  // namespace ds4::e2e
