// How far one model is from another on the same tokens: the negative log likelihood of both, the Kullback-Leibler
// divergence of the second from the first, and how often their first choices agree.
//
// Documents are cut into chunks, each computed from a fresh start behind a BOS, so that the cost is that of short
// contexts and the memory is one chunk of logits. A document that fits into a chunk is read as it would be in use. One
// thread; the sessions are the caller's and must have all_logits.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "engine/session.h"
#include "eval/documents.h"
#include "eval/statistics.h"

namespace ds4::eval {

struct CompareOptions {
  std::int64_t chunk = 512;         // tokens computed together, the BOS included
  std::int64_t block = 64;          // tokens drawn together by the bootstrap
  std::optional<TokenId> bos = {};  // absent: a chunk's first token is only read
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(std::int64_t done, std::int64_t total)> progress = {};
};

/// One number of each scored token, in order.
struct TokenScores {
  std::vector<float> nll_a;
  std::vector<float> nll_b;
  std::vector<float> kl;          // of b from a, in nats
  std::vector<float> same_first;  // 1 where both have the same most probable token
  std::vector<std::size_t> ends;  // of each document: how many were scored up to there
};

Result<TokenScores> score_documents(Session& a, Session& b, std::span<const Document> documents,
                                    const CompareOptions& options);

struct Comparison {
  std::int64_t tokens = 0;
  std::int64_t documents = 0;
  std::int64_t block = 0;
  Estimate nll_a, nll_b;  // nats per token
  Estimate nll_change;    // b - a, token by token: a narrower interval than that of the two
  Estimate kl;
  double kl_99 = 0;  // the 99th percentile
  double kl_most = 0;
  Estimate same_first;
};

/// Intervals by drawing blocks of at most `block` tokens, none of two documents.
Comparison summarise(const TokenScores& scores, std::int64_t block);

}  // namespace ds4::eval
