// DS4_CHECK: a bug, not an input error. Prints file, line and the broken condition, then aborts.
// Nothing reachable from a file, a request or a flag may end here; those return ds4::Error.
#pragma once

namespace ds4 {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}  // namespace ds4

#define DS4_CHECK(condition) \
  (static_cast<bool>(condition) ? void(0) : ::ds4::check_failed(#condition, __FILE__, __LINE__))
