#include "convert/tokenizer_json.h"

#include <nlohmann/json.hpp>

#include "base/text.h"

namespace ds4 {
namespace {

using Json = nlohmann::json;

// GGUF token types.
constexpr std::int32_t kNormal = 1;
constexpr std::int32_t kControl = 3;
constexpr std::int32_t kUserDefined = 4;
constexpr std::int32_t kUnused = 5;

class TablesBuilder {
 public:
  TablesBuilder(const std::string& name, const CheckpointConfig& config) : name_(name), vocab_size_(config.vocab_size) {
    tables_.tokens.resize(vocab_size_);
    tables_.types.assign(vocab_size_, kUnused);
    tables_.bos = static_cast<TokenId>(config.bos_token_id);
    tables_.eos = static_cast<TokenId>(config.eos_token_id);
  }

  Result<Tokenizer::Tables> build(const Json& document) {
    if (!document.is_object()) return error("expected a JSON object");
    const Json empty = Json::object();
    const Json& model = document.contains("model") ? document["model"] : empty;
    if (!model.is_object() || model.value("type", Json("BPE")) != "BPE")
      return error("model: expected an object of type BPE");
    DS4_RETURN_IF_ERROR(add_vocab(model));
    DS4_RETURN_IF_ERROR(add_merges(model));
    DS4_RETURN_IF_ERROR(add_added_tokens(document));
    for (std::size_t id = 0; id < vocab_size_; ++id)
      if (tables_.types[id] == kUnused) tables_.tokens[id] = cat("<unused", id, ">");
    return std::move(tables_);
  }

 private:
  Error error(std::string_view what) const {
    return Error{ErrorCode::kBadModel, cat(escaped(name_, 4096), ": ", what)};
  }

  Result<std::size_t> token_id(const Json& id, std::string_view where) const {
    if (id.is_number_unsigned() && id.get<std::uint64_t>() < vocab_size_) return id.get<std::size_t>();
    return error(cat(where, ": expected an id below vocab_size (", vocab_size_, ")"));
  }

  Status add_vocab(const Json& model) {
    if (!model.contains("vocab") || !model["vocab"].is_object()) return error("model.vocab: expected an object");
    for (const auto& [text, id] : model["vocab"].items()) {
      const std::string where = cat("model.vocab: token ", escaped(text));
      DS4_ASSIGN_OR_RETURN(const std::size_t index, token_id(id, where));
      if (tables_.types[index] != kUnused) return error(cat(where, ": id ", index, " is that of another token"));
      tables_.tokens[index] = text;
      tables_.types[index] = kNormal;
    }
    return {};
  }

  /// Newer files write a merge as a list of two, older ones as "left right".
  Status add_merges(const Json& model) {
    if (!model.contains("merges") || !model["merges"].is_array()) return error("model.merges: expected a list");
    const auto is_piece = [](const Json& piece) {
      return piece.is_string() && !piece.get_ref<const std::string&>().empty() &&
             piece.get_ref<const std::string&>().find(' ') == std::string::npos;
    };
    for (const Json& merge : model["merges"]) {
      const std::size_t entry = tables_.merges.size();
      if (merge.is_string()) {
        tables_.merges.push_back(merge.get<std::string>());
      } else if (merge.is_array() && merge.size() == 2 && is_piece(merge[0]) && is_piece(merge[1])) {
        tables_.merges.push_back(
            cat(merge[0].get_ref<const std::string&>(), " ", merge[1].get_ref<const std::string&>()));
      } else {
        return error(cat("model.merges: entry ", entry, ": expected two pieces without spaces"));
      }
    }
    return {};
  }

  Status add_added_tokens(const Json& document) {
    if (!document.contains("added_tokens")) return {};
    if (!document["added_tokens"].is_array()) return error("added_tokens: expected a list");
    std::size_t entry = 0;
    for (const Json& added : document["added_tokens"]) {
      const std::string where = cat("added_tokens: entry ", entry++);
      if (!added.is_object() || !added.contains("content") || !added["content"].is_string() || !added.contains("id"))
        return error(cat(where, ": expected an object with id and content"));
      DS4_ASSIGN_OR_RETURN(const std::size_t index, token_id(added["id"], where));
      const std::string text = added["content"].get<std::string>();
      if (tables_.types[index] != kUnused && tables_.tokens[index] != text)
        return error(cat(where, ": id ", index, " is that of token ", escaped(tables_.tokens[index]), ", too"));
      tables_.tokens[index] = text;
      const bool special = added.contains("special") && added["special"] == true;
      tables_.types[index] = special ? kControl : kUserDefined;
    }
    return {};
  }

  const std::string& name_;
  std::size_t vocab_size_;
  Tokenizer::Tables tables_;
};

}  // namespace

Result<Tokenizer::Tables> parse_tokenizer_json(std::string_view json, const std::string& name,
                                               const CheckpointConfig& config) {
  const Json document = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  return TablesBuilder(name, config).build(document);
}

}  // namespace ds4
