// An official checkpoint folder, or a model file, becomes a model file: every tensor found, checked and decoded, then
// encoded in the type that the recipe gives it and written piece by piece, so that memory stays at a few megabytes per
// thread whatever the model's size. Nothing is written before the whole input has been checked.
//
// A conversion that was stopped or killed leaves OUT.part and OUT.journal. The same conversion started again takes over
// the tensors that are complete, after checking their bytes. OUT itself is complete or not there.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "convert/recipe.h"
#include "quant/dtype.h"

namespace ds4 {

struct ConvertOptions {
  std::string input;   // a folder with config.json, or a GGUF file
  std::string output;  // the file to write
  RecipeOptions recipe;
  std::string imatrix;  // an importance matrix; empty: all columns count alike
  bool overwrite = false;
  int threads = 1;
  const std::atomic<bool>* cancel = nullptr;  // looked at between pieces
};

struct ConvertProgress {
  std::uint64_t bytes = 0;  // of all tensors
  std::uint64_t total_bytes = 0;
  double work = 0;  // 0 to 1: how much of the work of this run is done
};

/// Both may be left empty. They are called from one thread at a time, not always the same one.
struct ConvertEvents {
  std::function<void(std::string_view)> note;  // something the user should know
  std::function<void(const ConvertProgress&)> progress;
};

struct ConvertReport {
  std::size_t tensors = 0;
  std::size_t resumed = 0;         // of them, taken over from an interrupted run
  std::size_t files = 0;           // read
  std::uint64_t input_bytes = 0;   // tensor data read
  std::uint64_t output_bytes = 0;  // size of the file
};

Result<ConvertReport> convert_model(const ConvertOptions& options, const ConvertEvents& events);

/// What a conversion would write, by group of tensors; the last line is the whole file.
struct PlanLine {
  std::string group;
  std::string types;  // "iq2_xxs", "f16, q8_0"
  std::size_t tensors = 0;
  std::uint64_t elements = 0;
  std::uint64_t bytes = 0;
};

/// Checks everything that convert_model() checks and writes nothing. `output` may be empty.
Result<std::vector<PlanLine>> plan_conversion(const ConvertOptions& options, const ConvertEvents& events);

}  // namespace ds4
