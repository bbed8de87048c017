#include "eval/compare.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "engine/fake_token_model.h"

namespace ds4::eval {
namespace {

/// Logits that depend on the last token alone: `favour` of token t gets `lead` more than the others.
class OneLead final : public TokenModel {
 public:
  OneLead(int vocab, int favour, float lead) : vocab_(vocab), favour_(favour), lead_(lead) {}
  int vocab() const override { return vocab_; }
  int layers() const override { return 1; }
  std::int64_t context() const override { return 100; }
  int max_rows() const override { return 8; }
  int max_logit_rows() const override { return 8; }
  Result<std::unique_ptr<Track>> new_track() override { return std::unique_ptr<Track>(std::make_unique<Nothing>()); }
  Status forward(std::span<const TrackStep> steps, const StepOptions&) override {
    for (const TrackStep& step : steps) {
      static_cast<Nothing&>(*step.track).size += std::ssize(step.tokens);
      for (std::size_t i = 0; i < step.logits.size(); ++i)
        step.logits[i] = i % static_cast<std::size_t>(vocab_) == static_cast<std::size_t>(favour_) ? lead_ : 0.0F;
    }
    return {};
  }

 private:
  struct Nothing final : Track {
    std::int64_t size = 0;
    std::int64_t length() const override { return size; }
    std::int64_t rewind_floor() const override { return 0; }
    bool rewind(std::int64_t to) override {
      size = to;
      return true;
    }
    Result<std::unique_ptr<Track>> fork() const override { return Error{ErrorCode::kFailure, "not here"}; }
  };
  int vocab_, favour_;
  float lead_;
};

Session session_of(TokenModel& model) { return *Session::create(model, nullptr, 0); }

/// One text, all of which counts.
std::vector<Document> text_of(std::vector<TokenId> tokens) { return {{std::move(tokens)}}; }

TEST(Compare, NumbersAreThoseOfTheDistributions) {
  // A: 1/2 for token 0 and 1/4 for the others. B: uniform.
  OneLead a(3, 0, std::log(2.0F));
  OneLead b(3, 0, 0.0F);
  Session session_a = session_of(a);
  Session session_b = session_of(b);
  const auto scores = score_documents(session_a, session_b, text_of({2, 0, 1}), {});
  ASSERT_TRUE(scores.ok()) << scores.error().message;
  ASSERT_EQ(scores->nll_a.size(), 2u);
  EXPECT_NEAR(scores->nll_a[0], std::log(2.0), 1e-6);
  EXPECT_NEAR(scores->nll_a[1], std::log(4.0), 1e-6);
  EXPECT_NEAR(scores->nll_b[0], std::log(3.0), 1e-6);
  EXPECT_NEAR(scores->kl[0], 0.5 * std::log(1.5) + 0.5 * std::log(0.75), 1e-6);
  EXPECT_EQ(scores->same_first[0], 1.0F);
}

TEST(Compare, FirstChoicesThatDifferAreSeen) {
  OneLead a(5, 3, 2.0F);
  OneLead b(5, 4, 2.0F);
  Session session_a = session_of(a);
  Session session_b = session_of(b);
  const auto scores = score_documents(session_a, session_b, text_of({0, 1}), {});
  ASSERT_TRUE(scores.ok());
  EXPECT_EQ(scores->same_first, std::vector<float>{0.0F});
  EXPECT_NEAR(scores->nll_a[0], scores->nll_b[0], 1e-6);
  EXPECT_GT(scores->kl[0], 0.5F);
}

TEST(Compare, AModelIsNotFarFromItself) {
  FakeTokenModel model({.vocab = 50, .context = 64, .max_rows = 8, .max_logit_rows = 8});
  Session a = session_of(model);
  Session b = session_of(model);
  std::vector<TokenId> tokens;
  for (TokenId i = 0; i < 150; ++i) tokens.push_back(i % 50);
  CompareOptions options{.chunk = 20, .block = 4, .bos = 1};
  std::int64_t reported = 0;
  options.progress = [&](std::int64_t done, std::int64_t) { reported = done; };
  const auto scores = score_documents(a, b, text_of(tokens), options);
  ASSERT_TRUE(scores.ok()) << scores.error().message;
  EXPECT_EQ(scores->nll_a.size(), tokens.size());  // behind a BOS every token is predicted
  EXPECT_EQ(scores->nll_a, scores->nll_b);
  EXPECT_GE(reported, 150);
  const Comparison result = summarise(*scores, options.block);
  EXPECT_EQ(result.tokens, 150);
  EXPECT_EQ(result.kl.value, 0);
  EXPECT_EQ(result.same_first.value, 1);
  EXPECT_EQ(result.nll_change.low, 0);
  EXPECT_EQ(result.nll_change.high, 0);
}

TEST(Compare, ChunksStartAfresh) {
  FakeTokenModel model({.vocab = 50, .context = 64, .max_rows = 8, .max_logit_rows = 8});
  Session a = session_of(model);
  Session b = session_of(model);
  const auto scores = score_documents(a, b, text_of({7, 8, 9, 7, 8, 9}), {.chunk = 4, .bos = 1});
  ASSERT_TRUE(scores.ok());
  EXPECT_EQ(std::vector<float>(scores->nll_a.begin(), scores->nll_a.begin() + 3),
            std::vector<float>(scores->nll_a.begin() + 3, scores->nll_a.end()));
}

TEST(Compare, DocumentsStartAfreshAndOnlyWhatCountsIsScored) {
  FakeTokenModel model({.vocab = 50, .context = 64, .max_rows = 8, .max_logit_rows = 8});
  OneLead other(50, 3, 1.0F);
  Session a = session_of(model);
  Session b = session_of(other);
  const CompareOptions options{.chunk = 4, .bos = 1};
  const std::vector<TokenId> tokens = {7, 8, 9, 10, 11};  // a chunk holds three behind its BOS
  const auto whole = score_documents(a, b, text_of(tokens), options);
  const std::vector<Document> documents = {{tokens, {0, 1, 0, 0, 1}}, {tokens, {0, 0, 0, 0, 0}}, {tokens}};
  const auto scores = score_documents(a, b, documents, options);
  ASSERT_TRUE(scores.ok()) << scores.error().message;
  EXPECT_EQ(scores->ends, (std::vector<std::size_t>{2, 2, 7}));
  for (const auto member : {&TokenScores::nll_a, &TokenScores::nll_b, &TokenScores::kl, &TokenScores::same_first}) {
    const std::vector<float>& all = (*whole).*member;
    std::vector<float> expected = {all[1], all[4]};
    expected.insert(expected.end(), all.begin(), all.end());
    EXPECT_EQ((*scores).*member, expected);
  }
  EXPECT_EQ(summarise(*scores, 64).documents, 3);
  EXPECT_TRUE(std::isfinite(summarise(*scores, 64).kl.low)) << "two documents are two blocks";
  EXPECT_FALSE(std::isfinite(summarise(*whole, 64).kl.low));
}

TEST(Compare, TooFewTokensAndACancelAreErrors) {
  FakeTokenModel model({.vocab = 50, .context = 64, .max_rows = 8, .max_logit_rows = 8});
  Session a = session_of(model);
  Session b = session_of(model);
  EXPECT_EQ(score_documents(a, b, text_of({3}), {}).error().code, ErrorCode::kUsage);
  EXPECT_EQ(score_documents(a, b, text_of({3, 4}), {.chunk = 1}).error().code, ErrorCode::kUsage);
  std::atomic<bool> cancel{true};
  EXPECT_EQ(score_documents(a, b, text_of({3, 4}), {.cancel = &cancel}).error().code, ErrorCode::kCancelled);
}

TEST(Compare, PercentilesOfTheDivergence) {
  TokenScores scores;
  for (int i = 0; i < 101; ++i) {
    scores.nll_a.push_back(1);
    scores.nll_b.push_back(1.5F);
    scores.kl.push_back(static_cast<float>(i));
    scores.same_first.push_back(i < 100 ? 1.0F : 0.0F);
  }
  const Comparison result = summarise(scores, 10);
  EXPECT_EQ(result.kl_99, 99);
  EXPECT_EQ(result.kl_most, 100);
  EXPECT_NEAR(result.nll_change.value, 0.5, 1e-6);
  EXPECT_NEAR(result.same_first.value, 100.0 / 101, 1e-9);
}

}  // namespace
}  // namespace ds4::eval
