// A card that fails: is it noticed, and does it work again? Only in builds with DS4_CUDA (fault_case.cu).
#pragma once

#include "backend/backend.h"
#include "rig.h"

namespace ds4::conformance {

/// Twice: a kernel writes where no memory is; wait(), download(), health() and what comes after must say so. Then the
/// backend is destroyed and made anew, and either computes what the reference computes or says that the card is lost to
/// this process, which is printed and no failure.
void run_fault(const BackendOptions& device, Report& report);

}  // namespace ds4::conformance
