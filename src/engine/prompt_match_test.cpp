#include "engine/prompt_match.h"

#include <gtest/gtest.h>

#include <random>

#include "engine/fake_token_model.h"
#include "engine/session.h"
#include "tokenizer/test_vocabulary.h"

namespace ds4 {
namespace {

constexpr SegmentKind kMarker = SegmentKind::kMarker;
constexpr SegmentKind kTrusted = SegmentKind::kTrusted;
constexpr SegmentKind kUntrusted = SegmentKind::kUntrusted;

const Tokenizer& tokenizer() {
  static const Tokenizer instance = testing_data::must_build(
      testing_data::small_tables({"a b", "ab c", "h e", "l l", "he ll", "hell o", "< E"}, {"<E>", "<U>", "<U>>"}));
  return instance;
}

TokenId marker(std::string_view text) { return tokenizer().added_token(text).value(); }

/// The one token that spells `text`.
TokenId word(std::string_view text) {
  for (TokenId id = 0; id < tokenizer().vocab_size(); ++id) {
    if (!tokenizer().is_added(id) && tokenizer().token_bytes(id) == text) return id;
  }
  throw std::runtime_error("no such token");
}

PromptTokens match(const Prompt& prompt, const Timeline& timeline) {
  const auto pieces = cut_prompt(tokenizer(), prompt);
  DS4_CHECK(pieces.ok());
  return match_prompt(tokenizer(), *pieces, timeline);
}

Timeline timeline_of(const Prompt& prompt) {
  Timeline timeline;
  for (const TokenId token : match(prompt, {}).tokens) timeline.append(token, false);
  return timeline;
}

using Ids = std::vector<TokenId>;

TEST(PromptMatch, NothingKnownIsPlainTokenization) {
  const Prompt prompt = {{kMarker, "<U>"},  {kUntrusted, "hello <E> abc"}, {kTrusted, "hel"},
                         {kTrusted, "lo<"}, {kTrusted, "E>abc"},           {kMarker, "<E>"}};
  EXPECT_EQ(match(prompt, {}).tokens, *tokenizer().encode(prompt));
}

TEST(PromptMatch, AMarkerThatTheVocabularyLacksIsNamed) {
  EXPECT_NE(cut_prompt(tokenizer(), Prompt{{kMarker, "<X>"}}).error().message.find("\"<X>\""), std::string::npos);
}

TEST(PromptMatch, SampledTokensStayWhereTheBytesAgree) {
  Timeline timeline = timeline_of({{kMarker, "<U>"}, {kUntrusted, "abc"}, {kMarker, "<E>"}});
  const std::int64_t answer = timeline.size();
  for (const char* piece : {"he", "l", "l", "o", "a", "b"})
    timeline.append(word(piece), true);  // not how text tokenizes
  const Prompt next = {{kMarker, "<U>"},        {kUntrusted, "abc"}, {kMarker, "<E>"},
                       {kUntrusted, "helloab"}, {kMarker, "<U>"},    {kUntrusted, "hello"}};
  const PromptTokens matched = match(next, timeline);
  EXPECT_EQ(matched.kept, timeline.size());
  EXPECT_TRUE(
      std::ranges::equal(std::span(matched.tokens).first(static_cast<std::size_t>(matched.kept)), timeline.tokens()));
  EXPECT_EQ(matched.turn_start, timeline.size() + 1);

  // In a run that goes on, tokens that were never sampled give way to the canonical ones.
  Timeline unsampled;
  for (const TokenId token : timeline.tokens()) unsampled.append(token, false);
  const Prompt longer = {{kMarker, "<U>"}, {kUntrusted, "abc"}, {kMarker, "<E>"}, {kUntrusted, "helloabc"}};
  EXPECT_EQ(match(longer, unsampled).tokens, *tokenizer().encode(longer));
  EXPECT_EQ(match(longer, unsampled).kept, answer);
  EXPECT_EQ(match(longer, timeline).kept, timeline.size());
}

TEST(PromptMatch, AnEditedAnswerKeepsTheSampledTokensBeforeTheEdit) {
  Timeline timeline;
  for (const char* piece : {"he", "l", "l", "o", "a"}) timeline.append(word(piece), true);
  const PromptTokens matched = match({{kUntrusted, "helabc"}}, timeline);
  EXPECT_EQ(matched.tokens, (Ids{word("he"), word("l"), word("abc")}));
  EXPECT_EQ(matched.kept, 2);
}

TEST(PromptMatch, TextNeverMatchesAControlTokenNorTheReverse) {
  const Ids spelled = {word("<E"), word(">")};
  Timeline control;
  control.append(marker("<E>"), true);
  EXPECT_EQ(match({{kUntrusted, "<E>"}}, control).tokens, spelled);
  EXPECT_EQ(match({{kUntrusted, "<"}, {kTrusted, "E>"}}, control).tokens, spelled);
  EXPECT_EQ(match({{kTrusted, "<E>"}}, control).kept, 1);
  Timeline text;
  for (const TokenId token : spelled) text.append(token, true);
  EXPECT_EQ(match({{kMarker, "<E>"}}, text).tokens, (Ids{marker("<E>")}));
  EXPECT_EQ(match({{kTrusted, "<E>"}}, text).tokens, (Ids{marker("<E>")}));
  EXPECT_EQ(match({{kUntrusted, "<E>"}}, text).kept, 2);
  // A longer marker is not the shorter one and some text.
  Timeline shorter;
  shorter.append(marker("<U>"), true);
  shorter.append(word(">"), true);
  EXPECT_EQ(match({{kTrusted, "<U>>"}}, shorter).tokens, (Ids{marker("<U>>")}));
}

TEST(PromptMatch, APromptThatEndsInsideATokenKeepsWhatComesBefore) {
  Timeline timeline;
  timeline.append(word("abc"), true);
  timeline.append(word("hello"), true);
  const PromptTokens matched = match({{kUntrusted, "abchel"}}, timeline);
  EXPECT_EQ(matched.kept, 1);
  EXPECT_EQ(tokenizer().decode(matched.tokens), "abchel");
}

/// What a timeline says, without how it is cut: markers as their ids, text as bytes.
std::string meaning(std::span<const TokenId> tokens) {
  std::string out;
  for (const TokenId token : tokens) {
    if (tokenizer().is_added(token)) out += cat("[", token, "]");
    else out += tokenizer().token_bytes(token);
  }
  return out;
}

class Story {
 public:
  explicit Story(std::uint32_t seed) : random_(seed) {}
  std::size_t pick(std::size_t count) { return std::uniform_int_distribution<std::size_t>(0, count - 1)(random_); }
  std::string text() {
    static const char* const kPieces[] = {"a",  "b", "c",        "hello", "<E>", "<",
                                          "E>", " ", "\xC3\xA9", "\xC3",  "<U>", ">"};
    std::string out;
    for (std::size_t i = pick(6); i > 0; --i) out += kPieces[pick(std::size(kPieces))];
    return out;
  }
  Prompt prompt() {
    Prompt out;
    for (std::size_t i = 1 + pick(5); i > 0; --i) {
      if (pick(3) == 0) out.push_back({kMarker, pick(2) == 0 ? "<E>" : "<U>"});
      else out.push_back({pick(2) == 0 ? kTrusted : kUntrusted, text()});
    }
    out.push_back({kMarker, "<U>"});
    return out;
  }
  void edit(Prompt& prompt) {
    PromptSegment& segment = prompt[pick(prompt.size())];
    if (segment.kind != kMarker) segment.bytes.insert(pick(segment.bytes.size() + 1), text());
  }

 private:
  std::mt19937 random_;
};

TEST(PromptMatchProperty, TheTimelineSaysWhatThePromptSays) {
  for (std::uint32_t seed = 0; seed < 1000; ++seed) {
    Story story(seed);
    Prompt prompt = story.prompt();
    Timeline timeline = timeline_of(prompt);
    for (int turn = 0; turn < 4; ++turn) {
      const std::int64_t before = timeline.size();
      for (std::size_t i = story.pick(8); i > 0; --i) {
        timeline.append(static_cast<TokenId>(story.pick(static_cast<std::size_t>(tokenizer().vocab_size()))), true);
      }
      for (const TokenId token : timeline.tokens().subspan(static_cast<std::size_t>(before))) {
        prompt.push_back(
            {tokenizer().is_added(token) ? kMarker : kUntrusted, std::string(tokenizer().token_bytes(token))});
      }
      const std::int64_t whole = timeline.size();
      const bool edited = story.pick(2) == 0;
      if (edited) story.edit(prompt);
      for (PromptSegment& segment : story.prompt()) prompt.push_back(std::move(segment));

      const PromptTokens matched = match(prompt, timeline);
      ASSERT_EQ(meaning(matched.tokens), meaning(*tokenizer().encode(prompt))) << "seed " << seed;
      if (!edited && whole > before) {
        ASSERT_GE(matched.kept, whole) << "seed " << seed;
      }
      ASSERT_LE(matched.turn_start, std::ssize(matched.tokens));

      const auto have = timeline.tokens();
      const auto common = std::ranges::mismatch(matched.tokens, have).in1 - matched.tokens.begin();
      Timeline next;
      for (std::int64_t i = 0; i < std::ssize(matched.tokens); ++i) {
        next.append(matched.tokens[static_cast<std::size_t>(i)], i < common && timeline.sampled(i));
      }
      timeline = std::move(next);
    }
  }
}

TEST(PromptMatchProperty, WithNothingSampledItIsTheTokenizationOfThePrompt) {
  for (std::uint32_t seed = 0; seed < 1000; ++seed) {
    Story story(seed);
    Prompt prompt = story.prompt();
    Timeline timeline;
    for (int turn = 0; turn < 4; ++turn) {
      const PromptTokens matched = match(prompt, timeline);
      ASSERT_EQ(matched.tokens, *tokenizer().encode(prompt)) << "seed " << seed;
      timeline = {};
      for (const TokenId token : matched.tokens) timeline.append(token, false);
      story.edit(prompt);
    }
  }
}

TEST(SessionPrompt, AConversationIsExtendedAndItsLastTurnHasASnapshot) {
  FakeOptions options;
  options.vocab = tokenizer().vocab_size();
  FakeTokenModel model(options);
  Result<Session> session = Session::create(model, &tokenizer(), 3);
  ASSERT_TRUE(session.ok());
  Prompt prompt = {
      {kTrusted, std::string(100, 'x')}, {kMarker, "<U>"}, {kUntrusted, std::string(100, 'y')}, {kMarker, "<E>"}};
  ASSERT_TRUE(session->sync(prompt).ok());
  EXPECT_EQ(session->snapshots(), (std::vector<std::int64_t>{101, 202}));

  GenerateOptions generate;
  generate.max_tokens = 20;
  ASSERT_TRUE(session->generate(generate).ok());
  for (const TokenId token : session->timeline().tokens().subspan(202)) {
    prompt.push_back({tokenizer().is_added(token) ? kMarker : kUntrusted, std::string(tokenizer().token_bytes(token))});
  }
  prompt.push_back({kMarker, "<U>"});
  prompt.push_back({kUntrusted, "hello"});
  const Result<SyncReport> report = session->sync(prompt);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->start, SyncStart::kExtended);
  EXPECT_EQ(report->reused, 222);
  EXPECT_EQ(report->computed, 2);
  EXPECT_TRUE(session->timeline().sampled(210));

  // A new question behind the same system text starts at the snapshot in front of the old question.
  const Result<SyncReport> other =
      session->sync(Prompt{{kTrusted, std::string(100, 'x')}, {kMarker, "<U>"}, {kUntrusted, "abc"}, {kMarker, "<E>"}});
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->start, SyncStart::kSnapshot);
  EXPECT_EQ(other->reused, 101);
}

}  // namespace
}  // namespace ds4
