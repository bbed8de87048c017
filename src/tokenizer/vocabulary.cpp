#include "tokenizer/vocabulary.h"

#include <utf8proc.h>

#include <limits>
#include <optional>
#include <unordered_map>

#include "base/text.h"
#include "tokenizer/byte_map.h"

namespace ds4 {

namespace {

constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";
constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";

std::string quoted(std::string_view text) { return cat('"', escaped(text), '"'); }

bool is_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (std::size_t at = 0; at < text.size();) {
    utf8proc_int32_t code = 0;
    const auto length = utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &code);
    if (length <= 0) return false;
    at += static_cast<std::size_t>(length);
  }
  return true;
}

}  // namespace

/// Fills a Vocabulary in order: tokens, byte symbols, merges, added tokens, special ids.
class Vocabulary::Builder {
 public:
  Builder(const VocabularyText& tables, const TableError& refuse, Vocabulary& out)
      : tables_(tables), refuse_(refuse), out_(out) {}

  Status run() {
    DS4_RETURN_IF_ERROR(check_counts());
    DS4_RETURN_IF_ERROR(add_tokens());
    DS4_RETURN_IF_ERROR(add_byte_symbols());
    DS4_RETURN_IF_ERROR(add_merges());
    DS4_RETURN_IF_ERROR(check_special("tokenizer.ggml.bos_token_id", tables_.bos));
    DS4_RETURN_IF_ERROR(check_special("tokenizer.ggml.eos_token_id", tables_.eos));
    out_.bos_ = tables_.bos;
    out_.eos_ = tables_.eos;
    std::vector<AddedTokens::Entry> added;
    for (TokenId id = 0; id < out_.size(); ++id) {
      if (out_.is_added(id)) added.push_back({out_.bytes(id), id});
    }
    out_.added_ = AddedTokens(std::move(added));
    return {};
  }

 private:
  Status check_counts() const {
    const std::size_t count = tables_.tokens.size();
    if (count == 0) return refuse_(kTokensKey, "expected at least the 256 byte symbols, found no tokens");
    if (count > static_cast<std::size_t>(std::numeric_limits<TokenId>::max())) {
      return refuse_(kTokensKey, cat("expected fewer than 2^31 tokens, found ", count));
    }
    if (tables_.types.size() != count) {
      return refuse_(kTypesKey,
                     cat("expected one type for each of the ", count, " tokens, found ", tables_.types.size()));
    }
    if (tables_.merges.size() >= std::numeric_limits<std::uint32_t>::max()) {
      return refuse_(kMergesKey, cat("expected fewer than 2^32 - 1 merges, found ", tables_.merges.size()));
    }
    return {};
  }

  Status add_tokens() {
    std::size_t bytes = 0;
    for (const std::string_view token : tables_.tokens) bytes += token.size();
    out_.pool_.reserve(bytes);
    out_.begin_.reserve(tables_.tokens.size() + 1);
    out_.kinds_.reserve(tables_.tokens.size());
    ids_.reserve(tables_.tokens.size());
    out_.begin_.push_back(0);
    for (std::size_t i = 0; i < tables_.tokens.size(); ++i) DS4_RETURN_IF_ERROR(add_token(i));
    return {};
  }

  Status add_token(std::size_t index) {
    const std::string_view token = tables_.tokens[index];
    const std::int32_t type = tables_.types[index];
    if (token.empty()) return refuse_(kTokensKey, cat("token ", index, ": expected text, found an empty string"));
    if (!is_utf8(token)) {
      return refuse_(kTokensKey, cat("token ", index, ": expected UTF-8, found ", quoted(token)));
    }
    if (type < kNormal || type > kByte) {
      return refuse_(kTypesKey, cat("token ", index, " ", quoted(token), ": expected a type of 1 to 6, found ", type));
    }
    const auto [known, fresh] = ids_.emplace(token, static_cast<TokenId>(index));
    if (!fresh) {
      return refuse_(kTokensKey, cat("token ", index, ": expected a new token, found ", quoted(token),
                                     " which is token ", known->second));
    }
    const auto kind = static_cast<Kind>(type);
    if (kind != kNormal || !append_mapped_bytes(token, out_.pool_)) out_.pool_ += token;
    out_.begin_.push_back(out_.pool_.size());
    out_.kinds_.push_back(kind);
    return {};
  }

  /// The id of a token that may take part in merges.
  std::optional<TokenId> normal_token(std::string_view text) const {
    const auto at = ids_.find(text);
    if (at == ids_.end() || out_.kinds_[at->second] != kNormal) return std::nullopt;
    return at->second;
  }

  Status add_byte_symbols() {
    for (int byte = 0; byte < 256; ++byte) {
      const std::string symbol = byte_symbol(static_cast<std::uint8_t>(byte));
      const auto id = normal_token(symbol);
      if (!id) {
        return refuse_(kTokensKey, cat("expected all 256 byte symbols among the normal tokens, found none for byte ",
                                       byte, " (", quoted(symbol), ")"));
      }
      out_.byte_tokens_[byte] = *id;
    }
    return {};
  }

  Status add_merges() {
    for (std::size_t i = 0; i < tables_.merges.size(); ++i) DS4_RETURN_IF_ERROR(add_merge(i));
    return {};
  }

  Status add_merge(std::size_t rank) {
    const std::string_view merge = tables_.merges[rank];
    const std::size_t space = merge.find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == merge.size() ||
        merge.find(' ', space + 1) != std::string_view::npos) {
      return refuse_(kMergesKey,
                     cat("merge ", rank, ": expected two tokens with a space between, found ", quoted(merge)));
    }
    const auto left = normal_token(merge.substr(0, space));
    const auto right = normal_token(merge.substr(space + 1));
    if (!left || !right) {
      const std::string_view absent = !left ? merge.substr(0, space) : merge.substr(space + 1);
      return refuse_(kMergesKey, cat("merge ", rank, " ", quoted(merge), ": expected two normal tokens, found ",
                                     quoted(absent), " which is none"));
    }
    joined_.assign(merge.substr(0, space)).append(merge.substr(space + 1));
    const auto result = normal_token(joined_);
    if (result && !out_.merges_.add(*left, *right, {static_cast<std::uint32_t>(rank), *result})) {
      return refuse_(kMergesKey, cat("merge ", rank, ": expected a new pair, found ", quoted(merge), " again"));
    }
    return {};
  }

  Status check_special(std::string_view key, TokenId id) const {
    if (out_.contains(id)) return {};
    return refuse_(key, cat("expected an id below the vocabulary size ", out_.size(), ", found ", id));
  }

  const VocabularyText& tables_;
  const TableError& refuse_;
  Vocabulary& out_;
  std::unordered_map<std::string_view, TokenId> ids_;
  std::string joined_;
};

Result<std::unique_ptr<const Vocabulary>> Vocabulary::build(const VocabularyText& tables, const TableError& refuse) {
  std::unique_ptr<Vocabulary> out(new Vocabulary(tables.merges.size()));
  DS4_RETURN_IF_ERROR(Builder(tables, refuse, *out).run());
  return std::unique_ptr<const Vocabulary>(std::move(out));
}

std::string_view Vocabulary::bytes(TokenId id) const {
  return std::string_view(pool_).substr(begin_[id], begin_[id + 1] - begin_[id]);
}

}  // namespace ds4
