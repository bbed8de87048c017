#include "tokenizer/added_tokens.h"

#include <algorithm>

namespace ds4 {

AddedTokens::AddedTokens(std::vector<Entry> entries) : sorted_(std::move(entries)) {
  std::sort(sorted_.begin(), sorted_.end(), [](const Entry& a, const Entry& b) { return a.text < b.text; });
  for (const Entry& entry : sorted_) starts_[static_cast<unsigned char>(entry.text[0])] = true;
}

const AddedTokens::Entry* AddedTokens::longest_prefix_of(std::string_view text) const {
  // [low, high) holds the tokens that begin with the first `depth` bytes of the text: a walk down a trie whose nodes
  // are ranges of the sorted list.
  const Entry* longest = nullptr;
  auto low = sorted_.begin();
  auto high = sorted_.end();
  for (std::size_t depth = 0; depth < text.size(); ++depth) {
    const auto byte = static_cast<unsigned char>(text[depth]);
    const auto byte_of = [&](const Entry& entry) { return static_cast<unsigned char>(entry.text[depth]); };
    low = std::partition_point(low, high,
                               [&](const Entry& entry) { return entry.text.size() <= depth || byte_of(entry) < byte; });
    high = std::partition_point(low, high, [&](const Entry& entry) { return byte_of(entry) <= byte; });
    if (low == high) break;
    if (low->text.size() == depth + 1) longest = &*low;
  }
  return longest;
}

std::optional<AddedTokens::Match> AddedTokens::find(std::string_view text, std::size_t from, std::size_t to) const {
  if (sorted_.empty()) return std::nullopt;
  for (std::size_t at = from; at < to; ++at) {
    if (!starts_[static_cast<unsigned char>(text[at])]) continue;
    const Entry* entry = longest_prefix_of(text.substr(at, to - at));
    if (entry != nullptr) return Match{at, *entry};
  }
  return std::nullopt;
}

std::optional<TokenId> AddedTokens::id_of(std::string_view text) const {
  const auto at = std::lower_bound(sorted_.begin(), sorted_.end(), text,
                                   [](const Entry& entry, std::string_view wanted) { return entry.text < wanted; });
  if (at == sorted_.end() || at->text != text) return std::nullopt;
  return at->id;
}

}  // namespace ds4
