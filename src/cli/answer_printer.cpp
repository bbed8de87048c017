#include "cli/answer_printer.h"

namespace ds4::cli {

std::string without_controls(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (byte == 0x7F || (byte < 0x20 && byte != '\n' && byte != '\t')) {
      out += '^';
      out += static_cast<char>(byte ^ 0x40);
    } else if (byte == 0xC2 && next >= 0x80 && next < 0xA0) {  // U+0080 to U+009F: controls of eight-bit terminals
      out += '^';
      out += static_cast<char>(next - 0x40);
      ++i;
    } else {
      out += text[i];
    }
  }
  return out;
}

AnswerPrinter::AnswerPrinter(Console& console, const Tokenizer& tokenizer, bool thinking)
    : console_(console), tokenizer_(tokenizer), parser_(chat::OutputOptions{.thinking = thinking, .tools = false}) {}

void AnswerPrinter::token(TokenId token) { print(parser_.feed(tokenizer_.token_bytes(token))); }

void AnswerPrinter::finish() {
  print(parser_.finish());
  set_dim(false);
  if (line_open_) write("\n");
  console_.flush();
}

void AnswerPrinter::print(const std::vector<chat::Event>& events) {
  for (const chat::Event& event : events) {
    if (event.kind == chat::Event::Kind::kReasoning) {
      set_dim(true);
      reasoning_ += event.text;
      write(event.text);
    } else if (event.kind == chat::Event::Kind::kText) {
      if (text_.empty() && !reasoning_.empty()) {
        set_dim(false);
        if (line_open_) write("\n");
      }
      text_ += event.text;
      write(event.text);
    }
  }
  console_.flush();
}

void AnswerPrinter::set_dim(bool dim) {
  if (dim == dim_) return;
  dim_ = dim;
  if (console_.stdout_colour()) console_.out(dim ? "\x1b[2m" : "\x1b[0m");
}

void AnswerPrinter::write(std::string_view text) {
  if (text.empty()) return;
  console_.out(console_.stdout_tty() ? without_controls(text) : std::string(text));
  line_open_ = text.back() != '\n';
}

}  // namespace ds4::cli
