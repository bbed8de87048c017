// Layers of the real dims with random weights, on a device: do the ways through them agree?
#pragma once

#include <string>

#include "backend/backend.h"
#include "rig.h"

namespace ds4::conformance {

/// `what` as ds4-bench's --synthetic has it ("flash:4"). Sequences with a history in which the indexer has to choose
/// make a step each: alone, against the exact cpu path (within 5e-2 of the logits' root mean square, 0.2 with int8
/// activations), and in batches of any size, which other kernels take, against alone (2e-2). Where rounding chooses
/// another expert or row, all that follows differs: that may happen to one row in eight. A step alone gives the same
/// bits every time, recorded or not; and other histories give other logits, or the rest would prove nothing.
void run_synthetic(const std::string& what, const BackendOptions& device, Report& report);

}  // namespace ds4::conformance
