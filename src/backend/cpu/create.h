// The door of this folder: included by backend/create.cpp and by the tests, by nobody else.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/result.h"

namespace ds4 {

/// Threads and SIMD on the host. An instruction set that is unknown, or that this machine lacks, is an Error that lists
/// the ones it has.
Result<std::unique_ptr<Backend>> create_cpu_backend(const BackendOptions& options);

/// The instruction sets that can be forced on this machine, best first.
std::vector<std::string> cpu_isa_names();

}  // namespace ds4
