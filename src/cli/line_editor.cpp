#include "cli/line_editor.h"

#include <cstdio>

#include "base/text.h"
#include "cli/terminal.h"

namespace ds4::cli {

namespace {

/// Where on a terminal a text ends up, and what to print for it.
struct Layout {
  std::string picture;
  int row = 0;
  int column = 0;
  int cursor_row = 0;
  int cursor_column = 0;
};

Layout lay_out(std::string_view prompt, const LineBuffer& buffer, int width) {
  Layout out;
  out.picture = prompt;
  const int indent = display_width(prompt);
  out.column = indent;
  const std::string_view text = buffer.text();
  for (std::size_t at = 0;;) {
    if (at == buffer.cursor()) {
      out.cursor_row = out.row;
      out.cursor_column = out.column;
    }
    if (at >= text.size()) break;
    const std::size_t next = next_border(text, at);
    const std::string_view cluster = text.substr(at, next - at);
    at = next;
    if (cluster == "\n") {
      out.picture += "\r\n" + std::string(static_cast<std::size_t>(indent), ' ');
      ++out.row;
      out.column = indent;
      continue;
    }
    const int columns = display_width(cluster);
    if (out.column + columns > width) {  // our own wrap: where a terminal breaks a wide character is its secret
      out.picture += "\r\n";
      ++out.row;
      out.column = 0;
      if (at - cluster.size() == buffer.cursor()) {
        out.cursor_row = out.row;
        out.cursor_column = 0;
      }
    }
    out.picture += static_cast<unsigned char>(cluster[0]) < 0x20 ? std::string_view(" ") : cluster;
    out.column += columns;
  }
  if (out.column >= width) {  // the cursor behind a full row stands on the next one
    out.picture += "\r\n";
    ++out.row;
    out.column = 0;
    if (buffer.cursor() == text.size()) {
      out.cursor_row = out.row;
      out.cursor_column = 0;
    }
  }
  return out;
}

std::string up(int rows) { return rows > 0 ? cat("\x1b[", rows, "A") : std::string(); }
std::string down(int rows) { return rows > 0 ? cat("\x1b[", rows, "B") : std::string(); }
std::string right(int columns) { return columns > 0 ? cat("\x1b[", columns, "C") : std::string(); }

}  // namespace

std::string LineEditor::draw(int width) {
  const Layout layout = lay_out(prompt_, buffer_, width);
  std::string out = up(drawn_cursor_row_) + "\r\x1b[J" + layout.picture;
  out += up(layout.row - layout.cursor_row) + "\r" + right(layout.cursor_column);
  drawn_cursor_row_ = layout.cursor_row;
  return out;
}

std::string LineEditor::leave_picture(int width) {
  const Layout layout = lay_out(prompt_, buffer_, width);
  std::string out = down(layout.row - drawn_cursor_row_) + "\r\n";
  drawn_cursor_row_ = 0;
  return out;
}

void LineEditor::recall(std::size_t entry) {
  if (!recalled_) draft_ = buffer_.text();
  if (entry < history_.entries().size()) {
    recalled_ = entry;
    buffer_.set(history_.entries()[entry]);
  } else {
    recalled_.reset();
    buffer_.set(draft_);
  }
}

LineEditor::Outcome LineEditor::press(const Key& key) {
  const std::size_t newest = history_.entries().size();
  switch (key.kind) {
    case Key::Kind::kText:
    case Key::Kind::kPaste: buffer_.insert(key.text); break;
    case Key::Kind::kTab: buffer_.insert("\t"); break;
    case Key::Kind::kEnter:
      if (!buffer_.text().ends_with('\\')) return Outcome::kDone;
      buffer_.set(buffer_.text().substr(0, buffer_.text().size() - 1) + "\n");
      break;
    case Key::Kind::kLeft: buffer_.left(); break;
    case Key::Kind::kRight: buffer_.right(); break;
    case Key::Kind::kWordLeft: buffer_.word_left(); break;
    case Key::Kind::kWordRight: buffer_.word_right(); break;
    case Key::Kind::kHome: buffer_.home(); break;
    case Key::Kind::kEnd: buffer_.end(); break;
    case Key::Kind::kUp:
      if (!buffer_.up() && recalled_.value_or(newest) > 0) recall(recalled_.value_or(newest) - 1);
      break;
    case Key::Kind::kDown:
      if (!buffer_.down() && recalled_) recall(*recalled_ + 1);
      break;
    case Key::Kind::kBackspace: buffer_.erase_left(); break;
    case Key::Kind::kDelete: buffer_.erase_right(); break;
    case Key::Kind::kKillLine: buffer_.erase_to_home(); break;
    case Key::Kind::kKillRest: buffer_.erase_to_end(); break;
    case Key::Kind::kKillWord: buffer_.erase_word(); break;
    case Key::Kind::kInterrupt:
      buffer_.set("");
      recalled_.reset();
      break;
    case Key::Kind::kEndOfFile:
      if (buffer_.empty()) return Outcome::kLeave;
      buffer_.erase_right();
      break;
    case Key::Kind::kEscape:
    case Key::Kind::kRedraw: break;
  }
  return Outcome::kEditing;
}

std::optional<Key> EntryReader::next_key() {
  constexpr int kEscapeTimeout = 50;  // a sequence arrives at once, a person does not
  bool ended = false;
  bool in_sequence = false;
  while (keys_.empty()) {
    if (ended) return std::nullopt;
    const std::string bytes = read_terminal(in_sequence ? kEscapeTimeout : -1, ended);
    const std::vector<Key> keys = bytes.empty() && in_sequence ? decoder_.idle() : decoder_.feed(bytes);
    in_sequence = bytes.ends_with('\x1b');
    keys_.insert(keys_.end(), keys.begin(), keys.end());
  }
  Key key = std::move(keys_.front());
  keys_.pop_front();
  return key;
}

std::optional<std::string> EntryReader::read(const std::string& prompt) {
  const RawMode raw;
  LineEditor editor(prompt, history_);
  const auto show = [](const std::string& picture) {
    std::fwrite(picture.data(), 1, picture.size(), stdout);
    std::fflush(stdout);
  };
  while (true) {
    if (keys_.empty()) show(editor.draw(terminal_width()));
    const std::optional<Key> key = next_key();
    const LineEditor::Outcome outcome = key ? editor.press(*key) : LineEditor::Outcome::kLeave;
    if (outcome == LineEditor::Outcome::kEditing) continue;
    show(editor.draw(terminal_width()) + editor.leave_picture(terminal_width()));
    if (outcome == LineEditor::Outcome::kLeave) return std::nullopt;
    return editor.text();
  }
}

}  // namespace ds4::cli
