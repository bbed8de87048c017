// The terminal on standard input: raw mode for line editing, size, keys with a timeout. Main thread only.
#pragma once

#include <termios.h>

#include <string>

namespace ds4::cli {

/// Raw input with bracketed paste while it lives; whatever was set before comes back.
class RawMode {
 public:
  RawMode();
  ~RawMode();
  RawMode(const RawMode&) = delete;
  RawMode& operator=(const RawMode&) = delete;
  bool active() const { return active_; }

 private:
  termios saved_ = {};
  bool active_ = false;
};

/// Columns of the terminal; 80 when it does not say.
int terminal_width();

/// Bytes that are there, waiting at most `milliseconds` for the first (-1: for ever). Empty when none came; `ended` is
/// set when none will come any more.
std::string read_terminal(int milliseconds, bool& ended);

}  // namespace ds4::cli
