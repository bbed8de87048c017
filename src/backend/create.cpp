#include <memory>

#include "backend/backend.h"
#include "backend/cpu/create.h"
#include "backend/reference/reference_backend.h"
#include "base/text.h"
#ifdef DS4_CUDA
#include "backend/cuda/create.h"
#endif

namespace ds4 {

Result<std::vector<std::string>> device_names(std::string_view list) {
  std::vector<std::string> names;
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t comma = std::min(list.find(',', at), list.size());
    const std::string name(list.substr(at, comma - at));
    at = comma + 1;
    if (name.empty())
      return Error{ErrorCode::kUsage,
                   cat("backend: expected names with commas between them, found \"", escaped(list), "\"")};
    if (name != "cuda:all") {
      names.push_back(name);
      continue;
    }
    int cards = 0;
#ifdef DS4_CUDA
    cards = cuda_cards();
#endif
    names.push_back("cuda:0");  // where there is none, opening it says why
    for (int card = 1; card < cards; ++card) names.push_back(cat("cuda:", card));
  }
  for (std::size_t i = 0; i < names.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (names[i] == names[j])
        return Error{ErrorCode::kUsage,
                     cat("backend: expected each device once, found \"", escaped(names[i]), "\" twice")};
  return names;
}

Result<std::unique_ptr<Backend>> create_backend(const BackendOptions& options) {
  if (options.device == "cpu") return create_cpu_backend(options);
  if (options.device == "reference") return std::unique_ptr<Backend>(std::make_unique<ReferenceBackend>());
#ifdef DS4_CUDA
  if (options.device == "cuda" || options.device.starts_with("cuda:")) return create_cuda_backend(options);
  constexpr const char* kExpected = "\"cpu\", \"cuda\", \"cuda:N\", \"cuda:all\" or \"reference\"";
#else
  if (options.device == "cuda" || options.device.starts_with("cuda:"))
    return Error{ErrorCode::kNoDevice, "this build has no CUDA backend: build it with \"make cuda\""};
  constexpr const char* kExpected = "\"cpu\" or \"reference\"";
#endif
  return Error{ErrorCode::kNoDevice, cat("no backend \"", escaped(options.device), "\": expected ", kExpected)};
}

}  // namespace ds4
