// A readable record of what was asked and answered, for `--trace FILE`: prompts and answers are in it, keys are not.
// Any thread.
#pragma once

#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ds4::server {

class Trace {
 public:
  /// An empty path: nothing is written.
  static Result<std::unique_ptr<Trace>> open(const std::string& path);
  ~Trace();

  bool on() const { return file_ != nullptr; }
  /// A titled section of one request.
  void write(std::string_view id, std::string_view title, std::string_view text);

 private:
  explicit Trace(std::FILE* file) : file_(file) {}
  std::FILE* file_;
  std::mutex mutex_;
};

}  // namespace ds4::server
