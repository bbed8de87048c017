#include "server/trace.h"

#include <cerrno>
#include <cstring>

#include "base/text.h"

namespace ds4::server {

Result<std::unique_ptr<Trace>> Trace::open(const std::string& path) {
  std::FILE* file = nullptr;
  if (!path.empty()) {
    file = std::fopen(path.c_str(), "ae");
    if (file == nullptr) {
      return Error{ErrorCode::kUsage, cat("--trace: cannot write ", escaped(path, 4096), ": ", std::strerror(errno))};
    }
  }
  return std::unique_ptr<Trace>(new Trace(file));
}

Trace::~Trace() {
  if (file_ != nullptr) std::fclose(file_);
}

void Trace::write(std::string_view id, std::string_view title, std::string_view text) {
  if (file_ == nullptr) return;
  const std::string section = cat("=== ", id, " ", title, "\n", text, text.ends_with('\n') ? "" : "\n");
  const std::lock_guard lock(mutex_);
  std::fwrite(section.data(), 1, section.size(), file_);
  std::fflush(file_);
}

}  // namespace ds4::server
