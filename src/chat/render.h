// A conversation rendered for the model (spec 7): typed segments whose bytes, joined, are the official encoder's
// string. Structure is markers and our own text; everything that came from a message is kUntrusted and can spell any
// control token without becoming one. Pure functions, linear in the conversation.
#pragma once

#include "base/result.h"
#include "chat/message.h"
#include "tokenizer/segment.h"

namespace ds4::chat {

enum class Thinking { kChat, kThinking, kMax };

struct RenderOptions {
  Thinking thinking = Thinking::kChat;
  /// Leave out the reasoning of earlier turns. Never done when a message carries tools.
  bool drop_thinking = true;
  /// System texts come from the operator: added tokens in them count.
  bool trust_system_text = false;
};

/// Errors (kUsage): a schema or response format that is not JSON, a call with a name that cannot be written (empty, or
/// with quotes or control bytes), a tool result outside of user messages.
[[nodiscard]] Result<Prompt> render(const Conversation& conversation, const RenderOptions& options);

/// Does the model's output begin inside thinking?
[[nodiscard]] bool opens_thinking(const Prompt& prompt);

/// The bytes of all segments, joined.
[[nodiscard]] std::string prompt_text(const Prompt& prompt);

}  // namespace ds4::chat
