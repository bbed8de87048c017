// One tensor of the model file and where its values come from; and the threads that copy them all.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "convert/checkpoint.h"
#include "convert/jobs.h"
#include "convert/tensor_names.h"
#include "convert/weight_reader.h"
#include "gguf/writer.h"
#include "quant/dtype.h"

namespace ds4 {

class TensorCopy {
 public:
  /// Finds and checks every source. Expert ids in a token table must be below `experts`. The Checkpoint must outlive
  /// this.
  static Result<TensorCopy> open(const Checkpoint& checkpoint, TensorPlan plan, DType type, std::uint32_t experts);

  void declare(gguf::Writer& writer);
  /// Reads, encodes and writes the whole tensor in pieces of a few megabytes. After declare() and the writer's begin().
  Status run(gguf::Writer& writer, const JobStep& step) const;

  /// Adds the names of all checkpoint tensors that this one reads.
  void collect_sources(std::unordered_set<std::string_view>& names) const;
  std::uint64_t input_bytes() const;
  std::uint64_t output_bytes() const;

 private:
  Status run_source(const WeightReader& source, std::uint64_t offset, gguf::Writer& writer, const JobStep& step) const;
  Status run_token_table(gguf::Writer& writer, const JobStep& step) const;

  TensorPlan plan_;
  DType type_{};
  std::size_t index_ = 0;              // in the writer
  std::vector<WeightReader> sources_;  // of a matrix or vector
  Checkpoint::Entry table_;            // of a token table
  std::uint32_t experts_ = 0;
};

/// Copies all tensors, each by one thread. The first error stops everything.
Status copy_tensors(std::span<const TensorCopy> copies, gguf::Writer& writer, const JobSettings& settings);

}  // namespace ds4
