// The numbers of a model of the family, read from a GGUF and checked (spec sections 1 and 5.3, dialects 5.9).
// Flash, PRO and the small test models all come from here; nothing else in the project reads deepseek4.* keys.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/dims.h"
#include "base/result.h"
#include "gguf/file.h"

namespace ds4 {

enum class LayerKind {
  kWindow,             // SWA: sliding window only
  kCompressedSparse,   // CSA: ratio 4, overlapping compressor, indexer
  kHeavilyCompressed,  // HCA: ratio 128, all visible rows
};

struct LayerShape {
  LayerKind kind = LayerKind::kWindow;
  int ratio = 0;  // 0, 4 or 128
  bool hash_routed = false;
  float swiglu_limit = 0;  // routed experts
  float shared_swiglu_limit = 0;
};

struct RopeShape {
  float base = 0;             // ratio-0 layers, no YaRN
  float compressed_base = 0;  // the others, with YaRN
  float yarn_factor = 1;
  std::int64_t original_context = 0;
  float beta_fast = 0;
  float beta_slow = 0;
};

struct ModelShape {
  std::string name;  // general.name
  Dims dims;
  std::vector<LayerShape> layers;   // the trunk, without MTP blocks
  int mtp_layers = 0;               // blocks stored after the trunk in this file (llama.cpp dialect)
  std::int64_t context_length = 0;  // trained
  RopeShape rope;
};

Result<ModelShape> read_shape(const gguf::File& file);

/// Frequencies f_i of the rope_dim / 2 pairs (§2.4): plain for ratio 0, YaRN for the others.
std::vector<float> rope_frequencies(const RopeShape& rope, int rope_dim, int ratio);

}  // namespace ds4
