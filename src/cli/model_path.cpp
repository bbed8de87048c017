#include "cli/model_path.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "base/text.h"

namespace ds4::cli {

namespace fs = std::filesystem;

namespace {

constexpr const char* kDefaultName = "ds4flash.gguf";

std::vector<std::string> models_in(const std::string& folder) {
  std::vector<std::string> found;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (at->path().extension() == ".gguf") found.push_back(at->path().string());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

std::string executable_path() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  return error ? std::string() : path.string();
}

std::vector<std::string> installed_model_folders(const std::string& executable) {
  std::vector<std::string> folders;
  if (executable.empty()) return folders;
  const fs::path bin = fs::path(executable).parent_path();
  folders.push_back((bin.parent_path() / "share/ds4/models").string());
  fs::path folder = bin;
  for (int level = 0; level < 4 && folder.has_relative_path(); ++level, folder = folder.parent_path()) {
    folders.push_back((folder / "models").string());
  }
  return folders;
}

Result<std::string> find_model(const std::string& asked, const std::vector<std::string>& folders) {
  if (!asked.empty()) return asked;
  std::error_code error;
  if (fs::exists(kDefaultName, error)) return std::string(kDefaultName);
  for (const std::string& folder : folders) {
    const std::vector<std::string> models = models_in(folder);
    if (models.size() == 1) return models.front();
    if (models.size() > 1) {
      std::string message = cat("several models in ", escaped(folder, 4096), ": choose one with -m:");
      for (const std::string& model : models) message += cat("\n  ", escaped(model, 4096));
      return Error{ErrorCode::kUsage, std::move(message)};
    }
  }
  return Error{ErrorCode::kBadModel,
               cat("no model: there is no ", kDefaultName,
                   " here.\n"
                   "  Name a DeepSeek V4 GGUF file with -m FILE, or link it:  ln -s /path/to/model.gguf ",
                   kDefaultName, "\n  ds4 --help model  tells which files work.")};
}

}  // namespace ds4::cli
