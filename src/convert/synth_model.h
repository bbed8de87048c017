// A model file with Flash's real shapes and random weights, in the types of the published 2-bit and 4-bit files: one
// layer costs what it costs in the real model. For benchmarks and tests; it speaks no language. The file depends on
// the options alone, not on the number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"

namespace ds4 {

struct SynthOptions {
  enum class Mix {
    kQ2,  // experts: gate and up IQ2_XXS, down Q2_K
    kQ4,  // experts: Q4_K
  };
  std::string output;
  int layers = 43;
  int experts = 256;
  Mix mix = Mix::kQ2;
  std::uint64_t seed = 1;
  bool sparse = false;  // the header and a hole of the right size
  bool overwrite = false;
  int threads = 1;
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;  // may be empty
};

struct SynthReport {
  std::size_t tensors = 0;
  std::uint64_t bytes = 0;  // size of the file
};

Result<SynthReport> write_synth_model(const SynthOptions& options);

}  // namespace ds4
