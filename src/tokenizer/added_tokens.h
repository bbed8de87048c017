// The added tokens of a vocabulary (control and user-defined ones): found in text by their literal bytes. Immutable;
// any thread. Holds views: the texts must outlive it.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace ds4 {

class AddedTokens {
 public:
  struct Entry {
    std::string_view text;  // not empty
    TokenId id;
  };
  struct Match {
    std::size_t begin;
    Entry token;
  };

  AddedTokens() = default;
  /// Texts must be distinct.
  explicit AddedTokens(std::vector<Entry> entries);

  /// The leftmost added token that lies in text[from, to), the longest of those that begin there.
  std::optional<Match> find(std::string_view text, std::size_t from, std::size_t to) const;
  std::optional<TokenId> id_of(std::string_view text) const;

 private:
  const Entry* longest_prefix_of(std::string_view text) const;

  std::vector<Entry> sorted_;       // by text: the tokens that share a prefix are neighbours, the shortest first
  std::array<bool, 256> starts_{};  // bytes some token starts with; almost all text is passed over with this
};

}  // namespace ds4
