#include "convert/model_metadata.h"

#include <vector>

#include "base/text.h"

namespace ds4 {
namespace {

/// Adds keys below "deepseek4.".
class FamilyKeys {
 public:
  explicit FamilyKeys(gguf::Writer& writer) : writer_(writer) {}
  void u32(std::string_view key, std::uint32_t value) { writer_.add_u32(full(key), value); }
  void f32(std::string_view key, float value) { writer_.add_f32(full(key), value); }
  void boolean(std::string_view key, bool value) { writer_.add_bool(full(key), value); }
  void string(std::string_view key, std::string_view value) { writer_.add_string(full(key), value); }
  void i32s(std::string_view key, std::span<const std::int32_t> values) { writer_.add_i32_array(full(key), values); }
  void f32s(std::string_view key, std::span<const float> values) { writer_.add_f32_array(full(key), values); }

 private:
  static std::string full(std::string_view key) { return cat("deepseek4.", key); }
  gguf::Writer& writer_;
};

void add_attention(const CheckpointConfig& config, FamilyKeys& keys) {
  keys.u32("attention.head_count", config.num_attention_heads);
  keys.u32("attention.head_count_kv", config.num_key_value_heads);
  keys.u32("attention.key_length", config.head_dim);
  keys.u32("attention.value_length", config.head_dim);
  keys.u32("attention.q_lora_rank", config.q_lora_rank);
  keys.u32("attention.output_lora_rank", config.o_lora_rank);
  keys.u32("attention.output_group_count", config.o_groups);
  keys.u32("attention.sliding_window", config.sliding_window);
  keys.i32s("attention.compress_ratios", config.compress_ratios);
  keys.u32("attention.indexer.head_count", config.index_n_heads);
  keys.u32("attention.indexer.key_length", config.index_head_dim);
  keys.u32("attention.indexer.top_k", config.index_topk);
  keys.f32("attention.layer_norm_rms_epsilon", config.rms_norm_eps);
}

void add_rope(const CheckpointConfig& config, FamilyKeys& keys) {
  keys.u32("rope.dimension_count", config.qk_rope_head_dim);
  keys.f32("rope.freq_base", config.rope_theta);
  keys.f32("attention.compress_rope_freq_base", config.compress_rope_theta);
  keys.string("rope.scaling.type", "yarn");
  keys.f32("rope.scaling.factor", config.rope_factor);
  keys.u32("rope.scaling.original_context_length", config.original_max_position_embeddings);
  keys.f32("rope.scaling.yarn_beta_fast", config.beta_fast);
  keys.f32("rope.scaling.yarn_beta_slow", config.beta_slow);
}

void add_experts(const CheckpointConfig& config, FamilyKeys& keys) {
  constexpr std::uint32_t kSqrtSoftplus = 4;
  keys.u32("expert_count", config.n_routed_experts);
  keys.u32("expert_used_count", config.num_experts_per_tok);
  keys.u32("expert_shared_count", config.n_shared_experts);
  keys.u32("expert_feed_forward_length", config.moe_intermediate_size);
  keys.u32("expert_gating_func", kSqrtSoftplus);
  keys.boolean("expert_weights_norm", config.norm_topk_prob);
  keys.f32("expert_weights_scale", config.routed_scaling_factor);
  keys.u32("hash_layer_count", config.num_hash_layers);
  keys.f32s("swiglu_clamp_exp", std::vector<float>(config.num_hidden_layers, config.swiglu_limit));
}

}  // namespace

void add_model_metadata(const CheckpointConfig& config, const std::string& model_name, std::uint32_t file_type,
                        gguf::Writer& writer) {
  constexpr std::uint32_t kQuantizationVersion = 2;
  writer.add_string("general.architecture", "deepseek4");
  writer.add_string("general.name", model_name);
  writer.add_u32("general.file_type", file_type);
  writer.add_u32("general.quantization_version", kQuantizationVersion);
  FamilyKeys keys(writer);
  keys.u32("block_count", config.num_hidden_layers);
  keys.u32("context_length", config.max_position_embeddings);
  keys.u32("embedding_length", config.hidden_size);
  keys.u32("vocab_size", config.vocab_size);
  add_attention(config, keys);
  add_rope(config, keys);
  add_experts(config, keys);
  keys.u32("hyper_connection.count", config.hc_mult);
  keys.u32("hyper_connection.sinkhorn_iterations", config.hc_sinkhorn_iters);
  keys.f32("hyper_connection.epsilon", config.hc_eps);
  keys.u32("nextn_predict_layers", config.num_nextn_predict_layers);
}

void add_tokenizer_metadata(const Tokenizer::Tables& tables, gguf::Writer& writer) {
  writer.add_string("tokenizer.ggml.model", "gpt2");
  writer.add_string("tokenizer.ggml.pre", "joyai-llm");
  writer.add_string_array("tokenizer.ggml.tokens", tables.tokens);
  writer.add_i32_array("tokenizer.ggml.token_type", tables.types);
  writer.add_string_array("tokenizer.ggml.merges", tables.merges);
  writer.add_u32("tokenizer.ggml.bos_token_id", static_cast<std::uint32_t>(tables.bos));
  writer.add_u32("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(tables.eos));
  writer.add_u32("tokenizer.ggml.padding_token_id", static_cast<std::uint32_t>(tables.eos));
  writer.add_bool("tokenizer.ggml.add_bos_token", false);
  writer.add_bool("tokenizer.ggml.add_eos_token", false);
}

}  // namespace ds4
