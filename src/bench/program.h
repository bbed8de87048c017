// ds4-bench from its options to its last row: opens or makes the model, loads it, measures every frontier. What it has
// to say goes through Events; it prints nothing itself.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "bench/options.h"
#include "gguf/file.h"

namespace ds4::bench {

struct Events {
  std::function<void(std::string_view)> note;       // a line for people
  std::function<Status(std::string_view)> csv;      // text of the CSV
  std::function<Status(std::string_view)> ops_csv;  // of the one with ops; only with options.ops_csv
};

/// Turns options.prompt_file or chat_prompt_file into tokens of this model. Absent in a build without a tokenizer.
using ReadPrompt = std::function<Result<std::vector<std::int32_t>>(const gguf::File& file, const Options& options)>;

/// `build` and `flags` go into the header of the CSV.
Status run(const Options& options, const std::string& build, const std::string& flags, const Events& events,
           const ReadPrompt& read_prompt);

}  // namespace ds4::bench
