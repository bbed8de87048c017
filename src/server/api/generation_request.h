// What a request asks for, whatever dialect it came in. JSON stops here: dialects make it, the service runs it.
// Plain values; absent means the server's default.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "chat/message.h"
#include "chat/render.h"

namespace ds4::server {

enum class Dialect { kChat, kCompletions, kResponses, kMessages };

/// How a call is to be reported.
struct ToolKind {
  std::string space, name;  // of a namespace; `space` may be empty
  bool custom = false;      // takes one free text, "input"
};

enum class ToolUse { kAuto, kNone, kRequired, kNamed };

struct GenerationRequest {
  Dialect dialect = Dialect::kChat;
  std::string model;

  // One of the three is the prompt.
  chat::Conversation conversation;
  std::optional<std::string> text;  // to be continued as it is
  std::optional<std::vector<std::int64_t>> tokens;

  std::vector<std::string> tool_names;  // of the tools on the conversation, in order; empty: none
  ToolUse tool_use = ToolUse::kAuto;
  std::string tool_name;  // kNamed
  bool parallel_calls = true;

  std::optional<chat::Thinking> thinking;
  std::optional<double> temperature, top_p, min_p;
  std::optional<std::int64_t> top_k, seed;
  double presence_penalty = 0, frequency_penalty = 0, repetition_penalty = 1;
  std::vector<std::pair<std::int64_t, double>> logit_bias;
  std::optional<std::int64_t> max_tokens;
  std::vector<std::string> stop;

  bool stream = false;
  bool include_usage = false;                  // chat, completions: a chunk with the usage at the end of a stream
  bool reasoning_summary = false;              // responses: show the reasoning
  bool reasoning_sealed = false;               // responses: give it away to be brought back
  std::map<std::string, ToolKind> tool_kinds;  // responses: tools that are not plain functions, by name in the prompt
  bool logprobs = false;
  int top_logprobs = 0;

  std::vector<std::string> unknown_fields;  // accepted, and without effect
};

}  // namespace ds4::server
