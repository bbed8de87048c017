// What a sequence keeps: rewinding, forking, saving and cancelling change nothing but what they say.
#include "model/test_forward.h"

namespace ds4 {
namespace {

using namespace testing;

class Sequences : public OnEveryDevice {};
INSTANTIATE_TEST_SUITE_P(Devices, Sequences, ::testing::ValuesIn(devices()), device_label);

TEST_P(Sequences, RewindContinuesBitForBit) {
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

TEST_P(Sequences, ForksShareThePastAndNothingElse) {
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

TEST_P(Sequences, SavedSequencesContinueBitForBit) {
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

TEST_P(Sequences, StoredPiecesContinueBitForBit) {
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

TEST_P(Sequences, ACancelledStepLeavesTheSequenceAsItWas) {
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

TEST_P(Sequences, SequencesAreLimitedByThePlanAndGiveBackWhatTheyTook) {
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

}  // namespace
}  // namespace ds4
