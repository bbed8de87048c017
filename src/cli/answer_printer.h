// Prints one answer while it is made: thinking first (dimmed on a terminal), then the text, as the tokens come in.
// On a terminal, control bytes of the model are shown, not obeyed. One per answer, one thread.
#pragma once

#include <string>
#include <string_view>

#include "chat/output_parser.h"
#include "cli/console.h"
#include "engine/engine.h"

namespace ds4::cli {

/// `text` with every control character but line feed and tab made visible ("^[" for escape).
std::string without_controls(std::string_view text);

class AnswerPrinter {
 public:
  /// `thinking`: the prompt ended inside <think>.
  AnswerPrinter(Console& console, const Tokenizer& tokenizer, bool thinking);

  void token(TokenId token);
  /// Releases what was held back and ends the last line.
  void finish();

  const std::string& reasoning() const { return reasoning_; }
  const std::string& text() const { return text_; }

 private:
  void print(const std::vector<chat::Event>& events);
  void set_dim(bool dim);
  void write(std::string_view text);

  Console& console_;
  const Tokenizer& tokenizer_;
  chat::OutputParser parser_;
  std::string reasoning_;
  std::string text_;
  bool dim_ = false;
  bool line_open_ = false;
};

}  // namespace ds4::cli
