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

/// What is computed together.
struct Chunk {
  std::vector<TokenId> tokens;
  std::vector<bool> scored;  // for each of them, whether its prediction counts
};

/// Those with something to score.
void add_chunks(const Document& document, const CompareOptions& options, std::vector<Chunk>& chunks) {
  const std::span<const TokenId> tokens = document.tokens;
  const auto room = static_cast<std::size_t>(options.chunk - (options.bos ? 1 : 0));
  for (std::size_t at = 0; at < tokens.size(); at += room) {
    Chunk chunk;
    if (options.bos) chunk.tokens.push_back(*options.bos);
    const auto part = tokens.subspan(at, std::min(room, tokens.size() - at));
    chunk.tokens.insert(chunk.tokens.end(), part.begin(), part.end());
    chunk.scored.resize(chunk.tokens.size());
    for (std::size_t i = 1; i < chunk.tokens.size(); ++i) {
      const std::size_t in_document = at + i - (options.bos ? 1 : 0);
      chunk.scored[i] = document.counted.empty() || document.counted[in_document] != 0;
    }
    if (std::ranges::find(chunk.scored, true) != chunk.scored.end()) chunks.push_back(std::move(chunk));
  }
}

Status score_chunk(Session& a, Session& b, const Chunk& chunk, const CompareOptions& options, TokenScores& scores) {
  // The last token is only predicted, never computed.
  const auto read = std::span(chunk.tokens).first(chunk.tokens.size() - 1);
  const auto follower = [](std::int64_t position) { return static_cast<std::size_t>(position) + 1; };
  SyncOptions sync;
  sync.cancel = options.cancel;
  std::vector<float> kept;  // the first model's logits
  const auto keep = [&](std::int64_t position, std::span<const float> row) {
    if (chunk.scored[follower(position)]) kept.insert(kept.end(), row.begin(), row.end());
  };
  DS4_RETURN_IF_ERROR(a.evaluate(read, keep, sync));
  std::size_t used = 0;
  const auto score = [&](std::int64_t position, std::span<const float> row) {
    if (!chunk.scored[follower(position)]) return;
    score_row(std::span(kept).subspan(used, row.size()), row, chunk.tokens[follower(position)], scores);
    used += row.size();
  };
  return b.evaluate(read, score, sync);
}

}  // namespace

Result<TokenScores> score_documents(Session& a, Session& b, std::span<const Document> documents,
                                    const CompareOptions& options) {
  if (options.chunk < 2)
    return Error{ErrorCode::kUsage, cat("chunk: expected at least 2 tokens, found ", options.chunk)};
  std::int64_t total = 0;
  for (const Document& document : documents) total += std::ssize(document.tokens);
  TokenScores scores;
  std::int64_t done = 0;
  for (const Document& document : documents) {
    std::vector<Chunk> chunks;
    add_chunks(document, options, chunks);
    for (const Chunk& chunk : chunks) {
      DS4_RETURN_IF_ERROR(score_chunk(a, b, chunk, options, scores));
      if (options.progress) options.progress(done += std::ssize(chunk.tokens), total);
    }
    scores.ends.push_back(scores.kl.size());
  }
  if (scores.kl.empty()) return Error{ErrorCode::kUsage, cat("expected at least 2 tokens, found ", total)};
  return scores;
}

Comparison summarise(const TokenScores& scores, std::int64_t block) {
  Comparison out;
  out.tokens = std::ssize(scores.nll_a);
  out.documents = std::ssize(scores.ends);
  out.block = block;
  std::vector<float> change(scores.nll_a.size());
  for (std::size_t i = 0; i < change.size(); ++i) change[i] = scores.nll_b[i] - scores.nll_a[i];
  out.nll_a = block_mean(scores.nll_a, block, scores.ends);
  out.nll_b = block_mean(scores.nll_b, block, scores.ends);
  out.nll_change = block_mean(change, block, scores.ends);
  out.kl = block_mean(scores.kl, block, scores.ends);
  out.same_first = block_mean(scores.same_first, block, scores.ends);
  std::vector<float> sorted = scores.kl;
  std::sort(sorted.begin(), sorted.end());
  if (!sorted.empty()) {
    out.kl_99 = static_cast<double>(sorted[(sorted.size() - 1) * 99 / 100]);
    out.kl_most = static_cast<double>(sorted.back());
  }
  return out;
}

}  // namespace ds4::eval
