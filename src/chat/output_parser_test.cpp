#include "chat/output_parser.h"

#include <gtest/gtest.h>

#include "chat/render.h"
#include "chat/wire_text.h"

namespace ds4::chat {
namespace {

std::vector<Event> parse(std::string_view output, const OutputOptions& options) {
  OutputParser parser(options);
  std::vector<Event> events = parser.feed(output);
  for (Event& event : parser.finish()) events.push_back(std::move(event));
  return joined(events);
}

/// One line an event, for reading: "R:reasoning", "T:text", "0 name {json}", "block", "FAILED:...", "end" is left out.
std::string told(std::string_view output, const OutputOptions& options = {}) {
  std::string out;
  for (const Event& event : parse(output, options)) {
    switch (event.kind) {
      case Event::Kind::kReasoning: out += "R:" + event.text + "|"; break;
      case Event::Kind::kText: out += "T:" + event.text + "|"; break;
      case Event::Kind::kToolCallStart: out += std::to_string(event.index) + " " + event.text + "|"; break;
      case Event::Kind::kToolArguments: break;
      case Event::Kind::kToolCallEnd: out += event.text + "|"; break;
      case Event::Kind::kToolBlockEnd: out += "block|"; break;
      case Event::Kind::kToolBlockFailed:
        out += (event.reasoning ? "FAILED in R:" : "FAILED:") + event.text + "|";
        break;
      case Event::Kind::kEnd: break;
    }
  }
  return out;
}

std::string told_thinking(std::string_view output) { return told(output, {.thinking = true}); }

const std::string kCall =
    "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n"
    "<｜DSML｜parameter name=\"a\" string=\"true\">x</｜DSML｜parameter>\n"
    "</｜DSML｜invoke>\n</｜DSML｜tool_calls>";

std::string plain(std::string text) {
  for (std::size_t at; (at = text.find(wire::kDsml)) != std::string::npos;) text.erase(at, wire::kDsml.size());
  return text;
}

std::string with_parameters(const std::string& parameters) {
  return "<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\">" + parameters + "</｜DSML｜invoke></｜DSML｜tool_calls>";
}

TEST(OutputParser, ReasoningTextAndCalls) {
  EXPECT_EQ(told("Hello"), "T:Hello|");
  EXPECT_EQ(told(""), "");
  EXPECT_EQ(told_thinking("why</think>because"), "R:why|T:because|");
  EXPECT_EQ(told_thinking("</think>because"), "T:because|");
  EXPECT_EQ(told_thinking("unclosed\n\n"), "R:unclosed\n\n|");
  EXPECT_EQ(told("Checking.\n\n" + kCall), "T:Checking.|0 f|{\"a\": \"x\"}|block|");
  EXPECT_EQ(told("Checking." + kCall), "T:Checking.|0 f|{\"a\": \"x\"}|block|");
  EXPECT_EQ(told("Checking.\n\n\n" + kCall + "ignored"), "T:Checking.\n|0 f|{\"a\": \"x\"}|block|");
}

TEST(OutputParser, ParallelCallsAndValues) {
  const std::string output =
      "<｜DSML｜tool_calls>\n"
      "<｜DSML｜invoke name=\"f\">\n\n</｜DSML｜invoke>\n"
      "<｜DSML｜invoke name=\"g\">\n"
      "<｜DSML｜parameter name=\"s\" string=\"true\">a\"\\\n<b></think>&lt;</｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"n\" string=\"false\"> [1, {\"k\": \"</x>\"}]</｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"k\" string=\"false\">True</｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"e\" string=\"true\">&lt;/｜DSML｜parameter></｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"m\">1</｜DSML｜parameter>\n"
      "</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
  EXPECT_EQ(told(output),
            "0 f|{}|1 g|{\"s\": \"a\\\"\\\\\\n<b></think>&lt;\", \"n\":  [1, {\"k\": \"</x>\"}], \"k\": \"True\", "
            "\"e\": \"</｜DSML｜parameter>\", \"m\": \"1\"}|block|");
}

TEST(OutputParser, Spellings) {
  const std::string whole = "0 f|{\"a\": \"x\"}|block|";
  std::string short_form = kCall;
  for (std::size_t at; (at = short_form.find("｜DSML")) != std::string::npos;) short_form.erase(at, 3);
  EXPECT_EQ(told(short_form), whole);
  EXPECT_EQ(told(plain(kCall)), whole);
  EXPECT_EQ(told("text\n" + plain(kCall)), "T:text|" + whole);
  EXPECT_EQ(told("<DSML｜tool_calls>" + kCall.substr(kCall.find('\n'))), whole) << "the marker's forms mix";
  EXPECT_EQ(told(with_parameters(" <｜DSML｜parameter  string=\"true\"\n name=\"a\" >x</｜DSML｜parameter>\r\n")),
            whole);
  // A value ends with the spelling of its own tag only.
  EXPECT_EQ(told(with_parameters("<｜DSML｜parameter name=\"a\" string=\"true\"></parameter></DSML｜parameter>"
                                 "</｜DSML｜parameter>")),
            "0 f|{\"a\": \"</parameter></DSML｜parameter>\"}|block|");
  // Function-call words of other models and other cases are text.
  EXPECT_EQ(told("<function_calls><invoke>"), "T:<function_calls><invoke>|");
  EXPECT_EQ(told("<Tool_Calls>"), "T:<Tool_Calls>|");
}

TEST(OutputParser, PlainBlocksBeginALineOutsideOfFencesAndThinking) {
  const std::string block = plain(kCall);
  EXPECT_EQ(told("see " + block), "T:see " + block + "|");
  EXPECT_EQ(told("```xml\n" + block + "\n```\n"), "T:```xml\n" + block + "\n```\n|");
  EXPECT_EQ(told("```\n```\n" + block), "T:```\n```|0 f|{\"a\": \"x\"}|block|");
  EXPECT_EQ(told("a ``` b\n" + block), "T:a ``` b|0 f|{\"a\": \"x\"}|block|");
  EXPECT_EQ(told_thinking("hm\n" + block + "</think>ok"), "R:hm\n" + block + "|T:ok|");
  // The marker itself is meant wherever it stands.
  EXPECT_EQ(told("```\n" + kCall), "T:```|0 f|{\"a\": \"x\"}|block|");
  EXPECT_EQ(told_thinking("hm\n\n" + kCall), "R:hm|0 f|{\"a\": \"x\"}|block|");
}

TEST(OutputParser, WithoutToolsNothingIsACall) {
  EXPECT_EQ(told("a\n\n" + kCall, {.tools = false}), "T:a\n\n" + kCall + "|");
}

TEST(OutputParser, ThinkTags) {
  EXPECT_EQ(told_thinking("a</think></think>b"), "R:a|T:b|") << "closed twice";
  EXPECT_EQ(told_thinking("a</think>\n</think>b"), "R:a|T:\nb|");
  EXPECT_EQ(told("b </think> c"), "T:b </think> c|") << "text may speak about the tag";
  EXPECT_EQ(told("<think>a</think>b"), "R:a|T:b|") << "opened by the model itself";
  EXPECT_EQ(told_thinking("<think>a</think>b"), "R:a|T:b|") << "opened twice";
  EXPECT_EQ(told_thinking("a<think>b</think>c"), "R:a<think>b|T:c|");
  EXPECT_EQ(told("b<think>c"), "T:b<think>c|");
  EXPECT_EQ(told("a</thin"), "T:a</thin|");
}

TEST(OutputParser, BrokenBlocksAreTextWithAFlag) {
  const auto fails = [](const std::string& block, const std::string& calls = "") {
    EXPECT_EQ(told("a\n\n" + block), "T:a|" + calls + "FAILED:\n\n" + block + "|") << block;
  };
  const std::string open = "<｜DSML｜tool_calls>\n", invoke = open + "<｜DSML｜invoke name=\"f\">\n";
  const std::string parameter = "<｜DSML｜parameter name=\"a\" string=\"true\">";
  fails(open);  // unterminated, at each place
  fails(open + "<｜DSML｜inv");
  fails(open + "<｜DSML｜invoke name=\"f");
  fails(invoke, "0 f|");
  fails(invoke + parameter + "x", "0 f|");
  fails(invoke + parameter + "x</｜DSML｜param", "0 f|");
  fails(invoke + parameter + "x</｜DSML｜parameter>", "0 f|");
  fails(invoke + "</｜DSML｜invoke>\n", "0 f|{}|");
  fails(invoke + parameter + "x</｜DSML｜parameter>" + parameter, "0 f|");  // a name twice
  fails(open + "<｜DSML｜invoke name=\"\">");
  fails(open + "<｜DSML｜invoke>");
  fails(open + "<｜DSML｜invoke name=\"f\" string=\"true\">");
  fails(open + "<｜DSML｜invoke name=\"f\" name=\"g\">");
  fails(open + "<｜DSML｜invoke name=\"f\" id=\"1\">");
  fails(open + "<｜DSML｜invoke name=\"f\"name=\"g\">");
  fails(open + "<｜DSML｜invoke name=\"a\n");
  fails(invoke + "<｜DSML｜parameter name=\"a\" string=\"yes\">", "0 f|");
  fails(invoke + "<｜DSML｜parameter string=\"true\">", "0 f|");
  fails(invoke + "</｜DSML｜invoke x", "0 f|");

  // What breaks a block and everything behind it is text of its own.
  EXPECT_EQ(told(open + "</｜DSML｜tool_calls>"), "FAILED:" + open + "|T:</｜DSML｜tool_calls>|");
  EXPECT_EQ(told("<tool_calls> are tags"), "FAILED:<tool_calls> |T:are tags|");
  EXPECT_EQ(told(invoke + "prose</｜DSML｜invoke>"), "0 f|FAILED:" + invoke + "|T:prose</｜DSML｜invoke>|");
  EXPECT_EQ(told(open + "<invoke name=\"f\">"), "FAILED:" + open + "|T:<invoke name=\"f\">|");
  EXPECT_EQ(told_thinking(open + "x</think>y"), "FAILED in R:" + open + "|R:x|T:y|");
}

TEST(OutputParser, ACompleteBlockMayFollowABrokenOne) {
  EXPECT_EQ(told("<｜DSML｜tool_calls>" + kCall), "FAILED:<｜DSML｜tool_calls>|0 f|{\"a\": \"x\"}|block|");
  const std::string broken = "<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\"> ";
  EXPECT_EQ(told(broken + kCall), "0 f|FAILED:" + broken + "|1 f|{\"a\": \"x\"}|block|");
  const std::string in_tag = "<｜DSML｜tool_calls><｜DSML｜invoke ";
  EXPECT_EQ(told(in_tag + kCall), "FAILED:" + in_tag + "|0 f|{\"a\": \"x\"}|block|");
}

TEST(OutputParser, ABlockHasALimit) {
  const std::string head = with_parameters("<｜DSML｜parameter name=\"a\">").substr(0, 85);
  for (const std::size_t limit : {20u, 60u, 200u}) {
    const std::string output = head + std::string(300, 'x') + "tail";
    const auto events = parse(output, {.max_block_bytes = limit});
    std::string failed, text;
    for (const Event& event : events) {
      if (event.kind == Event::Kind::kToolBlockFailed) failed = event.text;
      if (event.kind == Event::Kind::kText) text += event.text;
    }
    EXPECT_EQ(failed.size(), std::max<std::size_t>(limit, std::string("<｜DSML｜tool_calls>").size()));
    EXPECT_EQ(failed + text, output);
  }
  EXPECT_EQ(told(kCall, {.max_block_bytes = kCall.size()}), "0 f|{\"a\": \"x\"}|block|");
  EXPECT_EQ(told(kCall, {.max_block_bytes = kCall.size() - 1}).find("0 f|{\"a\": \"x\"}|FAILED:"), 0u);
}

TEST(OutputParser, TextIsAlwaysValidUtf8) {
  EXPECT_EQ(told("a\xE4\xB8"), "T:a\xEF\xBF\xBD|");
  EXPECT_EQ(told_thinking("a\xE4\xB8</think>b"), "R:a\xEF\xBF\xBD|T:b|");
  EXPECT_EQ(told(with_parameters("<｜DSML｜parameter name=\"\xFF\">\xE4</｜DSML｜parameter>")),
            "0 f|{\"\xEF\xBF\xBD\": \"\xEF\xBF\xBD\"}|block|");
  OutputParser parser({});
  EXPECT_TRUE(parser.feed("\xE4\xB8").empty());
  EXPECT_EQ(parser.feed("\xAD").at(0).text, "\u4e2d");
}

TEST(OutputParser, TheBlockIsKeptByteForByte) {
  OutputParser parser({});
  parser.feed("text\n\n" + with_parameters("<｜DSML｜parameter name=\"a\">\xFF</｜DSML｜parameter>") + "tail");
  EXPECT_TRUE(parser.tool_block_complete());
  const std::string block = "\n\n" + with_parameters("<｜DSML｜parameter name=\"a\">\xFF</｜DSML｜parameter>");
  EXPECT_EQ(parser.tool_block(), block);
  EXPECT_TRUE(parser.feed("more").empty());
  parser.finish();
  EXPECT_EQ(parser.tool_block(), block);
}

TEST(OutputParser, HoldsBackOnlyWhatMayBelongToATag) {
  OutputParser parser({});
  const auto fed = [&](std::string_view bytes) {
    std::string text;
    for (const Event& event : parser.feed(bytes)) text += event.text;
    return text;
  };
  EXPECT_EQ(fed("a"), "a");
  EXPECT_EQ(fed("\n\n"), "");
  EXPECT_EQ(fed("\n"), "\n");
  EXPECT_EQ(fed("<"), "");
  EXPECT_EQ(fed("b"), "\n\n<b");
  EXPECT_EQ(fed("<｜DSML｜tool_"), "");
  EXPECT_EQ(fed("x"), "<｜DSML｜tool_x");
  EXPECT_EQ(fed("<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\"><｜DSML｜parameter name=\"a\">"), "f{\"a\": \"");
  EXPECT_EQ(fed("val"), "val");
  EXPECT_EQ(fed("<"), "");
  EXPECT_EQ(fed("/b"), "</b");
}

TEST(OutputParser, TellsTheSamplerWhereItIs) {
  OutputParser parser({.thinking = true});
  const auto after = [&](std::string_view bytes) {
    parser.feed(bytes);
    std::string state;
    if (parser.in_thinking()) state += "thinking ";
    if (parser.inside_tool_structure()) state += "structure ";
    if (parser.inside_tool_value()) state += "value ";
    if (parser.tool_block_complete()) state += "complete ";
    return state;
  };
  EXPECT_EQ(after("hm"), "thinking ");
  EXPECT_EQ(after("</think>"), "");
  EXPECT_EQ(after("ok\n\n<"), "");
  EXPECT_EQ(after("｜DSML｜"), "structure ");
  EXPECT_EQ(after("tool_calls>\n<｜DSML｜invoke name=\"f\">\n"), "structure ");
  EXPECT_EQ(after("<｜DSML｜parameter name=\"a\" string=\"true\">"), "value ");
  EXPECT_EQ(after("some <text"), "value ");
  EXPECT_EQ(after("</"), "value ");
  EXPECT_EQ(after("｜DSML｜"), "structure ");
  EXPECT_EQ(after("parameter>"), "structure ");
  EXPECT_EQ(after("<｜DSML｜parameter name=\"b\" string=\"false\">"), "structure ");
  EXPECT_EQ(after("[1, \""), "value ");
  EXPECT_EQ(after("a\\\""), "value ");
  EXPECT_EQ(after("\", "), "structure ");
  EXPECT_EQ(after("2]</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜tool_calls>"), "complete ");
}

TEST(OutputParser, ManyParametersAndLargeValues) {
  std::string parameters;
  for (int i = 0; i < 20'000; ++i) {
    parameters += "<｜DSML｜parameter name=\"p" + std::to_string(i) + "\" string=\"false\">1</｜DSML｜parameter>\n";
  }
  parameters +=
      "<｜DSML｜parameter name=\"big\" string=\"true\">" + std::string(200'000, '<') + "</｜DSML｜parameter>\n";
  const auto events = parse(with_parameters(parameters), {.max_block_bytes = 100'000'000});
  ASSERT_GE(events.size(), 3u);
  EXPECT_EQ(events[events.size() - 2].kind, Event::Kind::kToolBlockEnd);
}

/// What render() writes for a call, the parser reads back.
TEST(OutputParser, ReadsWhatRenderWrites) {
  Message message = text_message(Role::kAssistant, "Checking.");
  message.reasoning = "Need data.";
  const std::string first = R"({"city": "Rome </parameter> &lt;", "days": 2, "f": 1e-07})";
  const std::string second = R"({"end": "a</｜DSML｜parameter>b", "opts": {"u": "C", "l": [1, 2]}, "none": null})";
  message.tool_calls = {{"a", "get_weather", first}, {"b", "g", second}, {"c", "h", "{}"}};
  message.without_eos = true;
  const auto prompt = render({text_message(Role::kUser, "go"), message}, {.thinking = Thinking::kThinking});
  ASSERT_TRUE(prompt.ok());
  std::string text = prompt_text(*prompt);
  text.erase(0, text.find(wire::kThink) + wire::kThink.size());
  EXPECT_EQ(told_thinking(text),
            "R:Need data.|T:Checking.|0 get_weather|" + first + "|1 g|" + second + "|2 h|{}|block|");
}

}  // namespace
}  // namespace ds4::chat
