#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace ds4 {

void check_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "ds4: internal error: %s:%d: %s\n", file, line, condition);
  std::abort();
}

}  // namespace ds4
