// Ctrl-C: the first one asks the running work to stop, through a flag that the engine polls; a second one, before the
// first was answered, ends the program with status 130. The flag is the process's, as the signal is.
#pragma once

#include <atomic>

namespace ds4::cli {

/// Catches SIGINT from here on. Blocking reads return early (EINTR).
void catch_interrupts();

/// Set by Ctrl-C; cleared by whoever has answered it.
std::atomic<bool>& interrupted();

}  // namespace ds4::cli
