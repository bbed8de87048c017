// Collecting an importance matrix: the model reads a text, and for every routed expert the mean squares of what its
// matrices are multiplied with are written down (quant/imatrix.h). ds4-quantize reads them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"

namespace ds4 {

struct ImatrixOptions {
  std::string dataset_name;      // written to the file
  std::int64_t max_prompts = 0;  // 0: all
  std::int64_t max_tokens = 0;   // 0: all
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;  // tokens
};

struct ImatrixReport {
  std::int64_t prompts = 0;
  std::int64_t tokens = 0;
  std::int64_t experts = 0;  // in all layers
  std::int64_t unseen = 0;   // of them, never chosen: they get the mean of their layer
};

/// The prompts of a data set: the texts between lines that begin with "===== DS4_IMATRIX_PROMPT"; without such a line
/// the whole text. Surrounding white space is dropped, and so are empty prompts. Views into `text`.
std::vector<std::string_view> split_imatrix_dataset(std::string_view text);

/// Reads all prompts, each behind a BOS in its own context (in pieces where it is longer than that), and writes
/// `path`. Special tokens in the text count. A tensor with fewer tokens than a few per expert leans on the mean of its
/// layer.
Result<ImatrixReport> collect_imatrix(ModelFile file, const EngineOptions& engine, std::string_view dataset,
                                      const std::string& path, const ImatrixOptions& options);

}  // namespace ds4
