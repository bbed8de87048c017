#include "tokenizer/split.h"

#include "tokenizer/text_unit.h"

namespace ds4 {

namespace {

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// True for 0x21-2F, 3A-40, 5B-60, 7B-7E: with the Unicode categories, all of ASCII that is P or S.
bool is_ascii_punctuation(std::string_view text, std::size_t at, TextUnit unit) {
  return static_cast<unsigned char>(text[at]) < 0x80 && unit.has(kPunctuation);
}

/// The first position from `at` on whose unit has none of the properties.
std::size_t skip(std::string_view text, std::size_t at, int properties) {
  while (at < text.size()) {
    const TextUnit unit = text_unit_at(text, at);
    if (!unit.has(properties)) break;
    at += unit.length;
  }
  return at;
}

bool has_at(std::string_view text, std::size_t at, int properties) {
  return at < text.size() && text_unit_at(text, at).has(properties);
}

/// Rules d, e and f at a position whose unit is a space: the end of the match.
std::size_t space_match_end(std::string_view text, std::size_t at) {
  const std::size_t begin = at;
  std::size_t after_last_newline = begin;
  std::size_t last_unit = begin;
  while (at < text.size()) {
    const TextUnit unit = text_unit_at(text, at);
    if (!unit.has(kSpace)) break;
    last_unit = at;
    at += unit.length;
    if (unit.has(kNewline)) after_last_newline = at;
  }
  if (after_last_newline != begin) return after_last_newline;  // d: \s* gives back what follows the last newline
  if (at == text.size()) return at;                            // e: nothing follows, so the lookahead holds
  if (last_unit != begin) return last_unit;                    // e: one space is given back, the rest is followed by it
  return at;                                                   // f: a single space before something else
}

/// The end of the match of stage 3 that starts at `at`, or `at` when no rule matches there.
std::size_t rule_match_end(std::string_view text, std::size_t at) {
  const TextUnit first = text_unit_at(text, at);
  const std::size_t second = at + first.length;
  if (is_ascii_punctuation(text, at, first) && second < text.size() && is_ascii_letter(text[second])) {  // a
    std::size_t end = second;
    while (end < text.size() && is_ascii_letter(text[end])) ++end;
    return end;
  }
  if (first.has(kLetter | kMark))
    return skip(text, second, kLetter | kMark);  // b without a prefix, or a mark as prefix
  if (!first.has(kNewline | kPunctuation) && has_at(text, second, kLetter | kMark)) {  // b with a prefix
    return skip(text, second, kLetter | kMark);
  }
  const std::size_t after_space = text[at] == ' ' ? second : at;
  if (has_at(text, after_space, kPunctuation)) return skip(text, skip(text, after_space, kPunctuation), kNewline);  // c
  return first.has(kSpace) ? space_match_end(text, at) : at;
}

void split_by_rules(std::string_view text, const PieceSink& emit) {
  std::size_t gap = 0;
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = rule_match_end(text, at);
    if (end == at) {
      at += text_unit_at(text, at).length;
      continue;
    }
    if (gap < at) emit(text.substr(gap, at - gap));
    emit(text.substr(at, end - at));
    gap = at = end;
  }
  if (gap < at) emit(text.substr(gap));
}

void split_by_cjk(std::string_view text, const PieceSink& emit) {
  std::size_t begin = 0;
  while (begin < text.size()) {
    const bool in_run = has_at(text, begin, kCjk);
    std::size_t end = begin;
    while (end < text.size()) {
      const TextUnit unit = text_unit_at(text, end);
      if (unit.has(kCjk) != in_run) break;
      end += unit.length;
    }
    split_by_rules(text.substr(begin, end - begin), emit);
    begin = end;
  }
}

}  // namespace

void split_into_pieces(std::string_view text, const PieceSink& emit) {
  std::size_t gap = 0;
  std::size_t at = 0;
  while (at < text.size()) {
    TextUnit unit = text_unit_at(text, at);
    if (!unit.has(kNumber)) {
      at += unit.length;
      continue;
    }
    const std::size_t begin = at;
    for (int digits = 0; digits < 3 && unit.has(kNumber); ++digits) {
      at += unit.length;
      if (at == text.size()) break;
      unit = text_unit_at(text, at);
    }
    if (gap < begin) split_by_cjk(text.substr(gap, begin - gap), emit);
    // The later stages find nothing in numbers: no CJK of stage 2 and no unit of the rules has category N alone.
    emit(text.substr(begin, at - begin));
    gap = at;
  }
  if (gap < at) split_by_cjk(text.substr(gap), emit);
}

}  // namespace ds4
