#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "base/rng.h"

namespace ds4 {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

Sampling pure() {
  Sampling sampling;
  sampling.min_p = 0;
  return sampling;
}

/// What the header promises, computed the slow way: the probability of every token.
std::map<TokenId, double> expected(std::span<const float> logits, const Sampling& s) {
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) { return logits[a] > logits[b]; });
  if (s.top_k > 0 && order.size() > static_cast<std::size_t>(s.top_k)) order.resize(static_cast<std::size_t>(s.top_k));
  std::vector<double> p;
  for (const TokenId t : order) p.push_back(std::exp((logits[t] - logits[order[0]]) / s.temperature));
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  std::size_t kept = 0;
  double mass = 0;
  while (kept < p.size() && (kept == 0 || ((s.top_p >= 1 || mass < s.top_p * total) && p[kept] >= s.min_p))) {
    mass += p[kept++];
  }
  std::map<TokenId, double> out;
  for (std::size_t i = 0; i < kept; ++i) out[order[i]] = p[i] / mass;
  return out;
}

std::map<TokenId, int> draw(std::span<const float> logits, const Sampling& sampling, int count) {
  std::map<TokenId, int> seen;
  for (int i = 0; i < count; ++i) ++seen[sample(logits, sampling, i)];
  return seen;
}

/// Chi-square of `count` draws; tokens that must not occur count as infinitely wrong.
double chi_square(std::span<const float> logits, const Sampling& sampling, int count) {
  const auto want = expected(logits, sampling);
  double sum = 0;
  const auto seen = draw(logits, sampling, count);
  for (const auto& [token, n] : seen) {
    if (!want.contains(token)) return std::numeric_limits<double>::infinity();
  }
  for (const auto& [token, p] : want) {
    const auto it = seen.find(token);
    const double n = it == seen.end() ? 0 : it->second;
    sum += (n - p * count) * (n - p * count) / (p * count);
  }
  return sum;
}

std::vector<float> random_logits(std::size_t count, std::uint64_t seed, double spread) {
  std::vector<float> logits(count);
  for (std::size_t i = 0; i < count; ++i) logits[i] = static_cast<float>(spread * uniform(seed, i, 7));
  return logits;
}

TEST(Sampler, GreedyTakesTheLowestIdOfEqualLogits) {
  Sampling greedy;
  greedy.temperature = 0;
  EXPECT_EQ(sample(std::vector<float>{1, 3, 3, 2}, greedy, 0), 1);
  EXPECT_EQ(sample(std::vector<float>{kNan, -kInf, -5, kNan}, greedy, 0), 2);
  EXPECT_EQ(sample(std::vector<float>{kNan, -kInf}, greedy, 0), 0);
}

TEST(Sampler, DrawsHaveTheExactProbabilities) {
  // 99.99 % of honest samplers stay below these chi-square values (degrees of freedom: kept tokens - 1, at most 19).
  const auto logits = random_logits(20, 1, 4.0);
  for (const double temperature : {0.5, 1.0, 2.0}) {
    for (const std::int64_t top_k : {0, 1, 5}) {
      for (const double top_p : {1.0, 0.9, 0.3}) {
        for (const double min_p : {0.0, 0.05, 0.5}) {
          const Sampling sampling{temperature, top_k, top_p, min_p, 42};
          EXPECT_LT(chi_square(logits, sampling, 3000), 54)
              << "temperature " << temperature << " top_k " << top_k << " top_p " << top_p << " min_p " << min_p;
        }
      }
    }
  }
}

TEST(Sampler, FiltersKeepExactlyWhatTheyPromise) {
  // Probabilities .4 .3 .2 .1 in a shuffled order of ids.
  const std::vector<float> logits = {std::log(.2f), std::log(.4f), std::log(.1f), std::log(.3f)};
  const auto kept = [&](Sampling sampling) {
    std::vector<TokenId> ids;
    for (const auto& [id, n] : draw(logits, sampling, 2000)) ids.push_back(id);
    return ids;
  };
  using Ids = std::vector<TokenId>;
  EXPECT_EQ(kept(pure()), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(kept({1, 2, 1, 0, 1}), (Ids{1, 3}));
  EXPECT_EQ(kept({1, 99, 1, 0, 1}), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(kept({1, 0, 0.65, 0, 1}), (Ids{1, 3}));
  EXPECT_EQ(kept({1, 0, 0.75, 0, 1}), (Ids{0, 1, 3}));
  EXPECT_EQ(kept({1, 0, 0, 0, 1}), (Ids{1}));
  EXPECT_EQ(kept({1, 0, 1, 0.45, 1}), (Ids{0, 1, 3}));
  EXPECT_EQ(kept({1, 0, 1, 1, 1}), (Ids{1}));
  // top-p works on what top-k left: .4 / (.4 + .3) reaches .55 alone, .4 of everything would not.
  EXPECT_EQ(kept({1, 2, 0.55, 0, 1}), (Ids{1}));
}

TEST(Sampler, TiesAtACutGoToTheLowerId) {
  const std::vector<float> logits = {1, 1, 1, 1};
  const auto seen = draw(logits, {1, 2, 1, 0, 3}, 500);
  EXPECT_EQ(seen.size(), 2u);
  EXPECT_TRUE(seen.contains(0) && seen.contains(1));
  // min-p keeps what is exactly at its bound.
  EXPECT_EQ(draw(std::vector<float>{1, 1, 0}, {1, 0, 1, 1, 3}, 500).size(), 2u);
}

TEST(Sampler, BadLogitsAreNeverDrawn) {
  const std::vector<float> logits = {kNan, 0, -kInf, 0.5, kNan};
  for (const auto& [id, n] : draw(logits, pure(), 1000)) EXPECT_TRUE(id == 1 || id == 3) << id;
  EXPECT_EQ(draw(std::vector<float>{0, kInf, 3}, pure(), 100).size(), 1u);
  EXPECT_EQ(sample(std::vector<float>{kNan, kNan}, pure(), 5), 0);
  EXPECT_EQ(sample(std::vector<float>{0, 1}, {1e-300, 0, 1, 0.05, 1}, 5), 1);
}

TEST(Sampler, ALargeVocabularyIsDrawnFromTheWholeOfIt) {
  // Flat: the lazily sorted order is walked to its end, over every growth step.
  const std::vector<float> flat(5000, 0.0f);
  double sum = 0;
  TokenId largest = 0;
  for (int i = 0; i < 400; ++i) {
    const TokenId token = sample(flat, pure(), i);
    sum += token;
    largest = std::max(largest, token);
  }
  EXPECT_NEAR(sum / 400, 2500, 300);  // four standard deviations
  EXPECT_GT(largest, 4900);
  const auto spread = random_logits(3000, 9, 3.0);
  const Sampling nucleus{1, 0, 0.9, 0, 4};
  const auto want = expected(spread, nucleus);
  for (const auto& [id, n] : draw(spread, nucleus, 300)) EXPECT_TRUE(want.contains(id));
}

TEST(Sampler, RandomnessIsAFunctionOfSeedAndPosition) {
  const auto logits = random_logits(100, 5, 1.0);
  Sampling a = pure();
  a.seed = 1;
  Sampling b = pure();
  b.seed = 2;
  int differs_by_seed = 0, differs_by_position = 0;
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(sample(logits, a, i), sample(logits, a, i));
    differs_by_seed += sample(logits, a, i) != sample(logits, b, i);
    differs_by_position += sample(logits, a, i) != sample(logits, a, i + 1);
  }
  EXPECT_GT(differs_by_seed, 150);
  EXPECT_GT(differs_by_position, 150);
}

TEST(Sampler, OptionsOutOfRangeAreRefusedByName) {
  const auto message = [](Sampling sampling) { return check_sampling(sampling).error().message; };
  EXPECT_TRUE(check_sampling({}).ok());
  EXPECT_EQ(message({-1, 0, 1, 0, 0}), "temperature is -1: expected 0 (greedy) or a positive number");
  EXPECT_NE(message({kNan, 0, 1, 0, 0}).find("temperature"), std::string::npos);
  EXPECT_NE(message({1, -1, 1, 0, 0}).find("top-k"), std::string::npos);
  EXPECT_NE(message({1, 0, 1.5, 0, 0}).find("top-p"), std::string::npos);
  EXPECT_NE(message({1, 0, 1, kNan, 0}).find("min-p"), std::string::npos);
}

TEST(TopLogits, AreTheLargestAndTellOfWhatIsNotFinite) {
  std::vector<float> logits(1000);
  for (std::size_t i = 0; i < logits.size(); ++i)
    logits[i] = static_cast<float>(std::floor(40 * uniform(3, i))) - 20;  // many ties
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](TokenId t) { return logits[static_cast<std::size_t>(t)]; };
  std::ranges::stable_sort(order, [&](TokenId a, TokenId b) { return at(a) > at(b); });
  const TopLogits top = top_logits_of(logits);
  ASSERT_EQ(top.count, TopLogits::kMost);
  for (std::size_t i = 0; i < static_cast<std::size_t>(top.count); ++i) {
    EXPECT_EQ(top.tokens[i], order[i]) << i;
    EXPECT_EQ(top.logits[i], at(order[i])) << i;
  }
  EXPECT_EQ(top_logits_of(std::span(logits).first(10)).count, 10);
  for (const float bad : {kNan, -kNan, kInf, -kInf}) {
    std::vector<float> spoilt = logits;
    spoilt[777] = bad;
    EXPECT_EQ(top_logits_of(spoilt).count, 0) << bad;
  }
}

TEST(TopLogits, ADrawThatTheySettleIsTheDrawFromAll) {
  const auto sampling = [](double temperature, std::int64_t top_k, double top_p, double min_p) {
    return Sampling{.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p, .seed = 11};
  };
  const std::vector<Sampling> samplings = {
      sampling(0, 0, 1, 0.05),   sampling(1, 0, 1, 0.05),   sampling(0.3, 0, 1, 0.05), sampling(1, 40, 1, 0),
      sampling(1, 64, 0.9, 0),   sampling(2, 64, 0.5, 0.1), sampling(1, 65, 1, 0),     sampling(1, 0, 0.9, 0.05),
      sampling(0.6, 0, 0.95, 0), sampling(1, 0, 1, 0),      sampling(1.5, 0, 1, 0.1)};
  std::vector<int> settled(samplings.size());
  for (std::uint64_t row = 0; row < 60; ++row) {
    std::vector<float> logits(row % 3 == 0 ? 50 : 700);
    const double spread = 4.0 + static_cast<double>(row);  // from flat rows to steep ones
    for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(spread * (uniform(row, i) - 0.5));
    const TopLogits top = top_logits_of(logits);
    for (std::size_t s = 0; s < samplings.size(); ++s) {
      if (!settles(top, static_cast<int>(logits.size()), samplings[s])) continue;
      if (logits.size() > 64) {
        ++settled[s];
        EXPECT_TRUE(may_settle(samplings[s]));
      }
      for (int at = 0; at < 50; ++at)
        EXPECT_EQ(sample(top, samplings[s], at), sample(logits, samplings[s], at)) << row << " " << s;
    }
  }
  // Greedy and up to 64 kept ones always; min-p where the row is steep enough; a share of the whole mass never.
  EXPECT_EQ(settled[0], 40);
  for (const std::size_t s : {std::size_t{1}, std::size_t{2}, std::size_t{10}}) {
    EXPECT_GT(settled[s], 0) << s;
    EXPECT_LT(settled[s], 40) << s;
  }
  for (const std::size_t s : {3, 4, 5}) EXPECT_EQ(settled[s], 40) << s;
  for (const std::size_t s : {6, 7, 8, 9}) EXPECT_EQ(settled[s], 0) << s;
}

TEST(Logprobs, AreLogsOfTheSoftmax) {
  const std::vector<float> logits = {std::log(.2f), std::log(.4f), std::log(.1f), std::log(.3f)};
  const auto top = top_logprobs(logits, 3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].token, 1);
  EXPECT_EQ(top[1].token, 3);
  EXPECT_EQ(top[2].token, 0);
  EXPECT_NEAR(top[0].logprob, std::log(.4), 1e-6);
  EXPECT_NEAR(logprob(logits, 2), std::log(.1), 1e-6);
  EXPECT_EQ(top_logprobs(logits, 99).size(), 4u);
}

TEST(LogitAdjustments, PenaltiesAndBias) {
  const std::vector<float> logits = {1, 2, -1, 4, 0};
  const std::vector<TokenId> prompt = {0, 2}, generated = {3, 3, 1};
  LogitAdjustments none;
  EXPECT_FALSE(none.any());
  EXPECT_EQ(adjusted(logits, none, prompt, generated), logits);
  LogitAdjustments openai;
  openai.presence = 0.5;
  openai.frequency = 0.25;
  EXPECT_EQ(adjusted(logits, openai, prompt, generated), (std::vector<float>{1, 1.25f, -1, 3, 0}));
  LogitAdjustments repetition;
  repetition.repetition = 2;
  EXPECT_EQ(adjusted(logits, repetition, prompt, generated), (std::vector<float>{0.5f, 1, -2, 2, 0}));
  LogitAdjustments bias;
  bias.bias = {{4, 7.0f}, {3, -100.0f}};
  EXPECT_EQ(adjusted(logits, bias, prompt, generated), (std::vector<float>{1, 2, -1, -kInf, 7}));
  EXPECT_EQ(argmax(adjusted(logits, bias, prompt, generated)), 4);
}

}  // namespace
}  // namespace ds4
