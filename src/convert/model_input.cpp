#include "convert/model_input.h"

#include <sys/stat.h>

#include <filesystem>

#include "base/check.h"
#include "base/text.h"

namespace ds4 {

std::uint64_t InputTensor::elements() const {
  std::uint64_t product = 1;
  for (const std::uint64_t dim : dims) product *= dim;
  return product;
}

std::uint64_t InputTensor::input_bytes() const {
  std::uint64_t bytes = table_bytes;
  for (const RowSource& source : rows) bytes += source.bytes();
  return bytes;
}

Result<std::unique_ptr<ModelInput>> open_model_input(const std::string& path, const NoteSink& note) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return open_checkpoint_input(path, note);
  if (std::filesystem::exists(path, ignored)) return open_gguf_input(path, note);
  return Error{ErrorCode::kUsage,
               cat(escaped(path, 4096), ": expected a folder with config.json, or a GGUF file; found neither")};
}

std::uint32_t file_type_id(DType type) {
  switch (type) {
    case DType::kF32: return 0;
    case DType::kF16: return 1;
    case DType::kQ8_0: return 7;
    case DType::kQ2_K: return 10;
    case DType::kQ4_K: return 14;
    case DType::kIQ2_XXS: return 19;
    case DType::kBF16: return 32;
    case DType::kMXFP4: return 38;
    case DType::kI32: break;
  }
  check_failed("a type that most matrices of a file have", __FILE__, __LINE__);
}

std::string file_identity(const std::string& path) {
  struct stat found{};
  if (::stat(path.c_str(), &found) != 0) return cat(path, "\n");
  std::error_code ignored;
  const std::string absolute = std::filesystem::absolute(path, ignored).string();
  return cat(absolute, " ", found.st_size, " ", found.st_mtim.tv_sec, ".", found.st_mtim.tv_nsec, "\n");
}

std::string listed_names(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 3;
  std::string out;
  for (std::size_t i = 0; i < names.size() && i < kShown; ++i) out += cat(i == 0 ? "" : ", ", escaped(names[i]));
  if (names.size() > kShown) out += cat(" and ", names.size() - kShown, " more");
  return out;
}

}  // namespace ds4
