// What `ds4` does once its flags are read.
#pragma once

#include "cli/options.h"

namespace ds4::cli {

/// Runs to the end and returns the exit status: 0, 1 failure, 2 usage, 3 model, 4 memory, 5 device, 130 interrupted.
int run(Options options);

}  // namespace ds4::cli
