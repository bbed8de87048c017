// Reads one entry, of one or more lines, from a terminal: editing keys, history, bracketed paste. The editor itself is
// a function from keys to a picture (a string of escape sequences), so that it is tested without a terminal.
//
// Enter ends the entry, unless the line ends in a backslash: then the backslash is dropped and a new line begins.
// ^C clears the entry; ^D on an empty one leaves.
#pragma once

#include <deque>
#include <optional>
#include <string>

#include "cli/history.h"
#include "cli/key_decoder.h"
#include "cli/line_buffer.h"

namespace ds4::cli {

class LineEditor {
 public:
  /// `prompt` is printed before the first line; the others are indented to match.
  LineEditor(std::string prompt, const History& history) : prompt_(std::move(prompt)), history_(history) {}

  enum class Outcome { kEditing, kDone, kLeave };
  Outcome press(const Key& key);
  const std::string& text() const { return buffer_.text(); }
  std::size_t cursor() const { return buffer_.cursor(); }

  /// What to send to a terminal of `width` columns so that it shows the entry in place of what the last call drew.
  std::string draw(int width);
  /// Moves below the entry.
  std::string leave_picture(int width);

 private:
  void recall(std::size_t entry);

  std::string prompt_;
  const History& history_;
  LineBuffer buffer_;
  std::optional<std::size_t> recalled_;  // which history entry is shown
  std::string draft_;                    // what was typed before recalling
  int drawn_cursor_row_ = 0;             // below the first row of the picture
};

/// Entries from the terminal, one after the other; what is typed ahead is kept. One per program, main thread.
class EntryReader {
 public:
  explicit EntryReader(const History& history) : history_(history) {}
  /// nullopt to leave. The terminal is in raw mode only meanwhile.
  std::optional<std::string> read(const std::string& prompt);

 private:
  /// Waits for the next key; nullopt when the terminal is gone.
  std::optional<Key> next_key();

  const History& history_;
  KeyDecoder decoder_;
  std::deque<Key> keys_;
};

}  // namespace ds4::cli
