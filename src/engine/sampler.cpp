#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "base/rng.h"
#include "base/text.h"

namespace ds4 {

namespace {

float usable(float logit) { return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit; }

struct Candidate {
  double weight;  // relative to the most probable token, whose weight is 1
  TokenId token;
};

bool more_probable(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

/// Candidates in descending order, sorted only as far as somebody looks: of 129,280 tokens a draw needs a handful.
class Descending {
 public:
  explicit Descending(std::vector<Candidate> candidates) : candidates_(std::move(candidates)) {
    for (const Candidate& candidate : candidates_) total_ += candidate.weight;
  }
  std::size_t size() const { return candidates_.size(); }
  const Candidate& operator[](std::size_t i) {
    if (i >= sorted_) sort_up_to(i + 1);
    return candidates_[i];
  }
  /// The weight of the first `count`; of all of them without sorting.
  double mass(std::size_t count) {
    if (count == size()) return total_;
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += (*this)[i].weight;
    return sum;
  }

 private:
  void sort_up_to(std::size_t count) {
    const std::size_t end = std::min(size(), std::max({count, std::size_t{64}, sorted_ * 8}));
    const auto place = [&](std::size_t i) { return candidates_.begin() + static_cast<std::ptrdiff_t>(i); };
    if (end < size()) std::nth_element(place(sorted_), place(end), candidates_.end(), more_probable);
    std::sort(place(sorted_), place(end), more_probable);
    sorted_ = end;
  }
  std::vector<Candidate> candidates_;
  std::size_t sorted_ = 0;
  double total_ = 0;
};

/// What lies below, as log of the weight, has none. exp(-745) is the smallest double. Where the total does not matter,
/// what min-p drops has none either; the slack keeps the exact test for the walk.
double lowest_weight(const Sampling& sampling) {
  return sampling.top_p >= 1.0 && sampling.min_p > 0 ? std::log(sampling.min_p) - 1e-6 : -745.0;
}

double log_weight(double logit, double top, const Sampling& sampling) {
  return logit == top ? 0.0 : (logit - top) / sampling.temperature;  // also for infinite logits
}

std::vector<Candidate> weigh(std::span<const float> logits, const Sampling& sampling) {
  const double top = usable(logits[static_cast<std::size_t>(argmax(logits))]);
  if (top == -std::numeric_limits<double>::infinity()) return {};
  const double lowest = lowest_weight(sampling);
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double scaled = log_weight(usable(logits[i]), top, sampling);
    if (scaled >= lowest) candidates.push_back({std::exp(scaled), static_cast<TokenId>(i)});
  }
  return candidates;
}

std::vector<Candidate> weigh(const TopLogits& top, const Sampling& sampling) {
  const double lowest = lowest_weight(sampling);
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < static_cast<std::size_t>(top.count); ++i) {
    const double scaled = log_weight(top.logits[i], top.logits[0], sampling);
    if (scaled >= lowest) candidates.push_back({std::exp(scaled), top.tokens[i]});
  }
  return candidates;
}

struct Kept {
  std::size_t count = 0;
  double mass = 0;
};

/// All three filters keep a prefix of the descending order; this is the shortest of them.
Kept keep(Descending& order, const Sampling& sampling) {
  if (sampling.top_k == 0 && sampling.top_p >= 1.0 && sampling.min_p <= 0)
    return {order.size(), order.mass(order.size())};
  std::size_t limit = order.size();
  if (sampling.top_k > 0) limit = std::min(limit, static_cast<std::size_t>(sampling.top_k));
  double enough = std::numeric_limits<double>::infinity();
  if (sampling.top_p < 1.0) enough = sampling.top_p * order.mass(limit);
  Kept kept;
  while (kept.count < limit) {
    const double weight = order[kept.count].weight;
    if (kept.count > 0 && (weight < sampling.min_p || kept.mass >= enough)) break;
    kept.mass += weight;
    ++kept.count;
  }
  return kept;
}

TokenId draw(Descending& order, const Sampling& sampling, std::int64_t position) {
  const Kept kept = keep(order, sampling);
  const double target = uniform(sampling.seed, static_cast<std::uint64_t>(position)) * kept.mass;
  double passed = 0;
  for (std::size_t i = 0; i < kept.count; ++i) {
    passed += order[i].weight;
    if (passed > target) return order[i].token;
  }
  return order[kept.count - 1].token;  // the sums differ in the last bit
}

}  // namespace

Status check_sampling(const Sampling& sampling) {
  const auto bad = [](const char* name, double value, const char* allowed) {
    return Error{ErrorCode::kUsage, cat(name, " is ", value, ": expected ", allowed)};
  };
  if (!(sampling.temperature >= 0) || std::isinf(sampling.temperature)) {
    return bad("temperature", sampling.temperature, "0 (greedy) or a positive number");
  }
  if (sampling.top_k < 0) return bad("top-k", static_cast<double>(sampling.top_k), "0 (off) or a positive number");
  if (!(sampling.top_p >= 0 && sampling.top_p <= 1)) return bad("top-p", sampling.top_p, "a number from 0 to 1 (off)");
  if (!(sampling.min_p >= 0 && sampling.min_p <= 1)) return bad("min-p", sampling.min_p, "a number from 0 (off) to 1");
  return {};
}

std::vector<float> adjusted(std::span<const float> logits, const LogitAdjustments& adjustments,
                            std::span<const TokenId> prompt, std::span<const TokenId> generated) {
  std::vector<float> out(logits.begin(), logits.end());
  const auto at = [&](TokenId token) -> float& { return out[static_cast<std::size_t>(token)]; };
  if (adjustments.repetition != 1) {
    std::vector<bool> seen(out.size());
    const auto repeat = [&](TokenId token) {
      if (seen[static_cast<std::size_t>(token)]) return;
      seen[static_cast<std::size_t>(token)] = true;
      const auto factor = static_cast<float>(adjustments.repetition);
      at(token) = at(token) > 0 ? at(token) / factor : at(token) * factor;
    };
    std::for_each(prompt.begin(), prompt.end(), repeat);
    std::for_each(generated.begin(), generated.end(), repeat);
  }
  if (adjustments.presence != 0 || adjustments.frequency != 0) {
    std::unordered_map<TokenId, int> counts;
    for (const TokenId token : generated) ++counts[token];
    for (const auto& [token, count] : counts) {
      at(token) -= static_cast<float>(adjustments.presence + adjustments.frequency * count);
    }
  }
  for (const auto& [token, bias] : adjustments.bias) {
    at(token) = bias <= -100 ? -std::numeric_limits<float>::infinity() : at(token) + bias;
  }
  return out;
}

TokenId argmax(std::span<const float> logits) {
  DS4_CHECK(!logits.empty());
  std::size_t best = 0;
  for (std::size_t i = 1; i < logits.size(); ++i) {
    if (usable(logits[i]) > usable(logits[best])) best = i;
  }
  return static_cast<TokenId>(best);
}

TokenId sample(std::span<const float> logits, const Sampling& sampling, std::int64_t position) {
  if (sampling.temperature <= 0) return argmax(logits);
  Descending order(weigh(logits, sampling));
  if (order.size() == 0) return argmax(logits);  // nothing but NaN and minus infinity: the lowest id
  return draw(order, sampling, position);
}

bool may_settle(const Sampling& sampling) {
  return sampling.temperature <= 0 || (sampling.top_k > 0 && sampling.top_k <= TopLogits::kMost) ||
         (sampling.top_p >= 1.0 && sampling.min_p > 0);
}

bool settles(const TopLogits& top, int vocab, const Sampling& sampling) {
  if (top.count == 0) return false;
  if (sampling.temperature <= 0 || top.count == vocab) return true;
  if (sampling.top_k > 0 && sampling.top_k <= top.count) return true;
  // Every token that is not here has at most the weight of the last one.
  const double last = top.logits[static_cast<std::size_t>(top.count) - 1];
  return sampling.top_p >= 1.0 && log_weight(last, top.logits[0], sampling) < lowest_weight(sampling);
}

TokenId sample(const TopLogits& top, const Sampling& sampling, std::int64_t position) {
  DS4_CHECK(top.count > 0);
  if (sampling.temperature <= 0) return top.tokens[0];
  Descending order(weigh(top, sampling));
  return draw(order, sampling, position);
}

double log_sum_exp(std::span<const float> logits) {
  const double top = usable(logits[static_cast<std::size_t>(argmax(logits))]);
  if (std::isinf(top)) return top;
  double sum = 0;
  for (const float logit : logits) sum += std::exp(usable(logit) - top);
  return top + std::log(sum);
}

double logprob(std::span<const float> logits, TokenId token) {
  return usable(logits[static_cast<std::size_t>(token)]) - log_sum_exp(logits);
}

std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, std::size_t count) {
  const double total = log_sum_exp(logits);
  std::vector<TokenLogprob> all(logits.size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = {static_cast<TokenId>(i), usable(logits[i]) - total};
  const std::size_t kept = std::min(count, all.size());
  std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(kept), all.end(), [](auto& a, auto& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.token < b.token;
  });
  all.resize(kept);
  return all;
}

}  // namespace ds4
