// What comes from outside never changes the structure of a prompt: the markers and our own text are the same for any
// content, and a reader of the rendered prompt finds the turns and results that went in.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "chat/render.h"
#include "chat/wire_text.h"

namespace ds4::chat {
namespace {

/// Every special string, halves of them, tags, look-alikes, and ordinary text.
rc::Gen<std::string> hostile_text() {
  static const std::vector<std::string> kPieces = {"<｜begin▁of▁sentence｜>",
                                                   "<｜end▁of▁sentence｜>",
                                                   "<｜User｜>",
                                                   "<｜Assistant｜>",
                                                   "<｜latest_reminder｜>",
                                                   "<｜extracted_url｜>",
                                                   "<｜action｜>",
                                                   "<｜query｜>",
                                                   "<｜title｜>",
                                                   "<think>",
                                                   "</think>",
                                                   "｜DSML｜",
                                                   "<dsml:",
                                                   "</dsml:",
                                                   "<|EOT|>",
                                                   "<｜image｜>",
                                                   "<|User|>",
                                                   "＜｜User｜＞",
                                                   "<th",
                                                   "ink>",
                                                   "</th",
                                                   "<｜",
                                                   "｜>",
                                                   "<",
                                                   ">",
                                                   "｜",
                                                   "DSML",
                                                   "</tool_result>",
                                                   "<tool_result>",
                                                   "</tool_",
                                                   "result>",
                                                   "\n\n",
                                                   "\n\n<｜DSML｜tool_calls>\n",
                                                   "</｜DSML｜parameter>",
                                                   "&lt;",
                                                   "\"",
                                                   "\\",
                                                   " ",
                                                   "a",
                                                   "ü",
                                                   "\xF0\x9F",
                                                   "\xFF",
                                                   "{",
                                                   "}",
                                                   "plain words"};
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(kPieces)),
                      [](const std::vector<std::string>& pieces) {
                        std::string text;
                        for (const std::string& piece : pieces) text += piece;
                        return text;
                      });
}

/// The same conversation for any `fill`: only the contents differ.
template <typename Fill>
Conversation conversation_of(const std::vector<int>& shape, const Fill& fill) {
  Conversation conversation;
  for (const int kind : shape) {
    static constexpr Role kRoles[] = {Role::kSystem,    Role::kUser,           Role::kTool,     Role::kAssistant,
                                      Role::kAssistant, Role::kLatestReminder, Role::kDeveloper};
    Message message = text_message(kRoles[kind], fill());
    if (message.role == Role::kAssistant) message.reasoning = fill();
    if (kind == 4) message.tool_calls = {{"a", "f", fill()}, {"b", "g", fill()}};
    message.call_id = "b";
    conversation.push_back(std::move(message));
  }
  return conversation;
}

std::vector<PromptSegment> structure(const Prompt& prompt) {
  std::vector<PromptSegment> kept;
  for (const PromptSegment& segment : prompt) {
    if (segment.kind == SegmentKind::kUntrusted) continue;
    const bool joins = !kept.empty() && segment.kind == SegmentKind::kTrusted && kept.back().kind == segment.kind;
    if (joins) kept.back().bytes += segment.bytes;
    else kept.push_back(segment);
  }
  return kept;
}

RC_GTEST_PROP(RenderProperty, ContentsNeverBecomeStructure, ()) {
  const auto shape = *rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 7));
  const RenderOptions options{.thinking = *rc::gen::element(Thinking::kChat, Thinking::kThinking, Thinking::kMax),
                              .drop_thinking = *rc::gen::arbitrary<bool>()};
  const auto hostile = render(conversation_of(shape, [] { return "!" + *hostile_text(); }), options);
  const auto harmless = render(conversation_of(shape, [] { return std::string("!"); }), options);
  RC_ASSERT(hostile.ok() && harmless.ok());
  RC_ASSERT(structure(*hostile) == structure(*harmless));
}

/// Keys and string values of arguments, schemas, response formats: inside of JSON.
RC_GTEST_PROP(RenderProperty, JsonNeverBecomesStructure, ()) {
  const auto conversation_with = [](const std::string& key, const std::string& value) {
    const std::string json = "{\"k" + key + "\": \"v" + value + "\", \"n\": [\"" + value + "\"]}";
    Conversation conversation = {text_message(Role::kSystem, "S"), text_message(Role::kAssistant, "")};
    attach_tools(conversation, {json});
    conversation[0].response_format = json;
    conversation[1].tool_calls = {{"a", "f", json}};
    return conversation;
  };
  const auto in_json = [](std::string text) {
    std::erase_if(
        text, [](char c) { return c == '"' || c == '\\' || c == '\n' || c == '\xFF' || c == '\xF0' || c == '\x9F'; });
    return text;
  };
  const auto hostile = render(conversation_with(in_json(*hostile_text()), in_json(*hostile_text())), {});
  const auto harmless = render(conversation_with("", ""), {});
  RC_ASSERT(hostile.ok() && harmless.ok());
  RC_ASSERT(structure(*hostile) == structure(*harmless));
}

/// Reads a rendered prompt back: per turn its role marker, and within user turns the tool results by their tags.
struct ReadTurn {
  std::string role;
  std::string text;
};

std::vector<ReadTurn> read_turns(const Prompt& prompt) {
  std::vector<ReadTurn> turns;
  for (const PromptSegment& segment : prompt) {
    const bool opens =
        segment.kind == SegmentKind::kMarker && (segment.bytes == wire::kUser || segment.bytes == wire::kAssistant);
    if (opens) turns.push_back({segment.bytes, ""});
    else if (!turns.empty()) turns.back().text += segment.bytes;
  }
  return turns;
}

RC_GTEST_PROP(RenderProperty, ToolResultsAreInert, ()) {
  const auto results = *rc::gen::nonEmpty(rc::gen::container<std::vector<std::string>>(hostile_text()));
  Conversation conversation = {text_message(Role::kUser, "go"), text_message(Role::kAssistant, "on")};
  for (const std::string& result : results) conversation.push_back(tool_message("x", result));
  const auto prompt = render(conversation, {});
  RC_ASSERT(prompt.ok());
  const auto turns = read_turns(*prompt);
  RC_ASSERT(turns.size() == 4u);
  RC_ASSERT(turns[2].role == wire::kUser);

  std::string_view rest = turns[2].text;
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (i > 0) {
      RC_ASSERT(rest.substr(0, 2) == "\n\n");
      rest.remove_prefix(2);
    }
    RC_ASSERT(rest.substr(0, wire::kToolResultOpen.size()) == wire::kToolResultOpen);
    const std::size_t end = rest.find(wire::kToolResultClose);
    RC_ASSERT(end != std::string_view::npos);
    rest.remove_prefix(end + wire::kToolResultClose.size());
  }
  RC_ASSERT(rest.empty());
}

}  // namespace
}  // namespace ds4::chat
