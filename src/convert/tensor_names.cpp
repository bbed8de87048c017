#include "convert/tensor_names.h"

#include <algorithm>

#include "base/text.h"

namespace ds4 {
namespace {

using Dims = std::vector<std::uint64_t>;

class Planner {
 public:
  explicit Planner(const CheckpointConfig& config) : config_(config) {}

  std::vector<TensorPlan> take() { return std::move(plans_); }

  void plan_globals() {
    const std::uint64_t d = config_.hidden_size;
    const std::uint64_t streams = config_.hc_mult;
    to_ = from_ = "";
    matrix("token_embd.weight", "embed.weight", {d, config_.vocab_size});
    matrix("output_hc_fn.weight", "hc_head_fn", {streams * d, streams});
    vector("output_hc_base.weight", "hc_head_base", streams);
    vector("output_hc_scale.weight", "hc_head_scale", 1);
    vector("output_norm.weight", "norm.weight", d);
    matrix("output.weight", "head.weight", {d, config_.vocab_size});
  }

  void plan_layer(std::uint32_t layer) {
    to_ = cat("blk.", layer, ".");
    from_ = cat("layers.", layer, ".");
    const std::int32_t ratio = config_.compress_ratios[layer];
    plan_block(ratio, /*hash_routed=*/layer < config_.num_hash_layers);
  }

  void plan_mtp(std::uint32_t block) {
    const std::uint64_t d = config_.hidden_size;
    const std::uint64_t streams = config_.hc_mult;
    to_ = from_ = mtp_prefix(block);
    plan_block(/*ratio=*/0, /*hash_routed=*/false);
    for (const char* name : {"e_proj.weight", "h_proj.weight"}) matrix(name, name, {d, d});
    for (const char* name : {"enorm.weight", "hnorm.weight", "norm.weight"}) vector(name, name, d);
    matrix("hc_head_fn.weight", "hc_head_fn", {streams * d, streams});
    vector("hc_head_base.weight", "hc_head_base", streams);
    vector("hc_head_scale.weight", "hc_head_scale", 1);
  }

 private:
  void plan_block(std::int32_t ratio, bool hash_routed) {
    plan_hyper_connections();
    plan_attention();
    if (ratio != 0)
      plan_compressor("attn_compressor", "attn.compressor", static_cast<std::uint64_t>(ratio), config_.head_dim);
    if (ratio == 4) plan_indexer();
    plan_experts(hash_routed);
  }

  void plan_hyper_connections() {
    const std::uint64_t controls = config_.hc_controls();
    for (const char* part : {"attn", "ffn"}) {
      matrix(cat("hc_", part, "_fn.weight"), cat("hc_", part, "_fn"),
             {std::uint64_t{config_.hc_mult} * config_.hidden_size, controls});
      vector(cat("hc_", part, "_scale.weight"), cat("hc_", part, "_scale"), 3);
      vector(cat("hc_", part, "_base.weight"), cat("hc_", part, "_base"), controls);
    }
  }

  void plan_attention() {
    const std::uint64_t d = config_.hidden_size;
    const std::uint64_t head = config_.head_dim;
    const std::uint64_t heads = config_.num_attention_heads;
    const std::uint64_t low_rank = std::uint64_t{config_.o_groups} * config_.o_lora_rank;
    vector("attn_norm.weight", "attn_norm.weight", d);
    matrix("attn_q_a.weight", "attn.wq_a.weight", {d, config_.q_lora_rank});
    vector("attn_q_a_norm.weight", "attn.q_norm.weight", config_.q_lora_rank);
    matrix("attn_q_b.weight", "attn.wq_b.weight", {config_.q_lora_rank, heads * head});
    matrix("attn_kv.weight", "attn.wkv.weight", {d, head});
    vector("attn_kv_a_norm.weight", "attn.kv_norm.weight", head);
    vector("attn_sinks.weight", "attn.attn_sink", heads);
    matrix("attn_output_a.weight", "attn.wo_a.weight", {heads / config_.o_groups * head, low_rank});
    matrix("attn_output_b.weight", "attn.wo_b.weight", {low_rank, d});
  }

  void plan_compressor(const std::string& to, const std::string& from, std::uint64_t ratio, std::uint64_t row) {
    const std::uint64_t width = ratio == 4 ? 2 * row : row;  // ratio 4 overlaps: each token serves two blocks
    matrix(to + "_ape.weight", from + ".ape", {width, ratio});
    matrix(to + "_kv.weight", from + ".wkv.weight", {config_.hidden_size, width});
    matrix(to + "_gate.weight", from + ".wgate.weight", {config_.hidden_size, width});
    vector(to + "_norm.weight", from + ".norm.weight", row);
  }

  void plan_indexer() {
    const std::uint64_t heads = config_.index_n_heads;
    matrix("indexer.attn_q_b.weight", "attn.indexer.wq_b.weight",
           {config_.q_lora_rank, heads * config_.index_head_dim});
    matrix("indexer.proj.weight", "attn.indexer.weights_proj.weight", {config_.hidden_size, heads});
    plan_compressor("indexer_compressor", "attn.indexer.compressor", 4, config_.index_head_dim);
  }

  void plan_experts(bool hash_routed) {
    const std::uint64_t d = config_.hidden_size;
    const std::uint64_t inner = config_.moe_intermediate_size;
    const std::uint64_t experts = config_.n_routed_experts;
    vector("ffn_norm.weight", "ffn_norm.weight", d);
    matrix("ffn_gate_inp.weight", "ffn.gate.weight", {d, experts});
    if (hash_routed)
      add("ffn_gate_tid2eid.weight", TensorKind::kTokenTable, {config_.num_experts_per_tok, config_.vocab_size},
          {"ffn.gate.tid2eid"});
    else vector("exp_probs_b.bias", "ffn.gate.bias", experts);
    struct Projection {
      const char* to;
      const char* from;
      std::uint64_t in, out;
    };
    const Projection projections[] = {{"gate", "w1", d, inner}, {"up", "w3", d, inner}, {"down", "w2", inner, d}};
    for (const Projection& p : projections) {
      std::vector<std::string> sources;
      for (std::uint64_t e = 0; e < experts; ++e) sources.push_back(cat("ffn.experts.", e, ".", p.from, ".weight"));
      add(cat("ffn_", p.to, "_exps.weight"), TensorKind::kMatrix, {p.in, p.out, experts}, std::move(sources));
    }
    for (const Projection& p : projections)
      matrix(cat("ffn_", p.to, "_shexp.weight"), cat("ffn.shared_experts.", p.from, ".weight"), {p.in, p.out});
  }

  void matrix(const std::string& to, const std::string& from, Dims dims) {
    add(to, TensorKind::kMatrix, std::move(dims), {from});
  }
  void vector(const std::string& to, const std::string& from, std::uint64_t elements) {
    add(to, TensorKind::kVector, {elements}, {from});
  }
  void add(const std::string& to, TensorKind kind, Dims dims, std::vector<std::string> sources) {
    for (std::string& source : sources) source.insert(0, from_);
    plans_.push_back({to_ + to, kind, std::move(dims), std::move(sources)});
  }

  const CheckpointConfig& config_;
  std::string to_;    // prefix of the names in the model file
  std::string from_;  // and of those in the checkpoint
  std::vector<TensorPlan> plans_;
};

}  // namespace

std::vector<std::uint64_t> TensorPlan::source_shape() const {
  std::vector<std::uint64_t> shape(dims.begin(), dims.begin() + std::min<std::ptrdiff_t>(2, std::ssize(dims)));
  std::reverse(shape.begin(), shape.end());
  return shape;
}

std::string mtp_prefix(std::uint32_t block) { return cat("mtp.", block, "."); }

std::vector<TensorPlan> plan_tensors(const CheckpointConfig& config) {
  Planner planner(config);
  planner.plan_globals();
  for (std::uint32_t layer = 0; layer < config.num_hidden_layers; ++layer) planner.plan_layer(layer);
  for (std::uint32_t block = 0; block < config.num_nextn_predict_layers; ++block) planner.plan_mtp(block);
  return planner.take();
}

}  // namespace ds4
