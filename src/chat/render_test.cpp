#include "chat/render.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "chat/wire_text.h"

namespace ds4::chat {
namespace {

std::string rendered(const Conversation& conversation, Thinking thinking = Thinking::kChat, bool drop = true) {
  const auto prompt = render(conversation, {.thinking = thinking, .drop_thinking = drop});
  EXPECT_TRUE(prompt.ok()) << prompt.error().message;
  return prompt.ok() ? prompt_text(*prompt) : "";
}

/// The short forms of spec 7.4: "B", "E", "U", "A", "LR" between spaces are tokens; spaces are only for reading.
std::string expand(std::string_view table) {
  std::string out;
  while (!table.empty()) {
    const std::size_t space = std::min(table.find(' '), table.size());
    const std::string_view word = table.substr(0, space);
    table.remove_prefix(std::min(space + 1, table.size()));
    if (word == "B") out += wire::kBos;
    else if (word == "E") out += wire::kEos;
    else if (word == "U") out += wire::kUser;
    else if (word == "A") out += wire::kAssistant;
    else if (word == "LR") out += wire::kLatestReminder;
    else out += word;
  }
  return out;
}

Message user(std::string text) { return text_message(Role::kUser, std::move(text)); }
Message system(std::string text) { return text_message(Role::kSystem, std::move(text)); }
Message assistant(std::string reasoning, std::string text) {
  Message message = text_message(Role::kAssistant, std::move(text));
  message.reasoning = std::move(reasoning);
  return message;
}
Message with_task(Message message, Task task) {
  message.task = task;
  return message;
}

const char kTool[] = R"({"name":"get_weather","parameters":{"type":"object","properties":{"city":{"type":"string"}}}})";
const char kToolPrinted[] =
    R"({"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}})";

Conversation weather() {
  Conversation conversation{system("Be brief."), user("Rome?"), assistant("Need data.", "Checking.")};
  attach_tools(conversation, {kTool});
  conversation[2].tool_calls = {{"a", "get_weather", R"({"city": "Rome", "days": 2})"},
                                {"b", "get_weather", R"({"city":"Bari","opts":{"u":"C","l":[1,2]}})"}};
  conversation.push_back(tool_message("b", R"({"t":19})"));
  conversation.push_back(tool_message("a", R"({"t":21})"));
  return conversation;
}

TEST(Render, WorkedExample) {
  const std::string expected = std::string(wire::kBos) + "Be brief.\n\n" + std::string(wire::kToolsBeforeSchemas) +
                               kToolPrinted + std::string(wire::kToolsAfterSchemas) +
                               R"(<｜User｜>Rome?<｜Assistant｜><think>Need data.</think>Checking.

<｜DSML｜tool_calls>
<｜DSML｜invoke name="get_weather">
<｜DSML｜parameter name="city" string="true">Rome</｜DSML｜parameter>
<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>
</｜DSML｜invoke>
<｜DSML｜invoke name="get_weather">
<｜DSML｜parameter name="city" string="true">Bari</｜DSML｜parameter>
<｜DSML｜parameter name="opts" string="false">{"u": "C", "l": [1, 2]}</｜DSML｜parameter>
</｜DSML｜invoke>
</｜DSML｜tool_calls><｜end▁of▁sentence｜><｜User｜><tool_result>{"t":21}</tool_result>

<tool_result>{"t":19}</tool_result><｜Assistant｜><think>)";
  EXPECT_EQ(rendered(weather(), Thinking::kThinking), expected);
}

TEST(Render, VerifiedRenderings) {
  using enum Thinking;
  const Conversation two = {system("S"), user("U1"), assistant("R1", "A1"), user("U2")};
  EXPECT_EQ(rendered(two, kThinking), expand("B S U U1 A </think> A1 E U U2 A <think>"));
  EXPECT_EQ(rendered(two, kChat), expand("B S U U1 A </think> A1 E U U2 A </think>"));
  EXPECT_EQ(rendered(two, kThinking, false), expand("B S U U1 A <think> R1 </think> A1 E U U2 A <think>"));

  const Conversation action = {with_task(user("U1"), Task::kAction)};
  EXPECT_EQ(rendered(action, kChat), expand("B U U1 A </think><｜action｜>"));
  EXPECT_EQ(rendered(action, kThinking), expand("B U U1 A <think><｜action｜>"));

  EXPECT_EQ(rendered({user("U1"), with_task(assistant("", "A1"), Task::kTitle)}),
            expand("B U U1 A </think> A1 E <｜title｜>"));
  EXPECT_EQ(rendered({text_message(Role::kLatestReminder, "D"), user("U1")}), expand("B LR D U U1 A </think>"));
  EXPECT_EQ(rendered({with_task(user("U1"), Task::kQuery), assistant("", "q1")}, kThinking),
            expand("B U U1 <｜query｜> q1 E"));
  EXPECT_EQ(rendered({user("U1"), user("U2")}), expand("B U U1\n\nU2 A </think>"));
  EXPECT_EQ(rendered({user("U1"), system("S2"), user("U2")}), expand("B U U1 S2 U U2 A </think>"));
}

TEST(Render, Transitions) {
  using enum Thinking;
  EXPECT_EQ(rendered({user("U1"), text_message(Role::kLatestReminder, "D")}), expand("B U U1 A </think> LR D"));
  EXPECT_EQ(rendered({user("U1"), system("S2")}), expand("B U U1 S2"));
  EXPECT_EQ(rendered({with_task(user("U1"), Task::kDomain), user("U2")}), expand("B U U1 U U2 A </think>"));
  EXPECT_EQ(rendered({user("U1"), assistant("R", "A1")}, kThinking), expand("B U U1 A <think> R </think> A1 E"));

  Message open = assistant("", "A1");
  open.without_eos = true;
  EXPECT_EQ(rendered({user("U1"), open}), expand("B U U1 A </think> A1"));

  Message url = with_task(user("Read"), Task::kReadUrl);
  url.content.push_back({ContentBlock::Kind::kExtractedUrl, "http://x", {}, {}});
  EXPECT_EQ(rendered({url}), expand("B U Read\n\n<｜extracted_url｜>http://x <｜read_url｜>"));
}

TEST(Render, DroppingForgetsOldDeveloperMessagesAndReasoning) {
  using enum Thinking;
  const Conversation conversation = {text_message(Role::kDeveloper, "D1"), assistant("R1", "A1"), user("U2"),
                                     assistant("R2", "A2")};
  EXPECT_EQ(rendered(conversation, kThinking), expand("B A1 E U U2 A <think> R2 </think> A2 E"));
  EXPECT_EQ(rendered(conversation, kThinking, false),
            expand("B U D1 A <think> R1 </think> A1 E U U2 A <think> R2 </think> A2 E"));
  EXPECT_EQ(rendered({text_message(Role::kDeveloper, "D1")}, kThinking), expand("B U D1 A <think>"));
  EXPECT_EQ(rendered(conversation, kChat), expand("B U D1 A </think> A1 E U U2 A </think> A2 E"));
}

TEST(Render, MaxEffortStandsBehindBos) {
  EXPECT_EQ(rendered({system("S"), user("U1")}, Thinking::kMax),
            std::string(wire::kBos) + std::string(wire::kMaxEffort) + expand("S U U1 A <think>"));
}

TEST(Render, ResponseFormatFollowsTheTools) {
  Message message = text_message(Role::kDeveloper, "D");
  message.response_format = R"({"type":"object"})";
  const std::string format =
      "\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n{\"type\": \"object\"}";
  EXPECT_EQ(rendered({message}), expand("B U D") + format + expand("A </think>"));
  message.tools = {R"({"name":"t"})", R"({"name":"u"})"};
  EXPECT_EQ(rendered({message}), expand("B U D") + "\n\n" + std::string(wire::kToolsBeforeSchemas) +
                                     "{\"name\": \"t\"}\n{\"name\": \"u\"}" + std::string(wire::kToolsAfterSchemas) +
                                     format + expand("A </think>"));
}

TEST(Render, ToolMessagesJoinTheUserTurn) {
  Conversation conversation = {assistant("", ""), tool_message("y", "2"), user("and"), tool_message("x", "1"),
                               tool_message("?", "0")};
  conversation[0].tool_calls = {{"x", "f", "{}"}, {"y", "f", "{}"}};
  const std::string text = rendered(conversation);
  const std::string turn = text.substr(text.rfind(wire::kUser));
  EXPECT_EQ(turn, expand("U <tool_result>1</tool_result>\n\nand\n\n<tool_result>0</tool_result>\n\n"
                         "<tool_result>2</tool_result> A </think>"));

  Message parts = tool_message("x", "one");
  parts.content.push_back({ContentBlock::Kind::kUnsupported, "image", {}, {}});
  parts.content.push_back({ContentBlock::Kind::kText, "two", {}, {}});
  EXPECT_EQ(rendered({parts}),
            expand("B U") + "<tool_result>one\n\n[Unsupported image]\n\ntwo</tool_result>" + expand("A </think>"));
}

TEST(Render, Calls) {
  Message call = assistant("", "");
  call.without_eos = true;
  const auto block = [&](std::string arguments) {
    call.tool_calls = {{"x", "f", std::move(arguments)}};
    return rendered({call}).substr(wire::kBos.size());
  };
  const auto around = [](const std::string& parameters) {
    return "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"f\">\n" + parameters +
           "\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>";
  };
  const auto raw = [&](const std::string& text) {
    return around("<｜DSML｜parameter name=\"arguments\" string=\"true\">" + text + "</｜DSML｜parameter>");
  };
  EXPECT_EQ(block("{}"), around(""));
  EXPECT_EQ(block(R"({"x":1e-7,"é":"ü\n<b>"})"),
            around("<｜DSML｜parameter name=\"x\" string=\"false\">1e-07</｜DSML｜parameter>\n"
                   "<｜DSML｜parameter name=\"é\" string=\"true\">ü\n<b></｜DSML｜parameter>"));
  for (const char* text : {"", "{bad", "[1]", "{\"a\":1,\"a\":2}", "{\"a\\\"b\":1}"}) EXPECT_EQ(block(text), raw(text));
  EXPECT_EQ(block(R"({"a":"</｜DSML｜parameter>"})"),
            around("<｜DSML｜parameter name=\"a\" string=\"true\">&lt;/｜DSML｜parameter></｜DSML｜parameter>"));
}

TEST(Render, Segments) {
  const auto prompt = render(weather(), {.thinking = Thinking::kThinking});
  ASSERT_TRUE(prompt.ok());
  const Prompt expected_start = {{SegmentKind::kMarker, std::string(wire::kBos)},
                                 {SegmentKind::kUntrusted, "Be brief."}};
  EXPECT_TRUE(std::equal(expected_start.begin(), expected_start.end(), prompt->begin()));
  // From the call's opening on: the bracket and the words are text, the marker is a token, the value is untrusted.
  std::size_t at = 0;
  while ((*prompt)[at].bytes != "Checking.") ++at;
  const Prompt call = {{SegmentKind::kTrusted, "\n\n<"},
                       {SegmentKind::kMarker, "｜DSML｜"},
                       {SegmentKind::kTrusted, "tool_calls>\n<"},
                       {SegmentKind::kMarker, "｜DSML｜"},
                       {SegmentKind::kTrusted, "invoke name=\""},
                       {SegmentKind::kUntrusted, "get_weather"},
                       {SegmentKind::kTrusted, "\">\n<"},
                       {SegmentKind::kMarker, "｜DSML｜"},
                       {SegmentKind::kTrusted, "parameter name=\""},
                       {SegmentKind::kUntrusted, "city"},
                       {SegmentKind::kTrusted, "\" string=\"true\">"},
                       {SegmentKind::kUntrusted, "Rome"},
                       {SegmentKind::kTrusted, "</"},
                       {SegmentKind::kMarker, "｜DSML｜"}};
  for (std::size_t i = 0; i < call.size(); ++i) EXPECT_EQ((*prompt)[at + 1 + i], call[i]) << i;
  EXPECT_TRUE(opens_thinking(*prompt));
}

TEST(Render, SystemTextIsTrustedOnRequestOnly) {
  const Conversation conversation = {system("S<think>"), user("<think>")};
  const auto kind_of = [&](bool trust, std::string_view bytes) {
    const auto prompt = render(conversation, {.trust_system_text = trust});
    for (const PromptSegment& segment : *prompt) {
      if (segment.bytes == bytes) return segment.kind;
    }
    return SegmentKind::kMarker;
  };
  EXPECT_EQ(kind_of(false, "S<think>"), SegmentKind::kUntrusted);
  EXPECT_EQ(kind_of(true, "S<think>"), SegmentKind::kTrusted);
  EXPECT_EQ(kind_of(true, "<think>"), SegmentKind::kUntrusted);
  EXPECT_FALSE(opens_thinking({{SegmentKind::kUntrusted, "<think>"}}));
}

TEST(Render, Errors) {
  const auto message_of = [](const Conversation& conversation) {
    const auto prompt = render(conversation, {});
    return prompt.ok() ? "no error" : prompt.error().message;
  };
  Conversation tools = {system("S")};
  attach_tools(tools, {"{\"name\": }"});
  EXPECT_EQ(message_of(tools).find("the schema of a tool: no JSON at byte 10"), 0u) << message_of(tools);
  Message call = assistant("", "");
  call.tool_calls = {{"x", "a\"b", "{}"}};
  EXPECT_EQ(message_of({call}),
            "the name of a tool call: expected text without quotes and control bytes, "
            "found \"a\\x22b\"");
  call.tool_calls = {{"x", "", "{}"}};
  EXPECT_NE(message_of({call}), "no error");
  Message nested = system("S");
  nested.content.push_back({ContentBlock::Kind::kToolResult, "", "x", {}});
  EXPECT_EQ(message_of({nested}), "the content of a system message: expected text only");
}

TEST(Render, AttachToolsOpensTheConversationWithASystemMessage) {
  Conversation conversation = {user("U1")};
  attach_tools(conversation, {kTool});
  EXPECT_EQ(rendered(conversation), std::string(wire::kBos) + "\n\n" + std::string(wire::kToolsBeforeSchemas) +
                                        kToolPrinted + std::string(wire::kToolsAfterSchemas) +
                                        expand("U U1 A </think>"));
}

std::uint64_t fnv1a(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

/// The sums were taken from the text of the specification, not from this program.
TEST(WireText, IsByteExact) {
  EXPECT_EQ(wire::kMaxEffort.size(), 476u);
  EXPECT_EQ(fnv1a(wire::kMaxEffort), 0x2923c4c9fd327036u);
  const std::string tools = std::string(wire::kToolsBeforeSchemas) + "{}" + std::string(wire::kToolsAfterSchemas);
  EXPECT_EQ(tools.size(), 991u);
  EXPECT_EQ(fnv1a(tools), 0x1d0ec588a271f069u);
}

}  // namespace
}  // namespace ds4::chat
