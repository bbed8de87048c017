// A whole conversation, as typed bytes, against the tokens of a timeline: which tokens stay, and what the rest becomes.
//
// Bytes decide, not tokens: text that comes back from a client does not always tokenize as it was generated. Kinds
// decide too: a control token matches only a marker (or an added token spelled in trusted text), and text never does,
// whatever it spells. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/timeline.h"
#include "tokenizer/segment.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

/// Either one added token, or a maximal run of text without any.
struct PromptPiece {
  std::optional<TokenId> marker;
  std::string text;        // of a run; empty for a marker
  bool untrusted = false;  // the run has bytes from outside
};

/// The prompt as the tokenizer sees it. A marker that is no added token is an Error.
Result<std::vector<PromptPiece>> cut_prompt(const Tokenizer& tokenizer, std::span<const PromptSegment> prompt);

/// A place in the pieces: `offset` bytes into piece `index`, never at the end of a run.
struct Place {
  std::size_t index = 0;
  std::size_t offset = 0;
};

/// Moves `place` over one token of a timeline; false, and no change, when bytes or kinds differ.
bool pass(const Tokenizer& tokenizer, std::span<const PromptPiece> pieces, TokenId token, Place& place);

struct PromptTokens {
  std::vector<TokenId> tokens;  // the whole conversation
  std::int64_t kept = 0;        // how many of them were taken from the timeline without tokenizing
  std::vector<bool> sampled;    // of those that were kept: which the model had sampled
  std::int64_t turn_start = 0;  // where the last run of text from outside begins; 0 when that is not a boundary
};

/// Keeps the longest part of the timeline whose bytes and kinds are a prefix of the pieces and that ends where a run or
/// marker begins, or after a sampled token; tokenizes what follows. With nothing sampled the result is exactly the
/// tokenization of the prompt.
PromptTokens match_prompt(const Tokenizer& tokenizer, std::span<const PromptPiece> pieces, const Timeline& timeline);

/// The same with whichever of the timelines keeps the most; the first one of equals.
PromptTokens match_prompt(const Tokenizer& tokenizer, std::span<const PromptPiece> pieces,
                          std::span<const Timeline* const> timelines);

}  // namespace ds4
