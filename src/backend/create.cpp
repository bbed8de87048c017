#include "backend/cpu/create.h"
#include "backend/backend.h"
#include "backend/reference/reference_backend.h"
#include "base/text.h"

namespace ds4 {

Result<std::unique_ptr<Backend>> create_backend(const BackendOptions& options) {
  if (options.device == "cpu") return create_cpu_backend(options);
  if (options.device == "reference") return std::unique_ptr<Backend>(std::make_unique<ReferenceBackend>());
  return Error{ErrorCode::kNoDevice,
               cat("this build has no backend \"", escaped(options.device), "\": expected \"cpu\" or \"reference\"")};
}

}  // namespace ds4
