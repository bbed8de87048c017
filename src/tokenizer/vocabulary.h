// The checked tables behind a Tokenizer: what each token stands for, which merges exist, which tokens are matched in
// text. Built once from tables that come from outside; immutable afterwards; any thread.
//
// Roles by GGUF token type: 1 (normal) takes part in merges and is spelled with the byte map (byte_map.h); 3 (control)
// and 4 (user-defined) are the added tokens, literal text; 2 (unknown), 5 (unused) and 6 (byte) are literal text and
// never produced. A normal token that the byte map cannot read is literal text too: no merge can reach it.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

/// The tables as they come, named as in GGUF metadata.
struct VocabularyText {
  std::span<const std::string_view> tokens;
  std::span<const std::int32_t> types;
  std::span<const std::string_view> merges;
  TokenId bos = 0;
  TokenId eos = 1;
};

/// Words an Error about one of the tables: its key, then what is wrong with it.
using TableError = std::function<Error(std::string_view key, std::string_view what)>;

class Vocabulary {
 public:
  /// Refuses: no tokens, empty, repeated or non-UTF-8 tokens, types that do not match the tokens or are none of 1..6,
  /// missing byte symbols, BOS or EOS out of range, merges that are not "left right", repeat a pair or join absent
  /// tokens. A merge whose *result* is absent can never apply; it is left out, and the ranks of the others stay.
  static Result<std::unique_ptr<const Vocabulary>> build(const VocabularyText& tables, const TableError& refuse);

  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;

  TokenId size() const { return static_cast<TokenId>(kinds_.size()); }
  TokenId bos() const { return bos_; }
  TokenId eos() const { return eos_; }
  bool contains(TokenId id) const { return id >= 0 && id < size(); }
  /// `id` must be in the vocabulary, here and below.
  std::string_view bytes(TokenId id) const;
  bool is_added(TokenId id) const { return kinds_[id] == kControl || kinds_[id] == kUserDefined; }
  TokenId byte_token(std::uint8_t byte) const { return byte_tokens_[byte]; }
  const AddedTokens& added() const { return added_; }
  const MergeTable& merges() const { return merges_; }

 private:
  enum Kind : std::uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  class Builder;
  explicit Vocabulary(std::size_t merge_count) : merges_(merge_count) {}

  std::string pool_;                // the bytes of all tokens, one after the other
  std::vector<std::size_t> begin_;  // of each token in the pool, and the end of the last
  std::vector<Kind> kinds_;
  std::array<TokenId, 256> byte_tokens_{};
  MergeTable merges_;
  AddedTokens added_;  // views into pool_
  TokenId bos_ = 0;
  TokenId eos_ = 1;
};

}  // namespace ds4
