// The text being typed and the cursor in it. Moves by what a person sees as one character (grapheme clusters). Plain
// data, no terminal.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ds4::cli {

class LineBuffer {
 public:
  const std::string& text() const { return text_; }
  std::size_t cursor() const { return cursor_; }  // a byte offset, on the border of a character
  bool empty() const { return text_.empty(); }

  void set(std::string text);
  void insert(std::string_view bytes);

  void left();
  void right();
  void word_left();
  void word_right();
  /// To the borders of the line (of text between line feeds) that the cursor is in.
  void home();
  void end();
  /// To the same column of the line above or below; false when there is none.
  bool up();
  bool down();

  void erase_left();
  void erase_right();
  void erase_word();
  void erase_to_home();
  void erase_to_end();

 private:
  /// The column of the cursor, which moves to the start of its line.
  int column();
  void go_to(std::size_t line, int column);

  std::string text_;
  std::size_t cursor_ = 0;
};

/// The border of the character after, or before, the one at `at`.
std::size_t next_border(std::string_view text, std::size_t at);
std::size_t previous_border(std::string_view text, std::size_t at);

/// Columns that `text` (one line) takes on a terminal: wide characters two, combining ones none,
/// control characters one.
int display_width(std::string_view text);

}  // namespace ds4::cli
