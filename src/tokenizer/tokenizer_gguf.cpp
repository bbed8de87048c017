// Tokenizer::from_gguf: the tokenizer.ggml.* keys of a model file.

#include <limits>

#include "base/text.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_impl.h"
#include "tokenizer/vocabulary.h"

namespace ds4 {

namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.";

Error missing(const gguf::File& file, std::string_view key, std::string_view expected) {
  return {ErrorCode::kBadModel,
          cat(escaped(file.path(), 4096), ": key ", key, ": expected ", expected, ", found no such key")};
}

/// A text key that must be one of two values.
Status check_name(const gguf::File& file, std::string_view key, std::string_view first, std::string_view second) {
  DS4_ASSIGN_OR_RETURN(const auto found, file.get_string(key));
  const std::string expected = first == second ? cat('"', first, '"') : cat('"', first, "\" or \"", second, '"');
  if (!found) return missing(file, key, expected);
  if (*found == first || *found == second) return {};
  return file.key_error(key, cat("expected ", expected, ", found \"", escaped(*found), '"'));
}

/// Every tokenizer.ggml.*_token_id must name a token, used by us or not.
Status check_special_ids(const gguf::File& file, std::size_t vocab_size) {
  for (const gguf::Value& value : file.values()) {
    if (!value.key.starts_with(kPrefix) || !value.key.ends_with("_token_id")) continue;
    DS4_ASSIGN_OR_RETURN(const auto id, file.get_uint(value.key));
    if (id && *id < vocab_size) continue;
    return file.key_error(value.key,
                          cat("expected an id below the vocabulary size ", vocab_size, ", found ", id.value_or(0)));
  }
  return {};
}

/// A key that check_special_ids has passed; TokenId holds every index of the vocabulary.
Result<TokenId> special_id(const gguf::File& file, std::string_view key) {
  DS4_ASSIGN_OR_RETURN(const auto id, file.get_uint(key));
  if (!id) return missing(file, key, "the id of a token");
  return static_cast<TokenId>(*id);
}

Result<std::vector<std::int32_t>> token_types(const gguf::File& file) {
  static constexpr std::string_view kKey = "tokenizer.ggml.token_type";
  DS4_ASSIGN_OR_RETURN(const auto found, file.get_int_array(kKey));
  if (!found) return missing(file, kKey, "one type for each token");
  std::vector<std::int32_t> types;
  types.reserve(found->size());
  for (const std::int64_t type : *found) {
    if (type < std::numeric_limits<std::int32_t>::min() || type > std::numeric_limits<std::int32_t>::max()) {
      return file.key_error(kKey, cat("element ", types.size(), ": expected a type of 1 to 6, found ", type));
    }
    types.push_back(static_cast<std::int32_t>(type));
  }
  return types;
}

}  // namespace

Result<std::optional<Tokenizer>> Tokenizer::from_gguf(const gguf::File& file) {
  DS4_ASSIGN_OR_RETURN(const auto tokens, file.get_string_array("tokenizer.ggml.tokens"));
  if (!tokens) return std::optional<Tokenizer>();
  DS4_RETURN_IF_ERROR(check_name(file, "tokenizer.ggml.model", "gpt2", "gpt2"));
  DS4_RETURN_IF_ERROR(check_name(file, "tokenizer.ggml.pre", "joyai-llm", "deepseek-v3"));
  DS4_ASSIGN_OR_RETURN(const auto types, token_types(file));
  DS4_ASSIGN_OR_RETURN(const auto merges, file.get_string_array("tokenizer.ggml.merges"));
  if (!merges) return missing(file, "tokenizer.ggml.merges", "the merges of the vocabulary");
  DS4_RETURN_IF_ERROR(check_special_ids(file, tokens->size()));
  DS4_ASSIGN_OR_RETURN(const TokenId bos, special_id(file, "tokenizer.ggml.bos_token_id"));
  DS4_ASSIGN_OR_RETURN(const TokenId eos, special_id(file, "tokenizer.ggml.eos_token_id"));
  const auto refuse = [&](std::string_view key, std::string_view what) { return file.key_error(key, what); };
  DS4_ASSIGN_OR_RETURN(auto vocabulary, Vocabulary::build({*tokens, types, *merges, bos, eos}, refuse));
  return std::optional<Tokenizer>(Tokenizer(std::make_unique<Impl>(std::move(vocabulary))));
}

}  // namespace ds4
