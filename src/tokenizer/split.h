// The family's pre-tokenizer ("joyai-llm", equal to "deepseek-v3"): text is cut into pieces, and no token crosses a
// cut. Pure functions, any thread. Time is linear in the text for every text: nothing backtracks further than one unit.
//
// Three stages, one after the other; each cuts every piece left by the one before, and both its matches and the gaps
// between them become pieces (so a lookahead of stage 3 sees the end of its piece, not the text behind it):
//   1. \p{N}{1,3}
//   2. [\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+
//   3. the first of these that matches at a position:
//      a. one ASCII punctuation character, then ASCII letters: [!-/:-@\[-`{-~][A-Za-z]+
//      b. [^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+
//      c. " "?[\p{P}\p{S}]+[\r\n]*
//      d. \s*[\r\n]+
//      e. \s+(?!\S)
//      f. \s+
// Invalid UTF-8: see text_unit.h.
#pragma once

#include <functional>
#include <string_view>

namespace ds4 {

using PieceSink = std::function<void(std::string_view piece)>;

/// Calls `emit` with the pieces of `text` in order; together they are the text, and none is empty.
void split_into_pieces(std::string_view text, const PieceSink& emit);

}  // namespace ds4
