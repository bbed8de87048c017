// A whole model on a device: against the exact path of the cpu backend, chunk by chunk, step by step, alone and in
// batches.
#pragma once

#include <string>

#include "backend/backend.h"
#include "rig.h"

namespace ds4::conformance {

/// Random tokens through the model in `path` (KV rows in f32). The device's exact path must agree with the cpu's within
/// 1e-3 for any chunking; its fast path in the mean; a recorded step must give the bits of one that is not; a sequence
/// in a batch must agree with itself alone within 2e-4. `quick`: fewer tokens, chunkings and batches.
void run_model(const std::string& path, const BackendOptions& device, bool quick, Report& report);

}  // namespace ds4::conformance
