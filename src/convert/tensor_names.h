// Which tensors a model file of this family has, and which tensors of an official checkpoint they come from
// (spec sections 5.4 and 5.5). Derived from the config alone. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/checkpoint_config.h"

namespace ds4 {

enum class TensorKind {
  kMatrix,      // stored in the type that the user asked for
  kVector,      // norms, sinks, biases, hyper-connection base and scale: always f32
  kTokenTable,  // expert ids of the hash-routed layers: i32
};

struct TensorPlan {
  std::string name;  // in the model file
  TensorKind kind = TensorKind::kMatrix;
  std::vector<std::uint64_t> dims;   // as the model file lists them: the contiguous one first
  std::vector<std::string> sources;  // in the checkpoint: one, or one per expert, which become slices along dims[2]

  /// The shape that every source has: the slowest dimension first.
  std::vector<std::uint64_t> source_shape() const;
};

/// All tensors of the trunk in the order of spec section 5.4, then those of the MTP blocks.
std::vector<TensorPlan> plan_tensors(const CheckpointConfig& config);

/// "mtp.0.", as both the checkpoint and the model file write it.
std::string mtp_prefix(std::uint32_t block);

}  // namespace ds4
