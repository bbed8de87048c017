#include "backend/cpu/create.h"
#include "backend/backend.h"
#include "backend/reference/reference_backend.h"
#include "base/text.h"
#ifdef DS4_CUDA
#include "backend/cuda/create.h"
#endif

namespace ds4 {

Result<std::unique_ptr<Backend>> create_backend(const BackendOptions& options) {
  if (options.device == "cpu") return create_cpu_backend(options);
  if (options.device == "reference") return std::unique_ptr<Backend>(std::make_unique<ReferenceBackend>());
#ifdef DS4_CUDA
  if (options.device == "cuda" || options.device.starts_with("cuda:")) return create_cuda_backend(options);
  constexpr const char* kExpected = "\"cpu\", \"cuda\", \"cuda:N\" or \"reference\"";
#else
  if (options.device == "cuda" || options.device.starts_with("cuda:"))
    return Error{ErrorCode::kNoDevice, "this build has no CUDA backend: build it with \"make cuda\""};
  constexpr const char* kExpected = "\"cpu\" or \"reference\"";
#endif
  return Error{ErrorCode::kNoDevice, cat("no backend \"", escaped(options.device), "\": expected ", kExpected)};
}

}  // namespace ds4
