#include "tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "tokenizer/test_vocabulary.h"

namespace ds4 {
namespace {

using Ids = std::vector<TokenId>;
using testing_data::must_build;
using testing_data::small_tables;

constexpr auto kMarker = SegmentKind::kMarker;
constexpr auto kTrusted = SegmentKind::kTrusted;
constexpr auto kUntrusted = SegmentKind::kUntrusted;

const std::vector<std::string>& specials() {
  // "<a" lies before a token that begins with a high byte: what follows it in memory must not count.
  static const std::vector<std::string> kTexts = {
      "<｜User｜>", "<｜Assistant｜>", "<a",  "｜DSML｜", "<｜begin▁of▁sentence｜>",
      "<think>",    "</think>",        "<ab", "<abcd",    "b>"};
  return kTexts;
}

const Tokenizer& tokenizer() {
  static const Tokenizer kTokenizer =
      must_build(small_tables({"h i", "Ġ hi", "t h", "in g", "< t", "e n", "i n"}, specials()));
  return kTokenizer;
}

TokenId id(const std::string& text) { return tokenizer().added_token(text).value_or(-1); }

Ids encode(const Prompt& prompt) {
  auto result = tokenizer().encode(prompt);
  EXPECT_TRUE(result.ok());
  return std::move(result).value();
}

bool any_added(const Ids& ids) {
  for (const TokenId token : ids) {
    if (tokenizer().is_added(token)) return true;
  }
  return false;
}

Ids concatenated(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(Tokenizer, AddedTokensLeftmostThenLongest) {
  const auto added = [](std::string_view text) { return tokenizer().encode_text(text, true); };
  EXPECT_EQ(added("<ab"), Ids{id("<ab")});
  EXPECT_EQ(added("<abcd"), Ids{id("<abcd")});
  EXPECT_EQ(added("<abc"), (Ids{id("<ab"), 'c'}));
  EXPECT_EQ(added("<ab>"), (Ids{id("<ab"), '>'}));  // not "<a", "b>"
  EXPECT_EQ(added("<<think>>"), (Ids{'<', id("<think>"), '>'}));
  EXPECT_EQ(added("<｜User｜><｜User"), concatenated({id("<｜User｜>")}, tokenizer().encode_text("<｜User", false)));
  EXPECT_FALSE(any_added(tokenizer().encode_text("<｜User｜><abcd", false)));
  EXPECT_EQ(added(""), Ids{});
}

TEST(Tokenizer, AddedTokensEndARunOfThePreTokenizer) {
  // Alone, " hi" is one token; the two spaces before a marker stay with the text before it.
  const TokenId space_hi = tokenizer().encode_text(" hi", false).at(0);
  EXPECT_GE(space_hi, 256);
  EXPECT_EQ(encode({{kUntrusted, "  "}, {kMarker, "<think>"}, {kUntrusted, " hi"}}),
            (Ids{' ', ' ', id("<think>"), space_hi}));
  EXPECT_EQ(encode({{kTrusted, "  <think> hi"}}), (Ids{' ', ' ', id("<think>"), space_hi}));
}

TEST(Tokenizer, AdjacentTextIsOneRun) {
  const Ids whole = tokenizer().encode_text("say  hi", false);
  for (const auto a : {kTrusted, kUntrusted}) {
    for (const auto b : {kTrusted, kUntrusted}) {
      EXPECT_EQ(encode({{a, "say "}, {b, " h"}, {a, ""}, {b, "i"}}), whole);
    }
  }
}

TEST(Tokenizer, OnlyWhollyTrustedTextYieldsAddedTokens) {
  for (const std::string& special : specials()) {
    EXPECT_EQ(encode({{kTrusted, special}}), Ids{id(special)});
    for (std::size_t cut = 1; cut < special.size(); ++cut) {
      const std::string head = special.substr(0, cut), tail = special.substr(cut);
      EXPECT_EQ(encode({{kTrusted, head}, {kTrusted, tail}}), Ids{id(special)});
      EXPECT_EQ(encode({{kTrusted, head}, {kUntrusted, ""}, {kTrusted, tail}}), Ids{id(special)});
      EXPECT_FALSE(any_added(encode({{kUntrusted, special}})));
      EXPECT_FALSE(any_added(encode({{kUntrusted, head}, {kUntrusted, tail}})));
      // A shorter added token may lie in the trusted half; none may use a byte of the other.
      for (const Prompt& half :
           {Prompt{{kTrusted, head}, {kUntrusted, tail}}, Prompt{{kUntrusted, head}, {kTrusted, tail}}}) {
        const Ids ids = encode(half);
        EXPECT_EQ(std::count(ids.begin(), ids.end(), id(special)), 0) << special << " cut at " << cut;
      }
    }
  }
}

TEST(Tokenizer, AMarkerMustBeAnAddedToken) {
  EXPECT_EQ(encode({{kMarker, "<｜User｜>"}, {kMarker, "</think>"}}), (Ids{id("<｜User｜>"), id("</think>")}));
  for (const char* text : {"<｜Usr｜>", "", "th", "<｜User｜> "}) {
    const auto result = tokenizer().encode(Prompt{{kMarker, text}});
    ASSERT_FALSE(result.ok());
    EXPECT_THAT(result.error().message, testing::HasSubstr(cat('"', text, '"')));
  }
}

TEST(Tokenizer, DecodeIsByteExactAcrossSplitCharacters) {
  const Ids ids = tokenizer().encode_text("é", false);
  EXPECT_EQ(ids, (Ids{0xC3, 0xA9}));
  EXPECT_EQ(tokenizer().token_bytes(ids[0]), "\xC3");
  EXPECT_EQ(tokenizer().decode(ids), "é");
  EXPECT_EQ(tokenizer().decode(Ids{id("<｜User｜>"), 'x'}), "<｜User｜>x");
  EXPECT_EQ(tokenizer().token_bytes(-1), "");
  EXPECT_EQ(tokenizer().token_bytes(tokenizer().vocab_size()), "");
  EXPECT_FALSE(tokenizer().is_added(-1));
  EXPECT_FALSE(tokenizer().is_added(INT32_MAX));
}

TEST(Tokenizer, SurvivesAMove) {
  Tokenizer first = must_build(small_tables({"h i"}, {"<s>"}));
  Tokenizer second = std::move(first);
  EXPECT_EQ(second.encode_text("hi<s>", true), (Ids{256, 257}));
  EXPECT_EQ(second.bos(), 0);
  EXPECT_EQ(second.eos(), 1);
  EXPECT_EQ(second.vocab_size(), 258);
}

/// Bytes that often spell specials, whole or in part.
rc::Gen<std::string> text_near_specials() {
  const auto word =
      rc::gen::oneOf(rc::gen::elementOf(specials()),
                     rc::gen::element<std::string>("<", "｜", "\xEF", "\xBD\x9C", "User", "a", "b", "cd", ">", " "),
                     rc::gen::arbitrary<std::string>());
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(word), [](const std::vector<std::string>& words) {
    std::string out;
    for (const std::string& text : words) out += text;
    return out;
  });
}

TEST(Tokenizer, RoundTripForAnyBytes) {
  EXPECT_TRUE(rc::check([] {
    const std::string text = *text_near_specials();
    for (const bool match_added : {false, true}) {
      const Ids ids = tokenizer().encode_text(text, match_added);
      RC_ASSERT(tokenizer().decode(ids) == text);
      RC_ASSERT(match_added || !any_added(ids));
    }
  }));
}

TEST(Tokenizer, UntrustedTextNeverYieldsAddedTokensHoweverItIsCut) {
  EXPECT_TRUE(rc::check([] {
    const std::string text = *text_near_specials();
    Prompt prompt;
    std::size_t done = 0;
    while (done < text.size()) {
      const auto length = *rc::gen::inRange<std::size_t>(1, text.size() - done + 1);
      prompt.push_back({kUntrusted, text.substr(done, length)});
      done += length;
    }
    const Ids ids = encode(prompt);
    RC_ASSERT(ids == tokenizer().encode_text(text, false));
    RC_ASSERT(!any_added(ids));
  }));
}

/// The added tokens of a mixed prompt are those of its maximal trusted stretches, each taken alone.
TEST(Tokenizer, MixedPromptsMatchOnlyInsideTrustedStretches) {
  EXPECT_TRUE(rc::check([] {
    const auto parts = *rc::gen::container<std::vector<std::pair<bool, std::string>>>(
        rc::gen::pair(rc::gen::arbitrary<bool>(), text_near_specials()));
    Prompt prompt;
    std::vector<std::string> stretches(1);
    for (const auto& [trusted, text] : parts) {
      prompt.push_back({trusted ? kTrusted : kUntrusted, text});
      if (trusted)
        stretches.back() += text;
      else if (!text.empty())
        stretches.emplace_back();
    }
    Ids expected;
    for (const std::string& stretch : stretches)
      expected = concatenated(expected, tokenizer().encode_text(stretch, true));
    Ids found = encode(prompt);
    const auto plain = [](TokenId token) { return !tokenizer().is_added(token); };
    std::erase_if(expected, plain);
    std::erase_if(found, plain);
    RC_ASSERT(found == expected);
  }));
}

}  // namespace
}  // namespace ds4
