// The tensors of a model by their place in the paper, bound from the names in the file (spec section 5.4,
// dialects 5.9). Who loads a weight, and where, is the caller's: binding calls `load` once per tensor and stores what
// it returns.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/result.h"
#include "gguf/file.h"
#include "model/shape.h"

namespace ds4 {

struct LayerWeights {
  HyperConnectionWeights hc_attn;
  HyperConnectionWeights hc_ffn;
  Weight attn_norm;  // [d]
  Weight ffn_norm;   // [d]
  // attention
  Weight q_a;                    // [q_lora, d]
  Weight q_a_norm;               // [q_lora]
  Weight q_b;                    // [H * head_dim, q_lora]
  Weight kv;                     // [head_dim, d]
  Weight kv_norm;                // [head_dim]
  Weight sinks;                  // [H]
  Weight output_a;               // [G * o_lora, H / G * head_dim]
  Weight output_b;               // [d, G * o_lora]
  CompressorWeights compressor;  // ratio != 0
  Weight index_q_b;              // [index_heads * index_dim, q_lora], ratio 4
  Weight index_proj;             // [index_heads, d]
  CompressorWeights index_compressor;
  // mixture of experts
  Weight router;          // [experts, d]
  Weight router_bias;     // [experts], layers that are not hash-routed
  Weight token_experts;   // i32 [vocab, experts_used], hash-routed layers
  Weight gate, up, down;  // [experts][expert_ff, d], the same, [experts][d, expert_ff]
  Weight shared_gate, shared_up, shared_down;
};

struct ModelWeights {
  Weight embedding;  // [vocab, d], on the first layer's backend
  std::vector<LayerWeights> layers;
  HyperConnectionWeights hc_head;  // on the last layer's backend, as the rest
  Weight norm;                     // [d]
  Weight output;                   // [vocab, d]
};

enum class WeightRole { kMatrix, kVector, kTable };  // of any float type; the same, one row; i32

/// A tensor that a model of some shape must have.
struct WeightSpec {
  std::string name;
  WeightRole role = WeightRole::kMatrix;
  std::int64_t in = 0;
  std::int64_t out = 1;
  std::int64_t count = 1;  // experts
};

/// Every tensor that bind_weights() asks for, under its usual name, in the order of asking.
std::vector<WeightSpec> list_weights(const ModelShape& shape);

/// Called with the trunk layer a weight belongs to (the embedding counts to the first, the head to the last).
using LoadWeight = std::function<Result<Weight>(const HostWeight& weight, int layer)>;

/// A missing tensor, a wrong shape or a wrong type is an Error that names file, tensor, byte, expected and found.
Result<ModelWeights> bind_weights(const gguf::File& file, const ModelShape& shape, const LoadWeight& load);

/// The multi-token-prediction block (§8.1): a window-only layer with bias routing between two projections and a head of
/// its own; embedding and output matrix are the trunk's.
struct MtpWeights {
  LayerWeights block;
  Weight e_norm;   // [d], of the embedding
  Weight h_norm;   // [d], of each stream
  Weight e_proj;   // [d, d]; absent when eh_proj is there
  Weight h_proj;   // [d, d]
  Weight eh_proj;  // [d, 2 * d]: e_proj and h_proj side by side on the input
  HyperConnectionWeights hc_head;
  Weight norm;  // [d]
};

/// The MTP block in `file`: under mtp.0. (a file of its own, or beside the trunk), or appended to the trunk as block L
/// in llama.cpp's names (§5.5, §5.9). `shape` is the trunk's. nullopt when there is none; `load` gets the layer number
/// L.
Result<std::optional<MtpWeights>> bind_mtp_weights(const gguf::File& file, const ModelShape& shape,
                                                   const LoadWeight& load);

/// Every entry of the hash-routing tables must be an expert; checked once, when the tables are loaded.
Status check_token_experts(const gguf::File& file, const ModelShape& shape);

}  // namespace ds4
