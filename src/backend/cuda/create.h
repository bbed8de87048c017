// The door of this folder: included by backend/create.cpp, by nobody else, and only in builds with DS4_CUDA.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "base/result.h"

namespace ds4 {

/// "cuda" or "cuda:N". An Error says plainly why there is no such device: no driver, no card, too old a card.
Result<std::unique_ptr<Backend>> create_cuda_backend(const BackendOptions& options);

/// How many cards the driver shows; 0 without one.
int cuda_cards();

}  // namespace ds4
