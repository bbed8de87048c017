// Reads every weight of a model file once and looks for what the header cannot show: NaN and infinity, and routing
// tables that name no expert. Slow (the whole file is read), so it is asked for, not done at every start.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

#include "base/result.h"
#include "gguf/file.h"
#include "model/shape.h"

namespace ds4 {

struct VerifyReport {
  std::uint64_t tensors = 0;
  std::uint64_t bytes = 0;
};

/// The first bad value is an Error that names file, tensor, byte and element. `progress` gets bytes done and in all.
Result<VerifyReport> verify_weights(const gguf::File& file, const ModelShape& shape,
                                    const std::atomic<bool>* cancel = nullptr,
                                    const std::function<void(std::uint64_t, std::uint64_t)>& progress = {});

}  // namespace ds4
