// One unit of text as the pre-tokenizer sees it: a code point with the Unicode properties the split rules ask for.
//
// Text comes from anywhere, so invalid UTF-8 is defined and not refused: every byte that starts no well-formed sequence
// (a lone continuation, an overlong form, a surrogate, a value above U+10FFFF, a sequence that is cut) is a unit of its
// own with no property at all: no letter, mark, number, punctuation or space. Bytes are never changed, so such text
// still decodes to itself. Code points that Unicode has not assigned have no property either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ds4 {

enum TextProperty : std::uint8_t {
  kLetter = 1,       // general category L
  kMark = 2,         // M
  kNumber = 4,       // N
  kPunctuation = 8,  // P or S: the rules never tell them apart
  kSpace = 16,       // White_Space
  kNewline = 32,     // \r or \n (which are spaces too)
  kCjk = 64,         // U+4E00..U+9FA5, U+3040..U+30FF: the ranges of the rule, assigned or not
};

struct TextUnit {
  std::uint8_t length;      // bytes, 1..4
  std::uint8_t properties;  // TextProperty bits
  bool has(int any_of) const { return (properties & any_of) != 0; }
};

/// The unit that starts at `at`, which must be inside the text.
TextUnit text_unit_at(std::string_view text, std::size_t at);

}  // namespace ds4
