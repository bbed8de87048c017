// Properties of the whole forward pass on a small random model, for every backend of this machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

#include "base/text.h"
#include "model/model.h"
#include "model/small_model.h"
#include "quant/codec.h"

namespace ds4 {
namespace {

using Logits = std::vector<float>;

struct DeviceChoice {
  std::string device;
  std::string isa;
};

std::unique_ptr<Backend> make_backend(const DeviceChoice& choice, int threads = 2) {
  BackendOptions options;
  options.device = choice.device;
  options.threads = threads;
  options.isa = choice.isa;
  auto backend = create_backend(options);
  return backend.ok() ? std::move(*backend) : nullptr;
}

std::vector<DeviceChoice> devices() {
  const bool emulated = std::getenv("DS4_EMULATED") != nullptr;  // only what native runs elsewhere do not cover
  std::vector<DeviceChoice> out;
  for (const DeviceChoice& choice :
       {DeviceChoice{"reference", ""}, {"cpu", "scalar"}, {"cpu", "avx2"}, {"cpu", "avx512"}, {"cpu", "neon"}})
    if ((!emulated || choice.isa == "neon") && make_backend(choice) != nullptr) out.push_back(choice);
  return out;
}

/// The model file, written once for all tests.
const gguf::File& model_file() {
  static const testing::ScratchFile scratch("small.gguf");
  static const gguf::File file = [] {
    testing::write_small_model(scratch.path(), testing::small_model_keys(), testing::small_model_tensors(), 7);
    return std::move(*gguf::File::open(scratch.path()));
  }();
  return file;
}

std::vector<std::int32_t> random_tokens(std::size_t count, std::uint64_t seed = 3) {
  std::mt19937_64 rng(seed);
  std::vector<std::int32_t> tokens(count);
  for (auto& t : tokens) t = static_cast<std::int32_t>(rng() % 96);
  return tokens;
}

ModelOptions default_options() {
  ModelOptions options;
  options.kv = KvFormat::kF32;
  options.context = 1200;
  options.max_sequences = 6;
  options.max_rows = 700;
  options.max_logit_rows = 700;
  return options;
}

std::unique_ptr<Model> load(const DeviceChoice& choice, const ModelOptions& options = default_options(),
                            int threads = 2) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(make_backend(choice, threads));
  auto model = Model::load(model_file(), std::move(backends), options);
  EXPECT_TRUE(model.ok()) << model.error().message;
  return std::move(*model);
}

/// Feeds `tokens` in chunks and returns the logits of all of them, [tokens][vocab].
Logits feed(Model& model, Sequence& sequence, std::span<const std::int32_t> tokens, std::size_t chunk) {
  const auto vocab = static_cast<std::size_t>(model.shape().dims.vocab);
  Logits logits(tokens.size() * vocab);
  for (std::size_t at = 0; at < tokens.size(); at += chunk) {
    const std::size_t n = std::min(chunk, tokens.size() - at);
    std::vector<BatchRow> rows;
    for (std::size_t i = 0; i < n; ++i)
      rows.push_back({&sequence, tokens[at + i], sequence.length() + static_cast<std::int64_t>(i), true});
    const auto status = model.forward(rows, std::span(logits).subspan(at * vocab, n * vocab));
    EXPECT_TRUE(status.ok()) << status.error().message;
    if (!status.ok()) break;
  }
  return logits;
}

Sequence fresh(Model& model) {
  auto sequence = model.new_sequence();
  EXPECT_TRUE(sequence.ok());
  return std::move(*sequence);
}

float largest_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  float largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

class Forward : public ::testing::TestWithParam<DeviceChoice> {};
INSTANTIATE_TEST_SUITE_P(Devices, Forward, ::testing::ValuesIn(devices()), [](const auto& test) {
  return test.param.device + (test.param.isa.empty() ? "" : "_" + test.param.isa);
});

TEST_P(Forward, AgreesWithTheReference) {
  const auto tokens = random_tokens(300);
  auto oracle = load({"reference", ""});
  auto model = load(GetParam());
  auto a = fresh(*oracle);
  auto b = fresh(*model);
  EXPECT_LT(largest_difference(feed(*oracle, a, tokens, 300), feed(*model, b, tokens, 300)), 2e-4F);
}

TEST_P(Forward, AnyChunkingGivesTheSameLogits) {
  const auto tokens = random_tokens(301);
  auto model = load(GetParam());
  auto whole_sequence = fresh(*model);
  const Logits whole = feed(*model, whole_sequence, tokens, tokens.size());
  for (const std::size_t chunk : {1, 2, 3, 4, 5, 63, 64, 65, 127, 128, 129}) {
    auto sequence = fresh(*model);
    EXPECT_LT(largest_difference(feed(*model, sequence, tokens, chunk), whole), 1e-4F) << "chunk " << chunk;
  }
}

TEST_P(Forward, NeighboursInABatchDoNotChangeABit) {
  auto model = load(GetParam());
  const auto a_tokens = random_tokens(150, 1);
  const auto b_tokens = random_tokens(40, 2);
  const auto c_tokens = random_tokens(90, 3);
  auto alone = fresh(*model);
  feed(*model, alone, std::span(a_tokens).first(140), 140);
  const Logits expected = feed(*model, alone, std::span(a_tokens).subspan(140), 1);

  auto a = fresh(*model);
  auto b = fresh(*model);
  auto c = fresh(*model);
  feed(*model, a, std::span(a_tokens).first(140), 140);
  feed(*model, b, std::span(b_tokens).first(30), 30);
  const std::size_t vocab = 96;
  Logits together;
  for (std::size_t step = 0; step < 10; ++step) {  // A and B decode while C prefills, in turning order
    std::vector<BatchRow> rows;
    const auto add = [&](Sequence& s, std::span<const std::int32_t> tokens) {
      for (std::size_t i = 0; i < tokens.size(); ++i)
        rows.push_back({&s, tokens[i], s.length() + static_cast<std::int64_t>(i), i + 1 == tokens.size()});
    };
    const bool c_first = step % 2 == 0;
    if (c_first) add(c, std::span(c_tokens).subspan(step * 9, 9));
    add(b, std::span(b_tokens).subspan(30 + step, 1));
    add(a, std::span(a_tokens).subspan(140 + step, 1));
    if (!c_first) add(c, std::span(c_tokens).subspan(step * 9, 9));
    Logits logits(3 * vocab);
    ASSERT_TRUE(model->forward(rows, logits).ok());
    const std::size_t a_at = c_first ? 2 : 1;
    together.insert(together.end(), logits.begin() + static_cast<std::ptrdiff_t>(a_at * vocab),
                    logits.begin() + static_cast<std::ptrdiff_t>((a_at + 1) * vocab));
  }
  EXPECT_EQ(together, expected);
}

TEST_P(Forward, ThreadsDoNotChangeABit) {
  if (GetParam().device == "reference") GTEST_SKIP() << "one thread";
  const auto tokens = random_tokens(200);
  auto one = load(GetParam(), default_options(), 1);
  auto a = fresh(*one);
  Logits expected = feed(*one, a, std::span(tokens).first(180), 90);
  const Logits decode = feed(*one, a, std::span(tokens).subspan(180), 1);
  expected.insert(expected.end(), decode.begin(), decode.end());
  for (const int threads : {2, 3, 5}) {
    auto many = load(GetParam(), default_options(), threads);
    auto b = fresh(*many);
    Logits found = feed(*many, b, std::span(tokens).first(180), 90);
    const Logits more = feed(*many, b, std::span(tokens).subspan(180), 1);
    found.insert(found.end(), more.begin(), more.end());
    EXPECT_EQ(found, expected) << threads << " threads";
  }
}

TEST_P(Forward, RewindContinuesBitForBit) {
  const auto tokens = random_tokens(300);
  auto model = load(GetParam());
  auto straight = fresh(*model);
  feed(*model, straight, std::span(tokens).first(250), 250);
  const Logits expected = feed(*model, straight, std::span(tokens).subspan(250), 1);
  const auto detour_tokens = random_tokens(64, 99);
  for (const std::size_t detour : {1, 5, 17, 63, 64}) {
    auto sequence = fresh(*model);
    feed(*model, sequence, std::span(tokens).first(250), 250);
    feed(*model, sequence, std::span(detour_tokens).first(detour), 7);
    EXPECT_LE(sequence.rewind_floor(), 250);
    ASSERT_TRUE(sequence.rewind(250)) << detour;
    EXPECT_EQ(feed(*model, sequence, std::span(tokens).subspan(250), 1), expected) << detour;
  }
  auto sequence = fresh(*model);
  feed(*model, sequence, tokens, 300);
  EXPECT_EQ(sequence.rewind_floor(), 300 - kRewindSlack);
  EXPECT_FALSE(sequence.rewind(sequence.rewind_floor() - 1));
  EXPECT_FALSE(sequence.rewind(301));
  EXPECT_EQ(sequence.length(), 300);
  ASSERT_TRUE(sequence.rewind(0));
  EXPECT_EQ(feed(*model, sequence, std::span(tokens).first(250), 250), [&] {
    auto other = fresh(*model);
    return feed(*model, other, std::span(tokens).first(250), 250);
  }());
}

TEST_P(Forward, ForksShareThePastAndNothingElse) {
  const auto tokens = random_tokens(600);
  auto model = load(GetParam());
  auto straight = fresh(*model);
  feed(*model, straight, std::span(tokens).first(600), 600);  // the second page is begun
  const Logits expected = feed(*model, straight, std::span(tokens).subspan(600), 10);
  auto trunk = fresh(*model);
  feed(*model, trunk, std::span(tokens).first(600), 600);
  auto branch = trunk.fork();
  ASSERT_TRUE(branch.ok());
  const auto other = random_tokens(100, 5);
  const Logits other_logits = feed(*model, *branch, other, 10);
  EXPECT_EQ(feed(*model, trunk, std::span(tokens).subspan(600), 10), expected);
  {
    auto second = branch->fork();
    ASSERT_TRUE(second.ok());
    feed(*model, *second, std::span(tokens).first(30), 30);
  }
  auto again = fresh(*model);
  feed(*model, again, std::span(tokens).first(600), 600);
  EXPECT_EQ(feed(*model, again, other, 10), other_logits);
}

TEST_P(Forward, SavedSequencesContinueBitForBit) {
  for (const KvFormat kv : {KvFormat::kF32, KvFormat::kF16, KvFormat::kPacked}) {
    ModelOptions options = default_options();
    options.kv = kv;
    const auto tokens = random_tokens(620);
    auto model = load(GetParam(), options);
    auto straight = fresh(*model);
    feed(*model, straight, std::span(tokens).first(601), 601);
    const auto image = straight.save();
    ASSERT_TRUE(image.ok());
    const Logits expected = feed(*model, straight, std::span(tokens).subspan(601), 1);
    auto other_model = load(GetParam(), options);
    auto restored = other_model->restore(*image);
    ASSERT_TRUE(restored.ok()) << restored.error().message;
    EXPECT_EQ(restored->length(), 601);
    EXPECT_EQ(feed(*other_model, *restored, std::span(tokens).subspan(601), 1), expected);
    SequenceImage broken = *image;
    broken.pages[0].pop_back();
    EXPECT_FALSE(other_model->restore(broken).ok());
  }
}

TEST_P(Forward, StoredPiecesContinueBitForBit) {
  for (const KvFormat kv : {KvFormat::kF32, KvFormat::kF16, KvFormat::kPacked}) {
    ModelOptions options = default_options();
    options.kv = kv;
    const auto tokens = random_tokens(600);
    auto model = load(GetParam(), options);
    auto straight = fresh(*model);
    std::vector<std::vector<std::byte>> blocks;
    // The point of 512 is taken when the sequence is at 570 already, the blocks later still.
    feed(*model, straight, std::span(tokens).first(570), 64);
    auto saved = straight.save_point(512);
    ASSERT_TRUE(saved.ok());
    const std::vector<std::byte> point = *saved;
    auto taken_back = straight.fork();
    ASSERT_TRUE(taken_back.ok() && taken_back->rewind(512));
    EXPECT_EQ(taken_back->save_point(512).value(), point);
    const Logits expected = feed(*model, *taken_back, std::span(tokens).subspan(512), 20);
    for (const std::int64_t first : {0, 3}) {
      auto more = straight.save_blocks(first, first == 0 ? 3 : 1);
      ASSERT_TRUE(more.ok());
      for (auto& block : *more) blocks.push_back(std::move(block));
    }
    ASSERT_EQ(blocks.size(), 4u);

    auto other_model = load(GetParam(), options);
    SequencePieces pieces{{blocks.begin(), blocks.end()}, point};
    auto restored = other_model->restore(pieces);
    ASSERT_TRUE(restored.ok()) << restored.error().message;
    EXPECT_EQ(restored->length(), 512);
    EXPECT_EQ(restored->rewind_floor(), 512);
    EXPECT_EQ(restored->save_point(512).value(), point);
    EXPECT_EQ(restored->save_blocks(0, 4).value(), blocks);
    EXPECT_EQ(feed(*other_model, *restored, std::span(tokens).subspan(512), 20), expected);

    // In the middle of a page.
    pieces.blocks.pop_back();
    auto early = fresh(*model);
    feed(*model, early, std::span(tokens).first(384), 100);
    const auto early_point = early.save_point(384);
    ASSERT_TRUE(early_point.ok());
    pieces.point = *early_point;
    auto shorter = other_model->restore(pieces);
    ASSERT_TRUE(shorter.ok()) << shorter.error().message;
    EXPECT_EQ(feed(*other_model, *shorter, std::span(tokens).subspan(384), 60),
              feed(*model, early, std::span(tokens).subspan(384), 60));

    pieces.point = pieces.point.first(pieces.point.size() - 1);
    EXPECT_FALSE(other_model->restore(pieces).ok());
    EXPECT_FALSE(other_model->restore(SequencePieces{}).ok());
  }
}

TEST_P(Forward, ACancelledStepLeavesTheSequenceAsItWas) {
  const auto tokens = random_tokens(320);
  auto model = load(GetParam());
  auto straight = fresh(*model);
  feed(*model, straight, std::span(tokens).first(200), 200);
  const auto start = straight.fork();
  ASSERT_TRUE(start.ok());
  const Logits expected = feed(*model, straight, std::span(tokens).subspan(200), 100);
  for (const std::size_t rows_in_step : {1, 40, 64, 65, 300}) {
    for (const int stop_after : {1, 2, 3}) {
      Sequence sequence = std::move(*start->fork());
      std::vector<BatchRow> rows;
      for (std::size_t i = 0; i < rows_in_step; ++i)
        rows.push_back({&sequence, 5, 200 + static_cast<std::int64_t>(i), false});
      std::atomic<bool> cancel = false;
      ForwardOptions options;
      options.cancel = &cancel;
      options.progress = [&](int done) { cancel = done == stop_after; };
      const auto status = model->forward(rows, {}, options);
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(status.error().code, ErrorCode::kCancelled);
      EXPECT_EQ(sequence.length(), 200);
      EXPECT_EQ(feed(*model, sequence, std::span(tokens).subspan(200), 100), expected)
          << rows_in_step << " " << stop_after;
    }
  }
}

TEST_P(Forward, EveryLayerNamesItsBackend) {
  const auto tokens = random_tokens(200);
  auto whole = load(GetParam());
  auto a = fresh(*whole);
  const Logits expected = feed(*whole, a, tokens, 50);
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(make_backend({"reference", ""}));
  backends.push_back(make_backend(GetParam()));
  ModelOptions options = default_options();
  options.layer_backend = {0, 1, 1, 0};
  auto split = Model::load(model_file(), std::move(backends), options);
  ASSERT_TRUE(split.ok()) << split.error().message;
  auto b = fresh(**split);
  EXPECT_LT(largest_difference(feed(**split, b, tokens, 50), expected), 2e-4F);
  auto forked = b.fork();
  ASSERT_TRUE(forked.ok());
  const auto image = forked->save();
  ASSERT_TRUE(image.ok());
  auto restored = (*split)->restore(*image);
  ASSERT_TRUE(restored.ok());
  EXPECT_EQ(feed(**split, *restored, std::span(tokens).first(20), 1), feed(**split, b, std::span(tokens).first(20), 1));
}

TEST_P(Forward, LongBatchesPassTheDevicesInSteps) {
  const auto tokens = random_tokens(200);
  auto whole = load(GetParam());
  auto a = fresh(*whole);
  const Logits expected = feed(*whole, a, tokens, 64);
  std::vector<std::unique_ptr<Backend>> backends;
  for (int i = 0; i < 2; ++i) backends.push_back(make_backend(GetParam()));
  ModelOptions options = default_options();
  spread_layers(options, 4, 2);
  EXPECT_EQ(options.layer_backend, (std::vector<int>{0, 0, 1, 1}));
  options.step_rows = 64;
  auto split = Model::load(model_file(), std::move(backends), options);
  ASSERT_TRUE(split.ok()) << split.error().message;
  auto b = fresh(**split);
  EXPECT_EQ(feed(**split, b, tokens, 200), expected);
  // Two sequences in one batch: a step ends in the middle of the second.
  auto c = fresh(**split);
  auto d = fresh(**split);
  std::vector<BatchRow> rows;
  for (auto* sequence : {&c, &d})
    for (std::size_t i = 0; i < 40; ++i) rows.push_back({sequence, tokens[i], static_cast<std::int64_t>(i), i == 39});
  std::vector<float> streams(80 * 4 * 64);
  const std::vector<StreamTap> taps = {{3, streams}};
  ForwardOptions tapped;
  tapped.taps = taps;
  const auto vocab = static_cast<std::size_t>((*split)->shape().dims.vocab);
  std::vector<float> logits(2 * vocab);
  ASSERT_TRUE((*split)->forward(rows, logits, tapped).ok());
  EXPECT_LT(largest_difference(std::span(logits).first(vocab), std::span(logits).last(vocab)), 2e-4F);
  EXPECT_LT(largest_difference(std::span(streams).first(40 * 256), std::span(streams).last(40 * 256)), 2e-4F);
  EXPECT_EQ(d.length(), 40);
}

TEST_P(Forward, TapsSeeTheStreams) {
  const auto tokens = random_tokens(30);
  auto model = load(GetParam());
  auto sequence = fresh(*model);
  std::vector<float> first(30 * 4 * 64);
  std::vector<float> last(30 * 4 * 64);
  const std::vector<StreamTap> taps = {{0, first}, {3, last}};
  std::vector<BatchRow> rows;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    rows.push_back({&sequence, tokens[i], static_cast<std::int64_t>(i), false});
  ForwardOptions options;
  options.taps = taps;
  ASSERT_TRUE(model->forward(rows, {}, options).ok());
  EXPECT_GT(largest_difference(first, last), 0.01F);
  auto one_by_one = fresh(*model);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::vector<float> streams(4 * 64);
    const std::vector<StreamTap> tap = {{3, streams}};
    ForwardOptions single;
    single.taps = tap;
    const std::vector<BatchRow> row = {{&one_by_one, tokens[i], static_cast<std::int64_t>(i), false}};
    ASSERT_TRUE(model->forward(row, {}, single).ok());
    EXPECT_LT(largest_difference(streams, std::span(last).subspan(i * 256, 256)), 1e-4F);
  }
}

TEST_P(Forward, HalfPrecisionRowsStayClose) {
  // f16 keeps 11 bits of every KV value.
  const auto tokens = random_tokens(400);
  auto exact = load(GetParam());
  ModelOptions options = default_options();
  options.kv = KvFormat::kF16;
  auto half = load(GetParam(), options);
  auto a = fresh(*exact);
  auto b = fresh(*half);
  const Logits x = feed(*exact, a, tokens, 400);
  const Logits y = feed(*half, b, tokens, 400);
  std::vector<float> difference;
  for (std::size_t i = 0; i < x.size(); ++i) difference.push_back(std::abs(x[i] - y[i]));
  std::sort(difference.begin(), difference.end());
  EXPECT_GT(difference.back(), 0.0F);
  EXPECT_LT(difference[difference.size() / 2], 1e-3F);
  EXPECT_LT(difference[difference.size() * 95 / 100], 2e-2F);  // some rows cross the top-k cut
}

TEST_P(Forward, BadBatchesAreRefusedAndChangeNothing) {
  ModelOptions options = default_options();
  options.context = 20;
  options.max_rows = 10;
  options.max_logit_rows = 2;
  auto model = load(GetParam(), options);
  auto s = fresh(*model);
  auto t = fresh(*model);
  const auto refused = [&](const std::vector<BatchRow>& rows, std::string_view why) {
    std::size_t wanted = 0;
    for (const auto& row : rows) wanted += row.wants_logits ? 1 : 0;
    Logits logits(wanted * 96);
    const auto status = model->forward(rows, logits);
    ASSERT_FALSE(status.ok()) << why;
    EXPECT_NE(status.error().message.find(why), std::string::npos) << status.error().message;
    EXPECT_EQ(s.length(), 0);
  };
  refused({}, "rows");
  refused(std::vector<BatchRow>(11, BatchRow{&s, 0, 0, false}), "rows");
  refused({{&s, 96, 0, false}}, "token");
  refused({{&s, -1, 0, false}}, "token");
  refused({{&s, 0, 1, false}}, "position");
  refused({{&s, 0, 0, false}, {&t, 0, 0, false}, {&s, 0, 1, false}}, "consecutive");
  refused({{&s, 0, 0, true}, {&s, 0, 1, true}, {&s, 0, 2, true}}, "logits");
  const auto tokens = random_tokens(20);
  feed(*model, t, tokens, 2);
  const std::vector<BatchRow> beyond = {{&t, 0, 20, false}};
  EXPECT_FALSE(model->forward(beyond, {}).ok());
  EXPECT_EQ(t.length(), 20);
}

TEST_P(Forward, SequencesAreLimitedByThePlanAndGiveBackWhatTheyTook) {
  ModelOptions options = default_options();
  options.max_sequences = 2;
  options.max_tokens = 1200;
  auto model = load(GetParam(), options);
  const auto tokens = random_tokens(600);
  for (int round = 0; round < 5; ++round) {  // would run out if anything leaked
    auto a = fresh(*model);
    feed(*model, a, tokens, 600);
    auto b = a.fork();
    ASSERT_TRUE(b.ok());
    feed(*model, *b, std::span(tokens).first(100), 100);
  }
}

TEST(ModelPlan, CountsBeforeAnythingIsAllocated) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(make_backend({"reference", ""}));
  ModelOptions options = default_options();
  const auto plan = Model::plan(model_file(), backends, options);
  ASSERT_TRUE(plan.ok());
  ASSERT_EQ(plan->size(), 1U);
  EXPECT_GT(plan->front().weights_mapped, 100000U);
  EXPECT_GT(plan->front().kv_pages, 0U);
  options.max_sequences = 12;
  const auto more = Model::plan(model_file(), backends, options);
  EXPECT_GT(more->front().kv_pages, plan->front().kv_pages);
  EXPECT_GT(more->front().kv_tails, plan->front().kv_tails);
  options.context = 5000;  // trained for 4096
  EXPECT_FALSE(Model::plan(model_file(), backends, options).ok());
}

TEST(ModelLoad, NonFiniteLogitsFailTheRequest) {
  const testing::ScratchFile scratch("poisoned.gguf");
  testing::write_small_model(scratch.path(), testing::small_model_keys(), testing::small_model_tensors(), 7);
  {
    const auto clean = gguf::File::open(scratch.path());
    ASSERT_TRUE(clean.ok());
    const auto offset = clean->find_tensor("blk.2.attn_norm.weight")->offset;
    FILE* file = std::fopen(scratch.path().c_str(), "r+b");
    ASSERT_NE(file, nullptr);
    const float nan = NAN;
    std::fseek(file, static_cast<long>(offset), SEEK_SET);
    std::fwrite(&nan, sizeof nan, 1, file);
    std::fclose(file);
  }
  const auto file = gguf::File::open(scratch.path());
  ASSERT_TRUE(file.ok());
  for (const auto& choice : devices()) {
    std::vector<std::unique_ptr<Backend>> backends;
    backends.push_back(make_backend(choice));
    auto model = Model::load(*file, std::move(backends), default_options());
    ASSERT_TRUE(model.ok());
    auto sequence = fresh(**model);
    Logits logits(96);
    const std::vector<BatchRow> row = {{&sequence, 1, 0, true}};
    EXPECT_FALSE((*model)->forward(row, logits).ok()) << choice.device << choice.isa;
    EXPECT_EQ(sequence.length(), 0);
  }
}

TEST(ModelLoad, RoutingTablesAreChecked) {
  const testing::ScratchFile scratch("routing.gguf");
  auto tensors = testing::small_model_tensors();
  auto keys = testing::small_model_keys();
  testing::write_small_model(scratch.path(), keys, tensors, 7);
  {
    const auto clean = gguf::File::open(scratch.path());
    ASSERT_TRUE(clean.ok());
    FILE* file = std::fopen(scratch.path().c_str(), "r+b");
    const std::int32_t bad = 6;  // experts are 0..5
    std::fseek(file, static_cast<long>(clean->find_tensor("blk.0.ffn_gate_tid2eid.weight")->offset + 40), SEEK_SET);
    std::fwrite(&bad, sizeof bad, 1, file);
    std::fclose(file);
  }
  const auto file = gguf::File::open(scratch.path());
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(make_backend({"reference", ""}));
  const auto model = Model::load(*file, std::move(backends), default_options());
  ASSERT_FALSE(model.ok());
  EXPECT_NE(model.error().message.find("entry 10"), std::string::npos) << model.error().message;
  EXPECT_NE(model.error().message.find("ffn_gate_tid2eid"), std::string::npos);
}

// ---- What the experts read ------------------------------------------------------------------------------------------

struct TappedLayer {
  std::vector<float> x;
  std::vector<std::int32_t> experts;
  std::vector<float> inner;
  int used = 0;
};

std::vector<TappedLayer> tap_experts(const DeviceChoice& choice, std::span<const std::int32_t> tokens) {
  ModelOptions options = default_options();
  options.expert_tap = true;
  const auto model = load(choice, options);
  Sequence sequence = std::move(*model->new_sequence());
  std::vector<BatchRow> rows;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    rows.push_back({&sequence, tokens[i], static_cast<std::int64_t>(i), false});
  std::vector<TappedLayer> layers;
  ForwardOptions forward;
  forward.expert_tap = [&](const ExpertInputs& inputs) {
    EXPECT_EQ(inputs.layer, static_cast<int>(layers.size()));
    layers.push_back({{inputs.x.begin(), inputs.x.end()},
                      {inputs.experts.begin(), inputs.experts.end()},
                      {inputs.inner.begin(), inputs.inner.end()},
                      inputs.experts_used});
  };
  EXPECT_TRUE(model->forward(rows, {}, forward).ok());
  return layers;
}

std::vector<float> values_of(const std::string& tensor) {
  const gguf::TensorInfo* info = model_file().find_tensor(tensor);
  std::vector<float> values(info->elements());
  decode_row(info->type, info->data.data(), values.data(), values.size());
  return values;
}

/// silu(W1 x) * (W3 x), before the routing weight; the clamp is far away.
std::vector<double> swiglu(const std::vector<float>& gate, const std::vector<float>& up, std::size_t expert,
                           std::size_t width, std::span<const float> x) {
  std::vector<double> out(width);
  for (std::size_t o = 0; o < width; ++o) {
    double a = 0, b = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      a += static_cast<double>(gate[(expert * width + o) * x.size() + i]) * static_cast<double>(x[i]);
      b += static_cast<double>(up[(expert * width + o) * x.size() + i]) * static_cast<double>(x[i]);
    }
    out[o] = a / (1 + std::exp(-a)) * b;
  }
  return out;
}

TEST(ExpertTap, ShowsWhatTheExpertsAreMultipliedWith) {
  const auto tokens = random_tokens(20);
  const auto layers = tap_experts({"reference", ""}, tokens);
  const auto model = load({"reference", ""});
  const Dims& dims = model->shape().dims;
  ASSERT_EQ(layers.size(), model->shape().layers.size());
  const auto hidden = static_cast<std::size_t>(dims.hidden);
  const auto width = static_cast<std::size_t>(dims.expert_ff);
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const std::vector<float> gate = values_of(cat("blk.", l, ".ffn_gate_exps.weight"));
    const std::vector<float> up = values_of(cat("blk.", l, ".ffn_up_exps.weight"));
    const auto used = static_cast<std::size_t>(layers[l].used);
    ASSERT_EQ(layers[l].x.size(), tokens.size() * hidden);
    ASSERT_EQ(layers[l].inner.size(), tokens.size() * used * width);
    for (std::size_t r = 0; r < tokens.size(); ++r) {
      double weights = 0;
      for (std::size_t i = 0; i < used; ++i) {
        const auto expert = static_cast<std::size_t>(layers[l].experts[r * used + i]);
        const auto expected = swiglu(gate, up, expert, width, std::span(layers[l].x).subspan(r * hidden, hidden));
        const float* inner = layers[l].inner.data() + (r * used + i) * width;
        double dot = 0, norm = 0;
        for (std::size_t o = 0; o < width; ++o) {
          dot += expected[o] * static_cast<double>(inner[o]);
          norm += expected[o] * expected[o];
        }
        const double weight = dot / norm;  // of the expert in this row
        for (std::size_t o = 0; o < width; ++o)
          ASSERT_NEAR(inner[o], weight * expected[o], 1e-4 * std::sqrt(norm)) << l << " " << r << " " << i;
        weights += weight;
      }
      EXPECT_NEAR(weights, dims.route_scale, 1e-3) << "the routing weights of a row add up to their scale";
    }
  }
}

TEST(ExpertTap, DevicesAgree) {
  const auto tokens = random_tokens(33);
  const auto expected = tap_experts({"reference", ""}, tokens);
  for (const DeviceChoice& choice : devices()) {
    const auto found = tap_experts(choice, tokens);
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t l = 0; l < found.size(); ++l) {
      ASSERT_EQ(found[l].experts, expected[l].experts) << choice.device << choice.isa << " layer " << l;
      ASSERT_EQ(found[l].inner.size(), expected[l].inner.size());
      double off = 0, norm = 0;
      for (std::size_t i = 0; i < found[l].inner.size(); ++i) {
        off += std::pow(static_cast<double>(found[l].inner[i]) - static_cast<double>(expected[l].inner[i]), 2);
        norm += std::pow(static_cast<double>(expected[l].inner[i]), 2);
      }
      EXPECT_LT(off, 1e-4 * norm) << choice.device << choice.isa << " layer " << l;
    }
  }
}

}  // namespace
}  // namespace ds4
