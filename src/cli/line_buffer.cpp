#include "cli/line_buffer.h"

#include <utf8proc.h>

#include <algorithm>

namespace ds4::cli {

namespace {

struct CodePoint {
  utf8proc_int32_t value;
  std::size_t bytes;
};

/// Invalid bytes count as one code point of their own.
CodePoint code_point(std::string_view text, std::size_t at) {
  utf8proc_int32_t value = 0;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at);
  const auto length = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size() - at), &value);
  if (length <= 0) return {0xFFFD, 1};
  return {value, static_cast<std::size_t>(length)};
}

bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\t'; }

}  // namespace

std::size_t next_border(std::string_view text, std::size_t at) {
  if (at >= text.size()) return text.size();
  utf8proc_int32_t state = 0;
  CodePoint current = code_point(text, at);
  std::size_t next = at + current.bytes;
  while (next < text.size()) {
    const CodePoint following = code_point(text, next);
    if (utf8proc_grapheme_break_stateful(current.value, following.value, &state)) break;
    next += following.bytes;
    current = following;
  }
  return next;
}

std::size_t previous_border(std::string_view text, std::size_t at) {
  // Borders are found from the left; a line start is always one.
  const std::size_t newline = at == 0 ? std::string_view::npos : text.rfind('\n', at - 1);
  std::size_t border = newline == std::string_view::npos ? 0 : newline;
  while (true) {
    const std::size_t next = next_border(text, border);
    if (next >= at) return border;
    border = next;
  }
}

int display_width(std::string_view text) {
  int width = 0;
  for (std::size_t at = 0; at < text.size();) {
    // A cluster is as wide as its widest part: an emoji with modifiers is still one picture.
    const std::size_t next = next_border(text, at);
    int cluster = 0;
    while (at < next) {
      const CodePoint point = code_point(text, at);
      cluster = std::max(cluster, point.value < 0x20 ? 1 : utf8proc_charwidth(point.value));
      at += point.bytes;
    }
    width += cluster;
  }
  return width;
}

void LineBuffer::set(std::string text) {
  text_ = std::move(text);
  cursor_ = text_.size();
}

void LineBuffer::insert(std::string_view bytes) {
  text_.insert(cursor_, bytes);
  cursor_ += bytes.size();
}

void LineBuffer::left() { cursor_ = previous_border(text_, cursor_); }
void LineBuffer::right() { cursor_ = next_border(text_, cursor_); }

void LineBuffer::word_left() {
  while (cursor_ > 0 && is_blank(text_[cursor_ - 1])) --cursor_;
  while (cursor_ > 0 && !is_blank(text_[cursor_ - 1])) --cursor_;
}

void LineBuffer::word_right() {
  while (cursor_ < text_.size() && is_blank(text_[cursor_])) ++cursor_;
  while (cursor_ < text_.size() && !is_blank(text_[cursor_])) ++cursor_;
}

void LineBuffer::home() {
  const std::size_t newline = cursor_ == 0 ? std::string::npos : text_.rfind('\n', cursor_ - 1);
  cursor_ = newline == std::string::npos ? 0 : newline + 1;
}

void LineBuffer::end() { cursor_ = std::min(text_.find('\n', cursor_), text_.size()); }

int LineBuffer::column() {
  const std::size_t was = cursor_;
  home();
  return display_width(std::string_view(text_).substr(cursor_, was - cursor_));
}

void LineBuffer::go_to(std::size_t line, int column) {
  cursor_ = line;
  while (cursor_ < text_.size() && text_[cursor_] != '\n' &&
         display_width(std::string_view(text_).substr(line, cursor_ - line)) < column) {
    right();
  }
}

bool LineBuffer::up() {
  if (text_.substr(0, cursor_).find('\n') == std::string::npos) return false;
  const int wanted = column();
  --cursor_;
  home();
  go_to(cursor_, wanted);
  return true;
}

bool LineBuffer::down() {
  const std::size_t newline = text_.find('\n', cursor_);
  if (newline == std::string::npos) return false;
  go_to(newline + 1, column());
  return true;
}

void LineBuffer::erase_left() {
  const std::size_t end = cursor_;
  left();
  text_.erase(cursor_, end - cursor_);
}

void LineBuffer::erase_right() { text_.erase(cursor_, next_border(text_, cursor_) - cursor_); }

void LineBuffer::erase_word() {
  const std::size_t end = cursor_;
  word_left();
  text_.erase(cursor_, end - cursor_);
}

void LineBuffer::erase_to_home() {
  const std::size_t end = cursor_;
  home();
  text_.erase(cursor_, end - cursor_);
}

void LineBuffer::erase_to_end() {
  const std::size_t start = cursor_;
  end();
  const std::size_t stop = cursor_;
  cursor_ = start;
  text_.erase(start, stop - start);
}

}  // namespace ds4::cli
