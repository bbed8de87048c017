// The tokens a session has behind it, and which of them the model really sampled. Plain data; owned by its Session.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace ds4 {

class Timeline {
 public:
  std::int64_t size() const { return static_cast<std::int64_t>(tokens_.size()); }
  std::span<const TokenId> tokens() const { return tokens_; }
  TokenId operator[](std::int64_t i) const { return tokens_[static_cast<std::size_t>(i)]; }
  /// A sampled token stays as it is while its bytes agree, even where text would tokenize otherwise.
  bool sampled(std::int64_t i) const { return sampled_[static_cast<std::size_t>(i)]; }

  void append(TokenId token, bool sampled) {
    tokens_.push_back(token);
    sampled_.push_back(sampled);
  }
  void truncate(std::int64_t size) {
    tokens_.resize(static_cast<std::size_t>(size));
    sampled_.resize(static_cast<std::size_t>(size));
  }

 private:
  std::vector<TokenId> tokens_;
  std::vector<bool> sampled_;
};

}  // namespace ds4
