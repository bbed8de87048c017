// The tensors of a model by their place in the paper, bound from the names in the file (spec section 5.4, dialects 5.9).
// Who loads a weight, and where, is the caller's: binding calls `load` once per tensor and stores what it returns.
#pragma once

#include <functional>
#include <vector>

#include "backend/backend.h"
#include "base/result.h"
#include "gguf/file.h"
#include "model/shape.h"

namespace ds4 {

struct LayerWeights {
  HyperConnectionWeights hc_attn;
  HyperConnectionWeights hc_ffn;
  Weight attn_norm;      // [d]
  Weight ffn_norm;       // [d]
  // attention
  Weight q_a;            // [q_lora, d]
  Weight q_a_norm;       // [q_lora]
  Weight q_b;            // [H * head_dim, q_lora]
  Weight kv;             // [head_dim, d]
  Weight kv_norm;        // [head_dim]
  Weight sinks;          // [H]
  Weight output_a;       // [G * o_lora, H / G * head_dim]
  Weight output_b;       // [d, G * o_lora]
  CompressorWeights compressor;          // ratio != 0
  Weight index_q_b;                      // [index_heads * index_dim, q_lora], ratio 4
  Weight index_proj;                     // [index_heads, d]
  CompressorWeights index_compressor;
  // mixture of experts
  Weight router;         // [experts, d]
  Weight router_bias;    // [experts], layers that are not hash-routed
  Weight token_experts;  // i32 [vocab, experts_used], hash-routed layers
  Weight gate, up, down; // [experts][expert_ff, d], the same, [experts][d, expert_ff]
  Weight shared_gate, shared_up, shared_down;
};

struct ModelWeights {
  Weight embedding;      // [vocab, d], on the first layer's backend
  std::vector<LayerWeights> layers;
  HyperConnectionWeights hc_head;  // on the last layer's backend, as the rest
  Weight norm;           // [d]
  Weight output;         // [vocab, d]
};

/// Called with the trunk layer a weight belongs to (the embedding counts to the first, the head to the last).
using LoadWeight = std::function<Result<Weight>(const HostWeight& weight, int layer)>;

/// A missing tensor, a wrong shape or a wrong type is an Error that names file, tensor, byte, expected and found.
Result<ModelWeights> bind_weights(const gguf::File& file, const ModelShape& shape, const LoadWeight& load);

/// Every entry of the hash-routing tables must be an expert; checked once, when the tables are loaded.
Status check_token_experts(const gguf::File& file, const ModelShape& shape);

}  // namespace ds4
