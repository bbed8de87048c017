// The scanner against the rules as regular expressions, run by PCRE2 in the same three stages.
#include "tokenizer/split.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <utf8proc.h>

#include <functional>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/text.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace ds4 {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(std::string_view text) {
  Pieces out;
  split_into_pieces(text, [&](std::string_view piece) { out.emplace_back(piece); });
  return out;
}

class Regex {
 public:
  explicit Regex(const char* pattern) {
    int error = 0;
    PCRE2_SIZE at = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error,
                          &at, nullptr);
    DS4_CHECK(code_ != nullptr);
    pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);
    match_ = pcre2_match_data_create_from_pattern(code_, nullptr);
  }
  ~Regex() {
    pcre2_match_data_free(match_);
    pcre2_code_free(code_);
  }
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

  /// Matches and gaps, each a piece, appended to `out`.
  void isolate(const std::string& text, Pieces& out) const {
    std::size_t done = 0;
    while (done < text.size()) {
      const int found = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), done,
                                    PCRE2_NO_UTF_CHECK, match_, nullptr);
      if (found < 0) break;
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match_);
      if (range[0] > done) out.push_back(text.substr(done, range[0] - done));
      out.push_back(text.substr(range[0], range[1] - range[0]));
      done = range[1];
    }
    if (done < text.size()) out.push_back(text.substr(done));
  }

 private:
  pcre2_code* code_;
  pcre2_match_data* match_;
};

Pieces oracle(const std::string& text) {
  static const Regex kStages[] = {Regex("\\p{N}{1,3}"),
                                  Regex("[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"),
                                  Regex("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
                                        "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
                                        "| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+")};
  Pieces pieces = {text};
  for (const Regex& stage : kStages) {
    Pieces next;
    for (const std::string& piece : pieces) stage.isolate(piece, next);
    pieces = std::move(next);
  }
  return pieces;
}

std::string utf8(std::int32_t code) {
  utf8proc_uint8_t bytes[4];
  return {reinterpret_cast<char*>(bytes), static_cast<std::size_t>(utf8proc_encode_char(code, bytes))};
}

/// Code points about which both libraries must agree. PCRE2 knows an older Unicode and counts U+180E, a format
/// character since Unicode 6.3, as a space.
bool comparable(std::int32_t code) {
  static const Regex kUnassigned("\\p{Cn}");
  if ((code >= 0xD800 && code <= 0xDFFF) || code == 0x180E) return false;
  if (utf8proc_category(code) == UTF8PROC_CATEGORY_CN) return true;
  Pieces pieces;
  kUnassigned.isolate(cat("x", utf8(code)), pieces);
  return pieces.size() == 1;  // unassigned there, assigned here: newer than that library
}

TEST(Split, EveryCodePointInContext) {
  std::size_t checked = 0;
  std::string batch;
  for (std::int32_t code = 0; code < 0x110000; ++code) {
    // Beyond the ideographs of planes 2 and 3 come only tags, selectors and private planes: a sample is enough there.
    if (code >= 0xF0100 && code % 257 != 0) continue;
    if (code >= 0x32000 && code < 0xE0000 && code % 257 != 0) continue;
    if (!comparable(code)) continue;
    ++checked;
    const std::string c = utf8(code);
    batch += cat("a", c, "b ", c, "1  ", c, " ", c, c, ".", c, "\n\u4F60", c, "~");
    if (batch.size() < 4096 && code < 0x10FF00) continue;
    ASSERT_EQ(split(batch), oracle(batch)) << "up to U+" << std::hex << code;
    batch.clear();
  }
  EXPECT_EQ(split(batch), oracle(batch));
  EXPECT_GT(checked, 200000u);
}

rc::Gen<std::string> nasty_text() {
  static const std::vector<std::string> kAlphabet = {" ",
                                                     " ",
                                                     "  ",
                                                     "\n",
                                                     "\r",
                                                     "\r\n",
                                                     "\t",
                                                     "\v",
                                                     "\f",
                                                     "\u0085",
                                                     "\u00A0",
                                                     "\u3000",
                                                     "\u2003",
                                                     "\u2028",
                                                     "\uFEFF",
                                                     "\u200B",
                                                     "\u200D",
                                                     "a",
                                                     "Z",
                                                     "é",
                                                     "ß",
                                                     "\u0301",
                                                     "\u0903",
                                                     "\u20DD",
                                                     "'",
                                                     "!",
                                                     "-",
                                                     "_",
                                                     "$",
                                                     "`",
                                                     "~",
                                                     "<",
                                                     "|",
                                                     "，",
                                                     "。",
                                                     "“",
                                                     "—",
                                                     "…",
                                                     "€",
                                                     "+",
                                                     "｜",
                                                     "▁",
                                                     "0",
                                                     "9",
                                                     "٣",
                                                     "Ⅷ",
                                                     "½",
                                                     "〇",
                                                     "1234",
                                                     "你",
                                                     "\u9FA5",
                                                     "\u9FA6",
                                                     "々",
                                                     "あ",
                                                     "ゟ",
                                                     "゠",
                                                     "カ",
                                                     "ー",
                                                     "・",
                                                     "゛",
                                                     "\u3099",
                                                     "\u3040",
                                                     "\uE000",
                                                     "😀",
                                                     "🏽",
                                                     "🇩",
                                                     std::string("\0", 1),
                                                     "\x1C",
                                                     "\x7F",
                                                     "\u00AD"};
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(kAlphabet)),
                      [](const std::vector<std::string>& parts) {
                        std::string out;
                        for (const std::string& part : parts) out += part;
                        return out;
                      });
}

TEST(Split, RandomTextAgreesWithTheRegexes) {
  EXPECT_TRUE(rc::check([] {
    for (const std::string& text : *rc::gen::container<Pieces>(50, rc::gen::resize(40, nasty_text()))) {
      RC_ASSERT(split(text) == oracle(text));
    }
  }));
}

/// All texts of up to four units from one representative of each kind that the rules can tell apart.
TEST(Split, EveryShortTextAgreesWithTheRegexes) {
  const std::vector<std::string> kinds = {"a",      "é",  "\u0301", "7",      "!",  "，", " ",
                                          "\u00A0", "\n", "\r",     "\u200B", "你", "・", "\u3040"};
  std::function<void(const std::string&, int)> extend = [&](const std::string& text, int left) {
    ASSERT_EQ(split(text), oracle(text));
    if (left == 0) return;
    for (const std::string& kind : kinds) extend(text + kind, left - 1);
  };
  extend("", 4);
}

TEST(Split, InvalidBytesHaveNoProperty) {
  EXPECT_EQ(split("\xFF\xFE"), Pieces({"\xFF\xFE"}));
  EXPECT_EQ(split("\xFF"
                  "ab"),
            Pieces({"\xFF"
                    "ab"}));  // the optional prefix of rule b
  EXPECT_EQ(split("\xFF\xFF"
                  "ab"),
            Pieces({"\xFF",
                    "\xFF"
                    "ab"}));
  EXPECT_EQ(split("ab\xE4\xBD"), Pieces({"ab", "\xE4\xBD"}));
  EXPECT_EQ(split("  \xFF"), Pieces({" ", " ", "\xFF"}));  // it is not a space: (?!\S) fails before it
  EXPECT_EQ(split("\xFF"
                  "1\xFF!"),
            Pieces({"\xFF", "1", "\xFF", "!"}));
}

TEST(Split, PiecesAreTheTextForAnyBytes) {
  EXPECT_TRUE(rc::check([](const std::string& text) {
    std::string joined;
    for (const std::string& piece : split(text)) {
      RC_ASSERT(!piece.empty());
      joined += piece;
    }
    RC_ASSERT(joined == text);
  }));
}

}  // namespace
}  // namespace ds4
