// Where a program talks: the model's text on stdout, everything else on stderr. Colours and progress lines appear only
// on terminals (and not with NO_COLOR or TERM=dumb), so a pipe gets clean text. One per program, main thread only.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ds4::cli {

class Console {
 public:
  Console();

  bool stdin_tty() const { return stdin_tty_; }
  bool stdout_tty() const { return stdout_tty_; }
  bool stderr_tty() const { return stderr_tty_; }
  bool stdout_colour() const { return stdout_colour_; }

  /// Text of the model, or the result of a diagnostic.
  void out(std::string_view text);
  /// Sent at once, so that answers appear as they are made.
  void flush();
  /// An Error when anything written to stdout did not arrive (a full disk).
  Status finish();

  /// One line on stderr: "ds4: TEXT".
  void note(std::string_view text);
  void warn(std::string_view text);
  void error(const Error& error);
  /// A line on stderr that the next call overwrites; "" clears it. Nothing without a terminal.
  void progress(std::string_view text);

 private:
  bool stdin_tty_, stdout_tty_, stderr_tty_;
  bool stdout_colour_, stderr_colour_;
  bool progress_shown_ = false;
};

/// Counts and times one phase, and shows it as a progress line at most ten times a second.
class Progress {
 public:
  using Clock = std::chrono::steady_clock;
  Progress(Console& console, std::string label) : console_(console), label_(std::move(label)) {}
  ~Progress() { console_.progress(""); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(std::uint64_t done, std::uint64_t total);
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  Console& console_;
  std::string label_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point shown_ = {};
};

/// "12.34", "0.50": a rate, 0 for no time at all.
std::string rate(std::int64_t count, double seconds);

}  // namespace ds4::cli
