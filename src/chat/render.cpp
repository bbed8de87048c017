#include "chat/render.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/text.h"
#include "chat/prompt_writer.h"
#include "chat/python_json.h"
#include "chat/turns.h"
#include "chat/wire_text.h"

namespace ds4::chat {

namespace {

using Kind = ContentBlock::Kind;

std::string_view task_token(Task task) {
  switch (task) {
    case Task::kAction: return wire::kAction;
    case Task::kQuery: return wire::kQuery;
    case Task::kAuthority: return wire::kAuthority;
    case Task::kDomain: return wire::kDomain;
    case Task::kTitle: return wire::kTitle;
    case Task::kReadUrl: return wire::kReadUrl;
  }
  return {};
}

/// A name inside name="...": nothing in it may end the attribute.
bool fits_attribute(std::string_view name) {
  for (const char c : name) {
    if (c == '"' || static_cast<unsigned char>(c) < 0x20) return false;
  }
  return true;
}

class Renderer {
 public:
  Renderer(Conversation turns, const RenderOptions& options, bool dropping)
      : turns_(std::move(turns)),
        thinks_(options.thinking != Thinking::kChat),
        dropping_(dropping),
        trusts_system_(options.trust_system_text),
        last_user_(last_user_index(turns_)) {}

  Result<Prompt> run(bool max_effort) {
    out_.marker(wire::kBos);
    if (max_effort) out_.ours(wire::kMaxEffort);
    for (std::size_t i = 0; i < turns_.size(); ++i) {
      DS4_RETURN_IF_ERROR(message(i));
      const bool last = i + 1 == turns_.size();
      if (last || turns_[i + 1].role == Role::kAssistant || turns_[i + 1].role == Role::kLatestReminder) transition(i);
    }
    return out_.take();
  }

 private:
  Status message(std::size_t i) {
    const Message& turn = turns_[i];
    switch (turn.role) {
      case Role::kSystem: DS4_RETURN_IF_ERROR(plain_text(turn, "a system", trusts_system_)); return instructions(turn);
      case Role::kDeveloper:
        out_.marker(wire::kUser);
        DS4_RETURN_IF_ERROR(plain_text(turn, "a developer", trusts_system_));
        return instructions(turn);
      case Role::kUser: out_.marker(wire::kUser); return blocks(turn.content);
      case Role::kLatestReminder: out_.marker(wire::kLatestReminder); return plain_text(turn, "a reminder", false);
      case Role::kAssistant: return assistant(i);
      case Role::kTool: break;  // merge_turns leaves none
    }
    DS4_CHECK(turn.role != Role::kTool);
    return {};
  }

  Status plain_text(const Message& turn, std::string_view what, bool trusted) {
    for (const ContentBlock& block : turn.content) {
      if (block.kind != Kind::kText) {
        return Error{ErrorCode::kUsage, cat("the content of ", what, " message: expected text only")};
      }
      if (trusted) out_.trusted(block.text);
      else out_.untrusted(block.text);
    }
    return {};
  }

  /// The tools block and the response format, which follow the text of system and developer messages.
  Status instructions(const Message& turn) {
    if (!turn.tools.empty()) {
      out_.ours("\n\n");
      out_.ours(wire::kToolsBeforeSchemas);
      for (std::size_t i = 0; i < turn.tools.size(); ++i) {
        if (i > 0) out_.ours("\n");
        DS4_RETURN_IF_ERROR(json(turn.tools[i], "the schema of a tool"));
      }
      out_.ours(wire::kToolsAfterSchemas);
    }
    if (!turn.response_format.empty()) {
      out_.ours("\n\n");
      out_.ours(wire::kBeforeResponseFormat);
      DS4_RETURN_IF_ERROR(json(turn.response_format, "the response format"));
    }
    return {};
  }

  Status json(std::string_view text, std::string_view what) {
    auto printed = python_json(text);
    if (!printed.ok()) return Error{ErrorCode::kUsage, cat(what, ": ", printed.error().message)};
    out_.untrusted(*printed);
    return {};
  }

  Status blocks(const std::vector<ContentBlock>& content) {
    for (std::size_t i = 0; i < content.size(); ++i) {
      if (i > 0) out_.ours("\n\n");
      const ContentBlock& block = content[i];
      switch (block.kind) {
        case Kind::kText: out_.untrusted(block.text); break;
        case Kind::kUnsupported: unsupported(block); break;
        case Kind::kExtractedUrl:
          out_.marker(wire::kExtractedUrl);
          out_.untrusted(block.text);
          break;
        case Kind::kToolResult: DS4_RETURN_IF_ERROR(tool_result(block)); break;
      }
    }
    return {};
  }

  void unsupported(const ContentBlock& block) {
    out_.ours("[Unsupported ");
    out_.untrusted(block.text);
    out_.ours("]");
  }

  /// The tags are ordinary text, so a closing tag inside of the result would end it: that one string is escaped.
  Status tool_result(const ContentBlock& block) {
    std::string text;  // joined first: a closing tag may be cut in two by the parts
    for (std::size_t i = 0; i < block.parts.size(); ++i) {
      const ContentBlock& part = block.parts[i];
      if (i > 0) text += "\n\n";
      if (part.kind == Kind::kText) {
        text += part.text;
      } else if (part.kind == Kind::kUnsupported) {
        text += cat("[Unsupported ", part.text, "]");
      } else {
        return Error{ErrorCode::kUsage, "a part of a tool result: expected text, found another tool result or a URL"};
      }
    }
    out_.ours(wire::kToolResultOpen);
    out_.untrusted_replacing(text, wire::kToolResultClose, wire::kToolResultCloseEscaped);
    out_.ours(wire::kToolResultClose);
    return {};
  }

  Status assistant(std::size_t i) {
    const Message& turn = turns_[i];
    const bool answers_task = i > 0 && turns_[i - 1].task.has_value();
    if (thinks_ && !answers_task && (!dropping_ || static_cast<std::ptrdiff_t>(i) > last_user_)) {
      out_.untrusted(turn.reasoning);
      out_.marker(wire::kEndThink);
    }
    DS4_RETURN_IF_ERROR(plain_text(turn, "an assistant", false));
    if (!turn.tool_block.empty()) {
      out_.segments(turn.tool_block);
    } else if (!turn.tool_calls.empty()) {
      DS4_RETURN_IF_ERROR(calls(turn.tool_calls));
    }
    if (!turn.without_eos) out_.marker(wire::kEos);
    return {};
  }

  Status calls(const std::vector<ToolCall>& tool_calls) {
    out_.ours("\n\n<｜DSML｜tool_calls>\n");
    for (std::size_t i = 0; i < tool_calls.size(); ++i) {
      const ToolCall& call = tool_calls[i];
      if (call.name.empty() || !fits_attribute(call.name)) {
        return Error{ErrorCode::kUsage, cat("the name of a tool call: expected text without quotes and control bytes, "
                                            "found \"",
                                            escaped(call.name), "\"")};
      }
      if (i > 0) out_.ours("\n");
      out_.ours("<｜DSML｜invoke name=\"");
      out_.untrusted(call.name);
      out_.ours("\">\n");
      parameters(call.arguments);
      out_.ours("\n</｜DSML｜invoke>");
    }
    out_.ours("\n</｜DSML｜tool_calls>");
    return {};
  }

  void parameters(const std::string& arguments) {
    auto split = split_arguments(arguments);
    bool writable = split.ok();
    if (writable) {
      for (const Argument& argument : *split) writable = writable && fits_attribute(argument.name);
    }
    if (!writable) return parameter({"arguments", true, arguments});
    for (std::size_t i = 0; i < split->size(); ++i) {
      if (i > 0) out_.ours("\n");
      parameter((*split)[i]);
    }
  }

  void parameter(const Argument& argument) {
    out_.ours("<｜DSML｜parameter name=\"");
    out_.untrusted(argument.name);
    out_.ours(argument.is_string ? "\" string=\"true\">" : "\" string=\"false\">");
    out_.untrusted_replacing(argument.value, wire::kParameterClose, wire::kParameterCloseEscaped);
    out_.ours(wire::kParameterClose);
  }

  /// What hands the word to the model behind turn i.
  void transition(std::size_t i) {
    const Message& turn = turns_[i];
    if (turn.task && *turn.task != Task::kAction) return out_.marker(task_token(*turn.task));
    if (turn.task) {
      out_.marker(wire::kAssistant);
      out_.marker(thinks_ ? wire::kThink : wire::kEndThink);
      return out_.marker(wire::kAction);
    }
    if (turn.role != Role::kUser && turn.role != Role::kDeveloper) return;
    out_.marker(wire::kAssistant);
    const bool think = thinks_ && (!dropping_ || static_cast<std::ptrdiff_t>(i) >= last_user_);
    out_.marker(think ? wire::kThink : wire::kEndThink);
  }

  Conversation turns_;
  bool thinks_;
  bool dropping_;
  bool trusts_system_;
  std::ptrdiff_t last_user_;
  PromptWriter out_;
};

}  // namespace

Result<Prompt> render(const Conversation& conversation, const RenderOptions& options) {
  Conversation turns = merge_turns(conversation);
  bool dropping = options.drop_thinking;
  for (const Message& turn : turns) dropping = dropping && turn.tools.empty();
  if (dropping && options.thinking != Thinking::kChat) turns = drop_old_thinking(std::move(turns));
  return Renderer(std::move(turns), options, dropping).run(options.thinking == Thinking::kMax);
}

bool opens_thinking(const Prompt& prompt) {
  return !prompt.empty() && prompt.back() == PromptSegment{SegmentKind::kMarker, std::string(wire::kThink)};
}

std::string prompt_text(const Prompt& prompt) {
  std::string text;
  for (const PromptSegment& segment : prompt) text += segment.bytes;
  return text;
}

}  // namespace ds4::chat
