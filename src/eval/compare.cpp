#include "eval/compare.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "engine/sampler.h"

namespace ds4::eval {

namespace {

struct Row {
  double top = 0;
  double log_sum = 0;  // log of the sum of exp(logit - top)
};

Row prepare(std::span<const float> logits) {
  Row row;
  row.top = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - row.top);
  row.log_sum = std::log(sum);
  return row;
}

double log_probability(std::span<const float> logits, const Row& row, std::size_t token) {
  return static_cast<double>(logits[token]) - row.top - row.log_sum;
}

/// Sum of p_a log(p_a / p_b). Rounding can leave a tiny negative number where there is nothing.
double divergence(std::span<const float> a, const Row& row_a, std::span<const float> b, const Row& row_b) {
  double sum = 0;
  for (std::size_t token = 0; token < a.size(); ++token) {
    const double log_a = log_probability(a, row_a, token);
    sum += std::exp(log_a) * (log_a - log_probability(b, row_b, token));
  }
  return std::max(0.0, sum);
}

void score_row(std::span<const float> a, std::span<const float> b, TokenId next, TokenScores& scores) {
  const Row row_a = prepare(a);
  const Row row_b = prepare(b);
  const auto token = static_cast<std::size_t>(next);
  scores.nll_a.push_back(static_cast<float>(-log_probability(a, row_a, token)));
  scores.nll_b.push_back(static_cast<float>(-log_probability(b, row_b, token)));
  scores.kl.push_back(static_cast<float>(divergence(a, row_a, b, row_b)));
  scores.same_first.push_back(argmax(a) == argmax(b) ? 1.0F : 0.0F);
}

std::vector<std::vector<TokenId>> chunks_of(std::span<const TokenId> tokens, const CompareOptions& options) {
  std::vector<std::vector<TokenId>> chunks;
  const auto room = static_cast<std::size_t>(options.chunk - (options.bos ? 1 : 0));
  for (std::size_t at = 0; at < tokens.size(); at += room) {
    std::vector<TokenId> chunk;
    if (options.bos) chunk.push_back(*options.bos);
    const auto part = tokens.subspan(at, std::min(room, tokens.size() - at));
    chunk.insert(chunk.end(), part.begin(), part.end());
    if (chunk.size() > 1) chunks.push_back(std::move(chunk));
  }
  return chunks;
}

}  // namespace

Result<TokenScores> score_tokens(Session& a, Session& b, std::span<const TokenId> tokens,
                                 const CompareOptions& options) {
  if (options.chunk < 2)
    return Error{ErrorCode::kUsage, cat("chunk: expected at least 2 tokens, found ", options.chunk)};
  const auto chunks = chunks_of(tokens, options);
  if (chunks.empty()) return Error{ErrorCode::kUsage, cat("expected at least 2 tokens, found ", tokens.size())};
  TokenScores scores;
  std::vector<float> kept;  // the first model's logits of one chunk
  std::int64_t done = 0;
  for (const std::vector<TokenId>& chunk : chunks) {
    // The last token is only predicted, never computed.
    const auto read = std::span(chunk).first(chunk.size() - 1);
    SyncOptions sync;
    sync.cancel = options.cancel;
    kept.clear();
    DS4_RETURN_IF_ERROR(a.evaluate(
        read, [&](std::int64_t, std::span<const float> row) { kept.insert(kept.end(), row.begin(), row.end()); },
        sync));
    DS4_RETURN_IF_ERROR(b.evaluate(
        read,
        [&](std::int64_t position, std::span<const float> row) {
          const auto at = static_cast<std::size_t>(position);
          score_row(std::span(kept).subspan(at * row.size(), row.size()), row, chunk[at + 1], scores);
        },
        sync));
    done += static_cast<std::int64_t>(chunk.size());
    if (options.progress) options.progress(done, std::ssize(tokens));
  }
  return scores;
}

Comparison summarise(const TokenScores& scores, std::int64_t block) {
  Comparison out;
  out.tokens = std::ssize(scores.nll_a);
  out.block = block;
  std::vector<float> change(scores.nll_a.size());
  for (std::size_t i = 0; i < change.size(); ++i) change[i] = scores.nll_b[i] - scores.nll_a[i];
  out.nll_a = block_mean(scores.nll_a, block);
  out.nll_b = block_mean(scores.nll_b, block);
  out.nll_change = block_mean(change, block);
  out.kl = block_mean(scores.kl, block);
  out.same_first = block_mean(scores.same_first, block);
  std::vector<float> sorted = scores.kl;
  std::sort(sorted.begin(), sorted.end());
  if (!sorted.empty()) {
    out.kl_99 = static_cast<double>(sorted[(sorted.size() - 1) * 99 / 100]);
    out.kl_most = static_cast<double>(sorted.back());
  }
  return out;
}

}  // namespace ds4::eval
