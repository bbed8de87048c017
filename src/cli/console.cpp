#include "cli/console.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/text.h"

namespace ds4::cli {

namespace {

bool colour_wanted() {
  const char* none = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return (none == nullptr || *none == '\0') && (term == nullptr || std::string_view(term) != "dumb");
}

}  // namespace

Console::Console()
    : stdin_tty_(isatty(STDIN_FILENO) != 0),
      stdout_tty_(isatty(STDOUT_FILENO) != 0),
      stderr_tty_(isatty(STDERR_FILENO) != 0),
      stdout_colour_(stdout_tty_ && colour_wanted()),
      stderr_colour_(stderr_tty_ && colour_wanted()) {}

void Console::out(std::string_view text) {
  progress("");
  std::fwrite(text.data(), 1, text.size(), stdout);
}

void Console::flush() { std::fflush(stdout); }

Status Console::finish() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return {};
  return Error{ErrorCode::kIo, "standard output: not everything could be written"};
}

void Console::note(std::string_view text) {
  progress("");
  const std::string line = cat("ds4: ", text, "\n");
  std::fwrite(line.data(), 1, line.size(), stderr);
}

void Console::warn(std::string_view text) {
  note(stderr_colour_ ? cat("\x1b[33mwarning:\x1b[0m ", text) : cat("warning: ", text));
}

void Console::error(const Error& error) {
  flush();  // what was said before the failure comes first
  note(stderr_colour_ ? cat("\x1b[31merror:\x1b[0m ", error.message) : cat("error: ", error.message));
}

void Console::progress(std::string_view text) {
  if (!stderr_tty_ || (text.empty() && !progress_shown_)) return;
  const std::string line = cat("\r\x1b[K", text);
  std::fwrite(line.data(), 1, line.size(), stderr);
  std::fflush(stderr);
  progress_shown_ = !text.empty();
}

void Progress::update(std::uint64_t done, std::uint64_t total) {
  const auto now = Clock::now();
  if (now - shown_ < std::chrono::milliseconds(100)) return;
  shown_ = now;
  char percent[16];
  std::snprintf(percent, sizeof percent, "%.1f",
                total == 0 ? 100.0 : 100.0 * static_cast<double>(done) / static_cast<double>(total));
  console_.progress(cat("ds4: ", label_, ": ", percent, " %"));
}

std::string rate(std::int64_t count, double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f", seconds > 0 ? static_cast<double>(count) / seconds : 0.0);
  return text;
}

}  // namespace ds4::cli
