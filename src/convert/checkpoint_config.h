// config.json of an official checkpoint (spec section 1.1), checked: every field that the model file needs is there, in
// range, and describes a model of this family. Plain data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ds4 {

struct CheckpointConfig {
  // Named as in config.json.
  std::uint32_t num_hidden_layers = 0;
  std::uint32_t hidden_size = 0;
  std::uint32_t vocab_size = 0;
  std::uint32_t max_position_embeddings = 0;
  std::uint32_t num_attention_heads = 0;
  std::uint32_t num_key_value_heads = 1;
  std::uint32_t head_dim = 0;
  std::uint32_t qk_rope_head_dim = 0;
  std::uint32_t q_lora_rank = 0;
  std::uint32_t o_lora_rank = 0;
  std::uint32_t o_groups = 0;
  std::uint32_t sliding_window = 0;
  std::vector<std::int32_t> compress_ratios;  // num_hidden_layers entries, or one more for the MTP block
  std::uint32_t index_n_heads = 0;
  std::uint32_t index_head_dim = 0;
  std::uint32_t index_topk = 0;
  std::uint32_t n_routed_experts = 0;
  std::uint32_t num_experts_per_tok = 0;
  std::uint32_t n_shared_experts = 0;
  std::uint32_t moe_intermediate_size = 0;
  std::uint32_t num_hash_layers = 0;
  bool norm_topk_prob = true;
  float routed_scaling_factor = 1;
  float swiglu_limit = 0;
  std::uint32_t hc_mult = 0;
  std::uint32_t hc_sinkhorn_iters = 0;
  float hc_eps = 0;
  float rms_norm_eps = 0;
  float rope_theta = 0;
  float compress_rope_theta = 0;
  float rope_factor = 1;
  std::uint32_t original_max_position_embeddings = 0;
  float beta_fast = 0;
  float beta_slow = 0;
  std::uint32_t num_nextn_predict_layers = 0;
  std::uint32_t bos_token_id = 0;
  std::uint32_t eos_token_id = 1;

  std::uint32_t hc_controls() const { return (2 + hc_mult) * hc_mult; }
};

/// `name` is what messages call the file.
Result<CheckpointConfig> parse_checkpoint_config(std::string_view json, const std::string& name);

}  // namespace ds4
