// Which type every tensor of a model file gets: a recipe by name, exceptions by pattern (spec sections 5.2, 5.4).
// Derived from tensor names alone. Pure functions and plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "convert/tensor_names.h"
#include "quant/dtype.h"

namespace ds4 {

/// What a tensor is for, as the published sizes are broken down (§5.6).
enum class TensorGroup {
  kEmbedding,
  kOutput,
  kHyperConnection,
  kVector,  // norms, sinks, biases, hyper-connection base and scale
  kAttention,
  kCompressor,
  kIndexer,
  kRouter,  // with the token tables
  kSharedExperts,
  kGateUp,  // of the routed experts
  kDown,
  kMtpProjection,
  kOther,
};
inline constexpr int kTensorGroups = static_cast<int>(TensorGroup::kOther) + 1;

TensorGroup tensor_group(std::string_view name, TensorKind kind);
std::string_view tensor_group_name(TensorGroup group);
bool is_mtp(std::string_view name);

/// Layers first..last, both included.
struct LayerRange {
  int first = 0;
  int last = 0;
};
/// "37-42,5"
Result<std::vector<LayerRange>> parse_layer_ranges(std::string_view text);

/// Tensors whose name matches the pattern (* and ?) get the type.
struct TypeOverride {
  std::string pattern;
  DType type = DType::kF16;
};
/// "blk.*.attn_kv.weight=f16"
Result<TypeOverride> parse_type_override(std::string_view text);
bool matches_pattern(std::string_view pattern, std::string_view name);

struct RecipeOptions {
  /// q2, q2-q4, q4, mxfp4 or q8: routed experts of that kind, everything else as published (Q8_0 or F16). Empty: `type`
  /// for every matrix, `experts` for the routed ones.
  std::string name;
  DType type = DType::kQ8_0;
  std::optional<DType> experts;
  std::vector<LayerRange> q4_layers;    // of q2-q4; empty: the last six, as published
  std::vector<TypeOverride> overrides;  // the last that matches counts
};

class Recipe {
 public:
  /// Checks the options against a model of `layers` layers.
  static Result<Recipe> make(const RecipeOptions& options, int layers);

  struct Choice {
    DType type;
    bool forced = false;  // by an override
  };
  Choice choose(std::string_view name, TensorKind kind) const;

  /// What most routed experts become, or most matrices: for general.file_type.
  DType main_type() const;
  /// The pattern of an override that matches no matrix of `plans`.
  std::optional<std::string> unused_override(const std::vector<std::string>& matrices) const;

 private:
  DType published(std::string_view name, TensorKind kind) const;
  DType routed(std::string_view name, bool down) const;
  RecipeOptions options_;
};

}  // namespace ds4
