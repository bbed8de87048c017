// Builds a Prompt: decides by the function that is called, never by content, what may become a control token.
// Neighbouring pieces of one kind are joined. One writer per prompt, one thread.
#pragma once

#include <string_view>

#include "tokenizer/segment.h"

namespace ds4::chat {

class PromptWriter {
 public:
  /// One added token, by its text.
  void marker(std::string_view token);
  /// Text of this program. The added tokens that occur in it (the DSML marker, <think>, </think>) become markers.
  void ours(std::string_view text);
  /// Text of the operator, who may write added tokens.
  void trusted(std::string_view text);
  /// Anybody's text.
  void untrusted(std::string_view text);
  /// Anybody's text, with every `from` in it replaced by `to`.
  void untrusted_replacing(std::string_view text, std::string_view from, std::string_view to);

  /// What the model wrote, as it was recorded.
  void segments(const Prompt& recorded);

  Prompt take() { return std::move(prompt_); }

 private:
  void add(SegmentKind kind, std::string_view text);

  Prompt prompt_;
};

}  // namespace ds4::chat
