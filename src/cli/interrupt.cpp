#include "cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

namespace ds4::cli {

namespace {

std::atomic<bool> flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "touched by a signal handler");

void on_interrupt(int) {
  if (!flag.exchange(true)) return;
  if (isatty(STDOUT_FILENO) != 0) {
    constexpr char kResetColour[] = "\x1b[0m\n";
    const auto ignored = write(STDOUT_FILENO, kResetColour, sizeof kResetColour - 1);
    static_cast<void>(ignored);
  }
  _exit(130);
}

}  // namespace

void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
}

std::atomic<bool>& interrupted() { return flag; }

}  // namespace ds4::cli
