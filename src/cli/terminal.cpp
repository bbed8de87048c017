#include "cli/terminal.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

namespace ds4::cli {

namespace {

void send(std::string_view text) {
  const auto ignored = write(STDOUT_FILENO, text.data(), text.size());
  static_cast<void>(ignored);
}

}  // namespace

RawMode::RawMode() {
  if (tcgetattr(STDIN_FILENO, &saved_) != 0) return;
  termios raw = saved_;
  raw.c_iflag &= ~static_cast<tcflag_t>(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
  raw.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON | IEXTEN | ISIG);
  raw.c_cc[VMIN] = 1;
  raw.c_cc[VTIME] = 0;
  // TCSADRAIN keeps what was typed ahead, while the model was still answering.
  active_ = tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
  if (active_) send("\x1b[?2004h");
}

RawMode::~RawMode() {
  if (!active_) return;
  send("\x1b[?2004l");
  tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_);
}

int terminal_width() {
  winsize size = {};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string read_terminal(int milliseconds, bool& ended) {
  pollfd input = {STDIN_FILENO, POLLIN, 0};
  if (poll(&input, 1, milliseconds) <= 0) return {};  // nothing, or a signal
  char buffer[4096];
  const ssize_t count = read(STDIN_FILENO, buffer, sizeof buffer);
  if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN)) ended = true;
  return count > 0 ? std::string(buffer, static_cast<std::size_t>(count)) : std::string();
}

}  // namespace ds4::cli
