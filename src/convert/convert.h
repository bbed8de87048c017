// An official checkpoint folder becomes a model file: every tensor found, checked and decoded, then encoded in the type
// asked for and written piece by piece, so that memory stays at a few megabytes per thread whatever the model's size.
// Nothing is written before the whole checkpoint has been checked.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "quant/dtype.h"

namespace ds4 {

struct ConvertOptions {
  std::string checkpoint;     // the folder with config.json
  std::string output;         // the file to write
  DType type = DType::kQ8_0;  // of the matrices; vectors are always f32
  std::optional<DType> experts;  // of the routed experts, where it is another
  bool overwrite = false;
  int threads = 1;
  const std::atomic<bool>* cancel = nullptr;  // looked at between pieces
};

/// Both may be left empty. They are called from one thread at a time, not always the same one.
struct ConvertEvents {
  std::function<void(std::string_view)> note;                             // something the user should know
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;  // bytes written, of all tensors
};

struct ConvertReport {
  std::size_t tensors = 0;
  std::size_t shards = 0;
  std::uint64_t input_bytes = 0;   // tensor data read
  std::uint64_t output_bytes = 0;  // size of the file
};

Result<ConvertReport> convert_checkpoint(const ConvertOptions& options, const ConvertEvents& events);

}  // namespace ds4
