// From a row of logits to a token. Pure functions over (logits, options, seed, position); any thread.
//
// Order: 1. softmax of logits / temperature; 2. top-k keeps the k most probable tokens and renormalises; 3. top-p keeps
// the shortest run of the most probable tokens that together reach p; 4. min-p drops tokens below min_p times the
// most probable one. At least one token always stays. The draw walks the kept tokens from the most probable down, equal
// probabilities from the lower id up. A NaN logit counts as minus infinity.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/result.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

struct Sampling {
  double temperature = 1.0;  // 0: the most probable token
  std::int64_t top_k = 0;    // 0: off
  double top_p = 1.0;        // 1: off
  double min_p = 0.05;       // 0: off
  std::uint64_t seed = 0;
};

/// What a request may do to the logits before they are sampled. Penalties look at what was generated; the repetition
/// penalty at the prompt as well.
struct LogitAdjustments {
  double presence = 0;    // taken off once for each token that occurred
  double frequency = 0;   // taken off for each time it occurred
  double repetition = 1;  // divides positive and multiplies negative logits of tokens that occurred
  std::vector<std::pair<TokenId, float>> bias;  // added; at or below -100 the token cannot come
  bool any() const { return presence != 0 || frequency != 0 || repetition != 1 || !bias.empty(); }
};

/// The logits with the adjustments made. `prompt` and `generated` are the tokens so far.
std::vector<float> adjusted(std::span<const float> logits, const LogitAdjustments& adjustments,
                            std::span<const TokenId> prompt, std::span<const TokenId> generated);

/// An Error that names the option, its value and what is allowed.
Status check_sampling(const Sampling& sampling);

/// The most probable token; ties go to the lowest id.
TokenId argmax(std::span<const float> logits);

/// The token at `position` of a timeline. The only randomness is uniform(seed, position).
TokenId sample(std::span<const float> logits, const Sampling& sampling, std::int64_t position);

/// Whether the largest logits of a row may be enough for such a draw; whether these are, of a row of `vocab`: greedy
/// always, other draws when no token beyond them could be drawn or counts.
bool may_settle(const Sampling& sampling);
bool settles(const TopLogits& top, int vocab, const Sampling& sampling);
/// For a draw that they settle: the token that sample() gives of the whole row.
TokenId sample(const TopLogits& top, const Sampling& sampling, std::int64_t position);

struct TokenLogprob {
  TokenId token = 0;
  double logprob = 0;
};

/// log of the sum of exp(logits), for logprob = logit - log_sum_exp.
double log_sum_exp(std::span<const float> logits);
double logprob(std::span<const float> logits, TokenId token);
/// The `count` most probable tokens at temperature 1, most probable first, ties to the lower id.
std::vector<TokenLogprob> top_logprobs(std::span<const float> logits, std::size_t count);

}  // namespace ds4
