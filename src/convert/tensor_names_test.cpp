#include "convert/tensor_names.h"

#include <map>
#include <set>

#include <gtest/gtest.h>

namespace ds4 {
namespace {

CheckpointConfig flash() {
  CheckpointConfig c;
  c.num_hidden_layers = 43, c.hidden_size = 4096, c.vocab_size = 129280, c.num_attention_heads = 64, c.head_dim = 512;
  c.qk_rope_head_dim = 64, c.q_lora_rank = 1024, c.o_lora_rank = 1024, c.o_groups = 8, c.index_n_heads = 64;
  c.index_head_dim = 128, c.n_routed_experts = 256, c.num_experts_per_tok = 6, c.moe_intermediate_size = 2048;
  c.num_hash_layers = 3, c.hc_mult = 4;
  for (int layer = 0; layer < 43; ++layer) c.compress_ratios.push_back(layer < 2 ? 0 : layer % 2 == 0 ? 4 : 128);
  return c;
}

CheckpointConfig pro() {
  CheckpointConfig c = flash();
  c.num_hidden_layers = 61, c.hidden_size = 7168, c.num_attention_heads = 128, c.q_lora_rank = 1536, c.o_groups = 16;
  c.n_routed_experts = 384, c.moe_intermediate_size = 3072;
  c.compress_ratios.clear();
  for (int layer = 0; layer < 61; ++layer) c.compress_ratios.push_back(layer >= 2 && layer % 2 == 0 ? 4 : 128);
  return c;
}

double parameters(const std::vector<TensorPlan>& plans) {
  double sum = 0;
  for (const TensorPlan& plan : plans) {
    double elements = plan.kind == TensorKind::kTokenTable ? 0 : 1;
    for (const std::uint64_t dim : plan.dims) elements *= static_cast<double>(dim);
    sum += elements;
  }
  return sum;
}

TEST(TensorNames, CountsOfTheSpecification) {
  const auto plans = plan_tensors(flash());
  EXPECT_EQ(plans.size(), 1328u);
  EXPECT_NEAR(parameters(plans) / 1e9, 284.33, 0.005);
  EXPECT_NEAR(parameters(plan_tensors(pro())) / 1e9, 1573.0, 0.05);
  std::set<std::string> names, sources;
  std::size_t source_count = 0;
  for (const TensorPlan& plan : plans) {
    names.insert(plan.name);
    sources.insert(plan.sources.begin(), plan.sources.end());
    source_count += plan.sources.size();
  }
  EXPECT_EQ(names.size(), plans.size()) << "no name twice";
  EXPECT_EQ(sources.size(), source_count) << "no source twice";
}

TEST(TensorNames, MtpBlockHas32Tensors) {
  CheckpointConfig config = flash();
  config.num_nextn_predict_layers = 1;
  std::set<std::string> mtp;
  for (const TensorPlan& plan : plan_tensors(config))
    if (plan.name.starts_with("mtp.0.")) mtp.insert(plan.name);
  EXPECT_EQ(mtp.size(), 32u);
  for (const char* name :
       {"mtp.0.e_proj.weight", "mtp.0.hc_head_fn.weight", "mtp.0.norm.weight", "mtp.0.exp_probs_b.bias"})
    EXPECT_TRUE(mtp.contains(name)) << name;
}

TEST(TensorNames, NamesAndDims) {
  std::map<std::string, TensorPlan> plans;
  for (const TensorPlan& plan : plan_tensors(flash())) plans[plan.name] = plan;
  struct Expected {
    const char* name;
    std::vector<std::uint64_t> dims;
    TensorKind kind;
    const char* source;
  };
  const auto m = TensorKind::kMatrix;
  const auto v = TensorKind::kVector;
  const std::vector<Expected> table = {
      {"token_embd.weight", {4096, 129280}, m, "embed.weight"},
      {"output.weight", {4096, 129280}, m, "head.weight"},
      {"output_norm.weight", {4096}, v, "norm.weight"},
      {"output_hc_fn.weight", {16384, 4}, m, "hc_head_fn"},
      {"output_hc_base.weight", {4}, v, "hc_head_base"},
      {"output_hc_scale.weight", {1}, v, "hc_head_scale"},
      {"blk.3.hc_ffn_fn.weight", {16384, 24}, m, "layers.3.hc_ffn_fn"},
      {"blk.3.hc_attn_scale.weight", {3}, v, "layers.3.hc_attn_scale"},
      {"blk.3.hc_attn_base.weight", {24}, v, "layers.3.hc_attn_base"},
      {"blk.3.attn_norm.weight", {4096}, v, "layers.3.attn_norm.weight"},
      {"blk.3.attn_q_a.weight", {4096, 1024}, m, "layers.3.attn.wq_a.weight"},
      {"blk.3.attn_q_a_norm.weight", {1024}, v, "layers.3.attn.q_norm.weight"},
      {"blk.3.attn_q_b.weight", {1024, 32768}, m, "layers.3.attn.wq_b.weight"},
      {"blk.3.attn_kv.weight", {4096, 512}, m, "layers.3.attn.wkv.weight"},
      {"blk.3.attn_kv_a_norm.weight", {512}, v, "layers.3.attn.kv_norm.weight"},
      {"blk.3.attn_sinks.weight", {64}, v, "layers.3.attn.attn_sink"},
      {"blk.3.attn_output_a.weight", {4096, 8192}, m, "layers.3.attn.wo_a.weight"},
      {"blk.3.attn_output_b.weight", {8192, 4096}, m, "layers.3.attn.wo_b.weight"},
      {"blk.3.attn_compressor_ape.weight", {512, 128}, m, "layers.3.attn.compressor.ape"},
      {"blk.4.attn_compressor_ape.weight", {1024, 4}, m, "layers.4.attn.compressor.ape"},
      {"blk.4.attn_compressor_kv.weight", {4096, 1024}, m, "layers.4.attn.compressor.wkv.weight"},
      {"blk.4.attn_compressor_gate.weight", {4096, 1024}, m, "layers.4.attn.compressor.wgate.weight"},
      {"blk.4.attn_compressor_norm.weight", {512}, v, "layers.4.attn.compressor.norm.weight"},
      {"blk.4.indexer.attn_q_b.weight", {1024, 8192}, m, "layers.4.attn.indexer.wq_b.weight"},
      {"blk.4.indexer.proj.weight", {4096, 64}, m, "layers.4.attn.indexer.weights_proj.weight"},
      {"blk.4.indexer_compressor_ape.weight", {256, 4}, m, "layers.4.attn.indexer.compressor.ape"},
      {"blk.4.indexer_compressor_kv.weight", {4096, 256}, m, "layers.4.attn.indexer.compressor.wkv.weight"},
      {"blk.4.indexer_compressor_norm.weight", {128}, v, "layers.4.attn.indexer.compressor.norm.weight"},
      {"blk.3.ffn_norm.weight", {4096}, v, "layers.3.ffn_norm.weight"},
      {"blk.3.ffn_gate_inp.weight", {4096, 256}, m, "layers.3.ffn.gate.weight"},
      {"blk.3.exp_probs_b.bias", {256}, v, "layers.3.ffn.gate.bias"},
      {"blk.2.ffn_gate_tid2eid.weight", {6, 129280}, TensorKind::kTokenTable, "layers.2.ffn.gate.tid2eid"},
      {"blk.3.ffn_gate_exps.weight", {4096, 2048, 256}, m, "layers.3.ffn.experts.0.w1.weight"},
      {"blk.3.ffn_up_exps.weight", {4096, 2048, 256}, m, "layers.3.ffn.experts.0.w3.weight"},
      {"blk.3.ffn_down_exps.weight", {2048, 4096, 256}, m, "layers.3.ffn.experts.0.w2.weight"},
      {"blk.3.ffn_gate_shexp.weight", {4096, 2048}, m, "layers.3.ffn.shared_experts.w1.weight"},
      {"blk.3.ffn_up_shexp.weight", {4096, 2048}, m, "layers.3.ffn.shared_experts.w3.weight"},
      {"blk.3.ffn_down_shexp.weight", {2048, 4096}, m, "layers.3.ffn.shared_experts.w2.weight"},
  };
  for (const Expected& row : table) {
    ASSERT_TRUE(plans.contains(row.name)) << row.name;
    EXPECT_EQ(plans[row.name].dims, row.dims) << row.name;
    EXPECT_EQ(plans[row.name].kind, row.kind) << row.name;
    EXPECT_EQ(plans[row.name].sources[0], row.source) << row.name;
  }
  EXPECT_EQ(plans["blk.3.ffn_up_exps.weight"].sources[255], "layers.3.ffn.experts.255.w3.weight");
  EXPECT_EQ(plans["blk.3.ffn_up_exps.weight"].source_shape(), (std::vector<std::uint64_t>{2048, 4096}));
  for (const char* absent : {"blk.2.exp_probs_b.bias", "blk.3.ffn_gate_tid2eid.weight", "blk.3.indexer.proj.weight",
                             "blk.0.attn_compressor_kv.weight"})
    EXPECT_FALSE(plans.contains(absent)) << absent;
}

}  // namespace
}  // namespace ds4
