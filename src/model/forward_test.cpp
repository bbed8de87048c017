// Properties of the whole forward pass on a small random model, for every backend of this machine.
#include "model/test_forward.h"

namespace ds4 {
namespace {

using namespace testing;

class Forward : public OnEveryDevice {};
INSTANTIATE_TEST_SUITE_P(Devices, Forward, ::testing::ValuesIn(devices()), device_label);

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

TEST_P(Forward, TheLargestLogitsAreThoseOfAll) {
  auto model = load(GetParam());
  const auto tokens = random_tokens(60);
  auto a = fresh(*model);
  auto b = fresh(*model);
  feed(*model, a, std::span(tokens).first(40), 40);
  feed(*model, b, std::span(tokens).first(25), 25);
  std::vector<BatchRow> rows = {{&a, tokens[40], 40, true}};
  for (std::size_t i = 25; i < 30; ++i) rows.push_back({&b, tokens[i], static_cast<std::int64_t>(i), i >= 28});
  auto a_again = std::move(*a.fork());
  auto b_again = std::move(*b.fork());
  const std::size_t vocab = 96;
  Logits expected(3 * vocab);
  ASSERT_TRUE(model->forward(rows, expected).ok());
  for (BatchRow& row : rows) row.sequence = row.sequence == &a ? &a_again : &b_again;
  std::vector<TopLogits> top(3);
  ForwardOptions options;
  options.top = top;
  ASSERT_TRUE(model->forward(rows, {}, options).ok());
  for (std::size_t i = 0; i < top.size(); ++i) {
    const std::span<const float> row = std::span(expected).subspan(i * vocab, vocab);
    const TopLogits want = top_logits_of(row);
    EXPECT_EQ(top[i].count, want.count);
    EXPECT_EQ(top[i].tokens, want.tokens);
    EXPECT_EQ(top[i].logits, want.logits);
    Logits all(vocab);
    ASSERT_TRUE(model->read_logits(static_cast<int>(i), all).ok());
    EXPECT_TRUE(std::ranges::equal(all, row));
  }
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
    const auto status = (*model)->forward(row, logits);
    EXPECT_FALSE(status.ok()) << choice.device << choice.isa;
    TopLogits top;
    ForwardOptions ranked;
    ranked.top = {&top, 1};
    EXPECT_EQ((*model)->forward(row, {}, ranked).error().message, status.error().message);
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

}  // namespace
}  // namespace ds4
