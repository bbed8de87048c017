// A conversation as the callers of the chat layer describe it: roles, content blocks, calls, tasks. Plain values; JSON
// (schemas, arguments) is carried as text. Nothing here knows how the model spells it: render.h does.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tokenizer/segment.h"

namespace ds4::chat {

enum class Role { kSystem, kDeveloper, kUser, kAssistant, kTool, kLatestReminder };

/// One-token instructions that ask the model for something other than an answer.
enum class Task { kAction, kQuery, kAuthority, kDomain, kTitle, kReadUrl };

struct ContentBlock {
  enum class Kind {
    kText,          // text
    kToolResult,    // call_id and parts
    kExtractedUrl,  // text is a URL; rendered behind its control token, for Task::kReadUrl
    kUnsupported,   // text is the name of the type; rendered as "[Unsupported NAME]"
  };
  Kind kind = Kind::kText;
  std::string text;
  std::string call_id;
  std::vector<ContentBlock> parts;  // kText and kUnsupported only
};

struct ToolCall {
  std::string id;
  std::string name;       // not empty, no '"', no control bytes
  std::string arguments;  // JSON text of an object; anything else travels as one parameter named "arguments"
};

struct Message {
  Role role = Role::kUser;
  std::vector<ContentBlock> content;  // kToolResult and kExtractedUrl in user messages only

  std::string reasoning;             // assistant
  std::vector<ToolCall> tool_calls;  // assistant
  Prompt tool_block;                 // assistant: the calls exactly as the model wrote them; empty: written anew
  std::string call_id;               // tool: the call it answers
  std::vector<std::string> tools;    // system, developer: JSON text of each OpenAI `function` object
  std::string response_format;       // system, developer: JSON text of a schema; empty for none
  std::optional<Task> task;
  bool without_eos = false;  // assistant: the answer goes on, no end token behind it
};

using Conversation = std::vector<Message>;

/// A message that holds one text block.
[[nodiscard]] Message text_message(Role role, std::string text);
/// The answer of a tool to the call `call_id`.
[[nodiscard]] Message tool_message(std::string call_id, std::string text);
/// Puts `tools` on the system message that opens the conversation; adds an empty one when there is none.
void attach_tools(Conversation& conversation, std::vector<std::string> tools);

}  // namespace ds4::chat
