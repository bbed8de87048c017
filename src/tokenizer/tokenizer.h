// Bytes to tokens and back: byte-level BPE with the family's three-stage split (spec section 6). Immutable after
// creation; any thread may use it. Owns its tables: the gguf::File may go away.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "tokenizer/segment.h"

namespace ds4 {

using TokenId = std::int32_t;

class Tokenizer {
 public:
  /// Reads tokenizer.ggml.*. A file without tokenizer.ggml.tokens gives nullopt (a model without a tokenizer); bad
  /// tables (duplicate or empty tokens, merges of absent tokens, special ids beyond the vocabulary, ...) give an Error.
  static Result<std::optional<Tokenizer>> from_gguf(const gguf::File& file);

  struct Tables {
    std::vector<std::string> tokens;  // GPT-2 byte-mapped text for base entries, plain text for added ones
    std::vector<std::int32_t> types;  // GGUF token types: 1 normal, 3 control, 4 user-defined, 5 unused
    std::vector<std::string> merges;  // "left right", in rank order
    TokenId bos = 0, eos = 1;
  };
  static Result<Tokenizer> from_tables(Tables tables, const std::string& name);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Tokens of typed segments (see segment.h). A marker that is no added token of this vocabulary is an Error.
  /// No BOS is added: the chat template writes it.
  Result<std::vector<TokenId>> encode(std::span<const PromptSegment> prompt) const;
  /// One run of text; `match_added` says whether added tokens are recognised in it (longest match, leftmost).
  std::vector<TokenId> encode_text(std::string_view text, bool match_added) const;

  struct AddedMatch {
    std::size_t begin;
    TokenId id;
  };
  /// The added tokens that encode_text(text, true) recognises, in order.
  std::vector<AddedMatch> find_added(std::string_view text) const;

  /// The bytes a token stands for. A token may hold part of a UTF-8 character. Ids out of range give "".
  std::string_view token_bytes(TokenId id) const;
  std::string decode(std::span<const TokenId> ids) const;

  /// The id of an added token by its text.
  std::optional<TokenId> added_token(std::string_view text) const;
  bool is_added(TokenId id) const;
  TokenId bos() const;
  TokenId eos() const;
  std::int32_t vocab_size() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4
