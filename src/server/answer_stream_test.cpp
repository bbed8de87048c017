#include "server/answer_stream.h"

#include <gtest/gtest.h>

#include "tokenizer/test_vocabulary.h"

namespace ds4::server {
namespace {

using Kind = AnswerEvent::Kind;

const Tokenizer& tokenizer() {
  static const Tokenizer instance =
      testing_data::must_build(testing_data::small_tables({"a b"}, {"<B>", "<E>", "<think>", "</think>", "｜DSML｜"}));
  return instance;
}

/// A stream that is fed text token by token, and what came out.
struct Fed {
  explicit Fed(AnswerStream::Setup setup) {
    setup.tokenizer = &tokenizer();
    setup.replay = &replay;
    setup.emit = [this](AnswerEvent event) {
      answer.add(event);
      events.push_back(std::move(event));
    };
    stream = std::make_unique<AnswerStream>(std::move(setup));
    stream->progress(3, 10);
    take(stream->begin());
  }
  void take(const Verdict& verdict) {
    last = verdict;
    forced += tokenizer().decode(verdict.forced);
    for (const TokenId token : verdict.forced) one(token);
  }
  void one(TokenId token) {
    if (stopped) return;
    TokenEvent event;
    event.token = token;
    event.bytes = tokenizer().token_bytes(token);
    event.logprob = -1;
    const Verdict verdict = stream->token(event);
    stopped = verdict.stop;
    take(verdict);
  }
  Fed& say(std::string_view text) {
    for (const TokenId token : tokenizer().encode_text(text, true)) one(token);
    return *this;
  }
  Fed& end(FinishReason reason = FinishReason::kEnd) {
    Finish finish;
    finish.reason = stopped ? FinishReason::kListener : reason;
    finish.error = {ErrorCode::kNoDevice, "gone"};
    stream->done(finish);
    return *this;
  }
  ReplayMap replay;
  std::unique_ptr<AnswerStream> stream;
  std::vector<AnswerEvent> events;
  Answer answer;
  std::string forced;
  Verdict last;
  bool stopped = false;
};

constexpr const char* kCall =
    "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"x\" "
    "string=\"true\">a</｜DSML｜parameter>\n"
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

AnswerStream::Setup with_tools() {
  AnswerStream::Setup setup;
  setup.tools = true;
  return setup;
}

TEST(AnswerStream, ReasoningTextAndItsEnd) {
  AnswerStream::Setup setup;
  setup.thinking = true;
  Fed fed(setup);
  fed.say("hm</think>so").end();
  EXPECT_EQ(fed.events.front().kind, Kind::kBegin);
  EXPECT_EQ(fed.events.front().usage.cached_tokens, 3);
  EXPECT_EQ(fed.answer.reasoning, "hm");
  EXPECT_EQ(fed.answer.text, "so");
  EXPECT_EQ(fed.answer.end.ending, Ending::kStop);
  EXPECT_EQ(fed.answer.end.usage.reasoning_tokens, 3);
  Fed cut(setup);
  cut.say("hm").end(FinishReason::kMaxTokens);
  EXPECT_EQ(cut.answer.end.ending, Ending::kLength);
}

TEST(AnswerStream, StopStringsCountInTheTextOnly) {
  AnswerStream::Setup setup;
  setup.thinking = true;
  setup.stop = {"STOP"};
  Fed fed(setup);
  fed.say("STOP it</think>go STOP on").end();
  EXPECT_EQ(fed.answer.reasoning, "STOP it");
  EXPECT_EQ(fed.answer.text, "go ");
  EXPECT_EQ(fed.answer.end.ending, Ending::kStopString);
  EXPECT_EQ(fed.answer.end.text, "STOP");
  EXPECT_TRUE(fed.stopped);
  AnswerStream::Setup plain;
  plain.plain = true;
  plain.stop = {"no"};
  Fed raw(plain);
  raw.say("</think>ab\xc3").end();
  EXPECT_EQ(raw.answer.text, "</think>ab\xEF\xBF\xBD");
}

TEST(AnswerStream, ACallEndsTheAnswerAndItsBytesComeBack) {
  for (const bool stream : {false, true}) {
    AnswerStream::Setup setup = with_tools();
    setup.stream = stream;
    Fed fed(setup);
    fed.say("I call").say(kCall).say("more").end();
    EXPECT_EQ(fed.answer.text, "I call");
    ASSERT_EQ(fed.answer.calls.size(), 1u);
    EXPECT_EQ(fed.answer.calls[0].name, "f");
    EXPECT_EQ(fed.answer.calls[0].arguments, "{\"x\": \"a\"}");
    EXPECT_EQ(fed.answer.calls[0].id.size(), 37u);
    EXPECT_EQ(fed.answer.end.ending, Ending::kToolCalls);

    chat::Conversation conversation(1);
    conversation[0].role = chat::Role::kAssistant;
    conversation[0].tool_calls = {{fed.answer.calls[0].id, "f", "{ \"x\":\"a\" }"}};
    EXPECT_EQ(fed.replay.restore(conversation), 1);
    const Prompt& block = conversation[0].tool_block;
    EXPECT_EQ(chat::prompt_text(block), kCall);
    EXPECT_EQ(block[0], (PromptSegment{SegmentKind::kUntrusted, "\n\n<"}));
    EXPECT_EQ(block[1], (PromptSegment{SegmentKind::kMarker, "｜DSML｜"}));
    conversation[0].tool_calls[0].arguments = "{\"x\":\"b\"}";  // not what was called
    conversation[0].tool_block.clear();
    EXPECT_EQ(fed.replay.restore(conversation), 0);
    EXPECT_TRUE(conversation[0].tool_block.empty());
  }
}

TEST(AnswerStream, StructureIsGreedyAndValuesAreNot) {
  Fed fed(with_tools());
  fed.say("text");
  EXPECT_FALSE(fed.last.greedy);
  fed.say("\n\n<｜DSML｜tool_calls>\n<");
  EXPECT_TRUE(fed.last.greedy);
  fed.say("｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"x\" string=\"true\">");
  EXPECT_FALSE(fed.last.greedy);
  fed.say("</｜DSML｜");
  EXPECT_TRUE(fed.last.greedy);
}

TEST(AnswerStream, ABrokenBlockIsTextOrAnErrorWhenItWasShown) {
  const char* broken = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n<oops";
  Fed whole(with_tools());
  whole.say(broken).end();
  EXPECT_TRUE(whole.answer.calls.empty());
  EXPECT_EQ(whole.answer.text, broken);
  EXPECT_EQ(whole.answer.end.ending, Ending::kStop);
  AnswerStream::Setup setup = with_tools();
  setup.stream = true;
  Fed shown(setup);
  shown.say(broken).end();
  EXPECT_EQ(shown.answer.end.ending, Ending::kError);
  Fed unfinished(setup);
  unfinished.say("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n").end(FinishReason::kMaxTokens);
  EXPECT_EQ(unfinished.answer.end.ending, Ending::kLength);
}

TEST(AnswerStream, ACallThatIsAskedForIsBegunForTheModel) {
  AnswerStream::Setup setup = with_tools();
  setup.tool_use = ToolUse::kNamed;
  setup.tool_name = "f<think>";
  Fed fed(setup);
  EXPECT_EQ(fed.forced, "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f<think>\">\n");
  fed.say("</｜DSML｜invoke>\n</｜DSML｜tool_calls>").end();
  ASSERT_EQ(fed.answer.calls.size(), 1u);
  EXPECT_EQ(fed.answer.calls[0].arguments, "{}");

  setup.tool_use = ToolUse::kRequired;
  setup.thinking = true;
  Fed thinks(setup);
  EXPECT_EQ(thinks.forced, "");
  thinks.say("which?</think>");
  EXPECT_EQ(thinks.forced, "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke");
  thinks.say(" name=\"g\">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>").end();
  EXPECT_EQ(thinks.answer.reasoning, "which?");
  EXPECT_EQ(thinks.answer.calls.at(0).name, "g");
}

TEST(AnswerStream, OneCallOnlyWhenOnlyOneIsWanted) {
  AnswerStream::Setup setup = with_tools();
  setup.parallel_calls = false;
  Fed fed(setup);
  fed.say("\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n</｜DSML｜invoke>");
  EXPECT_EQ(fed.forced, "\n</｜DSML｜tool_calls>");
  EXPECT_TRUE(fed.stopped);
  fed.end();
  EXPECT_EQ(fed.answer.calls.size(), 1u);
  EXPECT_EQ(fed.answer.end.ending, Ending::kToolCalls);
}

TEST(AnswerStream, FailuresAndCancels) {
  Fed failed(with_tools());
  failed.say("x").end(FinishReason::kFailed);
  EXPECT_EQ(failed.answer.end.ending, Ending::kError);
  EXPECT_EQ(failed.answer.end.text, "gone");
  Fed cancelled(with_tools());
  cancelled.say("x").end(FinishReason::kCancelled);
  EXPECT_EQ(cancelled.answer.end.ending, Ending::kCancelled);
}

TEST(ReplayMap, TheOldestGoFirst) {
  ReplayMap map(2, 1 << 20);
  for (const char* id : {"a", "b", "c"}) map.add({{{id, "f", "{}"}}, {{SegmentKind::kUntrusted, id}}, "why"});
  const auto known = [&](const char* id) {
    chat::Conversation conversation(1);
    conversation[0].tool_calls = {{id, "f", "{}"}};
    const bool found = map.restore(conversation) == 1;
    if (found) {
      EXPECT_EQ(conversation[0].reasoning, "why");
    }
    return found;
  };
  EXPECT_FALSE(known("a"));
  EXPECT_TRUE(known("b"));
  EXPECT_TRUE(known("c"));
}

TEST(ReplayMap, WhatIsKeptComesBackAsItWas) {
  const RecordedCalls calls{{{"id1", "f", "{\"x\":1}"}, {"id2", "g", "{}"}},
                            {{SegmentKind::kMarker, "<m>"}, {SegmentKind::kUntrusted, std::string("\0\xff<m>", 5)}},
                            "why"};
  std::vector<std::string> kept;
  ReplayMap first;
  first.keep_with([&](std::string bytes) { kept.push_back(std::move(bytes)); });
  first.add(calls);
  ASSERT_EQ(kept.size(), 1u);
  ReplayMap second;
  EXPECT_TRUE(second.add_kept(kept[0]));
  EXPECT_TRUE(second.add_kept(kept[0]));  // as of a process that kept it itself
  chat::Conversation conversation(1);
  conversation[0].tool_calls = {{"id1", "f", "{ \"x\": 1 }"}, {"id2", "g", "{}"}};
  EXPECT_EQ(second.restore(conversation), 1);
  EXPECT_EQ(conversation[0].tool_block, calls.block);
  EXPECT_EQ(conversation[0].reasoning, "why");
  conversation[0].tool_calls[1].arguments = "{\"y\":2}";
  EXPECT_EQ(second.restore(conversation), 0);

  // Cut anywhere it is nothing; with anything else in place of a byte it is nothing or other calls, whole ones.
  for (std::size_t size = 0; size < kept[0].size(); ++size) EXPECT_FALSE(decode_calls(kept[0].substr(0, size)));
  EXPECT_FALSE(decode_calls(kept[0] + "x"));
  for (std::size_t at = 0; at < kept[0].size(); ++at) {
    std::string other = kept[0];
    other[at] = static_cast<char>(other[at] ^ 0x81);
    if (const auto decoded = decode_calls(other)) {
      EXPECT_EQ(encode_calls(*decoded), other);
    }
  }
}

}  // namespace
}  // namespace ds4::server
