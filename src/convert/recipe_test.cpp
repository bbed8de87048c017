// Which tensor becomes what: against the published sizes (spec sections 5.4, 5.6, 5.8).
#include "convert/recipe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "convert/checkpoint_config.h"

namespace ds4 {
namespace {

using ::testing::HasSubstr;

CheckpointConfig flash() {
  CheckpointConfig c;
  c.num_hidden_layers = 43;
  c.hidden_size = 4096;
  c.vocab_size = 129280;
  c.num_attention_heads = 64;
  c.head_dim = 512;
  c.qk_rope_head_dim = 64;
  c.q_lora_rank = 1024;
  c.o_lora_rank = 1024;
  c.o_groups = 8;
  c.index_n_heads = 64;
  c.index_head_dim = 128;
  c.n_routed_experts = 256;
  c.num_experts_per_tok = 6;
  c.n_shared_experts = 1;
  c.moe_intermediate_size = 2048;
  c.num_hash_layers = 3;
  c.hc_mult = 4;
  for (int layer = 0; layer < 43; ++layer) c.compress_ratios.push_back(layer < 2 ? 0 : layer % 2 == 0 ? 4 : 128);
  return c;
}

CheckpointConfig pro() {
  CheckpointConfig c = flash();
  c.num_hidden_layers = 61;
  c.hidden_size = 7168;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.o_groups = 16;
  c.n_routed_experts = 384;
  c.moe_intermediate_size = 3072;
  c.compress_ratios.clear();
  for (int layer = 0; layer < 61; ++layer) c.compress_ratios.push_back(layer < 2 ? 128 : layer % 2 == 0 ? 4 : 128);
  return c;
}

Recipe recipe(const std::string& name, int layers, std::vector<LayerRange> q4 = {}) {
  RecipeOptions options;
  options.name = name;
  options.q4_layers = std::move(q4);
  auto made = Recipe::make(options, layers);
  EXPECT_TRUE(made.ok()) << made.error().message;
  return std::move(made).value();
}

std::uint64_t bytes_of(const CheckpointConfig& config, const Recipe& recipe,
                       std::map<TensorGroup, std::uint64_t>* groups = nullptr) {
  std::uint64_t total = 0;
  for (const TensorPlan& plan : plan_tensors(config)) {
    std::uint64_t elements = 1;
    for (const std::uint64_t dim : plan.dims) elements *= dim;
    const std::uint64_t bytes = row_bytes(recipe.choose(plan.name, plan.kind).type, elements);
    total += bytes;
    if (groups != nullptr) (*groups)[tensor_group(plan.name, plan.kind)] += bytes;
  }
  return total;
}

TEST(Recipe, FlashHasThePublishedSizes) {
  std::map<TensorGroup, std::uint64_t> groups;
  EXPECT_EQ(bytes_of(flash(), recipe("q2", 43), &groups), 86'714'775'900U);
  EXPECT_EQ(groups[TensorGroup::kEmbedding], 1'059'061'760U);
  EXPECT_EQ(groups[TensorGroup::kOutput], 562'626'560U);
  EXPECT_EQ(groups[TensorGroup::kHyperConnection], 67'764'224U);
  EXPECT_EQ(groups[TensorGroup::kVector], 1'845'596U);
  EXPECT_EQ(groups[TensorGroup::kAttention], 4'886'495'232U);
  EXPECT_EQ(groups[TensorGroup::kCompressor], 522'887'168U);
  EXPECT_EQ(groups[TensorGroup::kIndexer], 451'454'976U);
  EXPECT_EQ(groups[TensorGroup::kRouter], 99'485'696U);
  EXPECT_EQ(groups[TensorGroup::kSharedExperts], 1'149'763'584U);
  EXPECT_EQ(groups[TensorGroup::kGateUp], 47'613'739'008U);
  EXPECT_EQ(groups[TensorGroup::kDown], 30'299'652'096U);
  EXPECT_EQ(groups.count(TensorGroup::kOther), 0U);
  EXPECT_EQ(bytes_of(flash(), recipe("q4", 43)), 164'628'167'004U);
  EXPECT_EQ(bytes_of(flash(), recipe("q2-q4", 43)), 97'586'411'868U);
  EXPECT_EQ(bytes_of(flash(), recipe("q2-q4", 43, {{37, 42}})), 97'586'411'868U);
  EXPECT_EQ(bytes_of(flash(), recipe("mxfp4", 43)), 155'971'123'548U);
}

TEST(Recipe, ProHasThePublishedSizes) {
  EXPECT_EQ(bytes_of(pro(), recipe("q2", 61)), 464'621'966'732U);
  EXPECT_EQ(bytes_of(pro(), recipe("q4", 61)), 899'827'144'076U);
}

TEST(Recipe, DraftBlock) {
  CheckpointConfig config = flash();
  config.num_nextn_predict_layers = 1;
  const std::uint64_t block = bytes_of(config, recipe("q2", 43)) - bytes_of(flash(), recipe("q2", 43));
  EXPECT_NEAR(static_cast<double>(block) / (1 << 30), 3.55, 0.01) << "published as a file of its own, in 4 bits";
  EXPECT_EQ(recipe("q2", 43).choose("mtp.0.ffn_down_exps.weight", TensorKind::kMatrix).type, DType::kQ4_K);
  EXPECT_EQ(recipe("q2", 43).choose("mtp.0.h_proj.weight", TensorKind::kMatrix).type, DType::kQ8_0);
}

TEST(Recipe, LayersOfTheMixedRecipe) {
  const Recipe mixed = recipe("q2-q4", 43, {{0, 1}, {40, 40}});
  const auto type = [&](const char* name) { return mixed.choose(name, TensorKind::kMatrix).type; };
  EXPECT_EQ(type("blk.0.ffn_gate_exps.weight"), DType::kQ4_K);
  EXPECT_EQ(type("blk.2.ffn_gate_exps.weight"), DType::kIQ2_XXS);
  EXPECT_EQ(type("blk.4.ffn_down_exps.weight"), DType::kQ2_K);
  EXPECT_EQ(type("blk.40.ffn_down_exps.weight"), DType::kQ4_K);
  EXPECT_EQ(type("blk.10.ffn_up_exps.weight"), DType::kIQ2_XXS);
  EXPECT_EQ(recipe("q2-q4", 4).choose("blk.0.ffn_up_exps.weight", TensorKind::kMatrix).type, DType::kQ4_K)
      << "the last six of four";
}

TEST(Recipe, WithoutAName) {
  RecipeOptions options;
  options.type = DType::kBF16;
  options.experts = DType::kMXFP4;
  const Recipe plain = std::move(Recipe::make(options, 4)).value();
  EXPECT_EQ(plain.choose("token_embd.weight", TensorKind::kMatrix).type, DType::kBF16);
  EXPECT_EQ(plain.choose("blk.0.ffn_up_exps.weight", TensorKind::kMatrix).type, DType::kMXFP4);
  EXPECT_EQ(plain.choose("blk.0.ffn_up_shexp.weight", TensorKind::kMatrix).type, DType::kBF16);
  EXPECT_EQ(plain.choose("blk.0.attn_norm.weight", TensorKind::kVector).type, DType::kF32);
  EXPECT_EQ(plain.choose("blk.0.ffn_gate_tid2eid.weight", TensorKind::kTokenTable).type, DType::kI32);
}

TEST(Recipe, TheLastMatchingOverrideCounts) {
  RecipeOptions options;
  options.name = "q4";
  options.overrides = {{"blk.*", DType::kF16}, {"blk.1.attn_?v.weight", DType::kQ8_0}, {"*kv*", DType::kBF16}};
  const Recipe recipe = std::move(Recipe::make(options, 4)).value();
  const auto choice = recipe.choose("blk.1.attn_kv.weight", TensorKind::kMatrix);
  EXPECT_EQ(choice.type, DType::kBF16);
  EXPECT_TRUE(choice.forced);
  EXPECT_EQ(recipe.choose("blk.1.ffn_up_exps.weight", TensorKind::kMatrix).type, DType::kF16);
  EXPECT_FALSE(recipe.choose("output.weight", TensorKind::kMatrix).forced);
  EXPECT_EQ(recipe.choose("blk.1.attn_norm.weight", TensorKind::kVector).type, DType::kF32) << "never a vector";
  EXPECT_EQ(recipe.unused_override({"blk.0.attn_kv.weight"}), "blk.1.attn_?v.weight");
  EXPECT_EQ(recipe.unused_override({"blk.1.attn_kv.weight"}), std::nullopt);
}

TEST(Recipe, Refusals) {
  const auto refusal = [](RecipeOptions options) { return Recipe::make(options, 10).error().message; };
  RecipeOptions options;
  options.name = "q3";
  EXPECT_THAT(refusal(options), HasSubstr("expected q2, q2-q4, q4, mxfp4 or q8, found \"q3\""));
  options.name = "q2";
  options.q4_layers = {{1, 2}};
  EXPECT_THAT(refusal(options), HasSubstr("belong to the recipe q2-q4"));
  options.name = "q2-q4";
  options.q4_layers = {{1, 10}};
  EXPECT_THAT(refusal(options), HasSubstr("expected numbers from 0 to 9, found 10"));
}

TEST(RecipeFlags, LayerRanges) {
  const auto ranges = parse_layer_ranges("37-42,5");
  ASSERT_TRUE(ranges.ok());
  ASSERT_EQ(ranges->size(), 2U);
  EXPECT_EQ((*ranges)[0].first, 37);
  EXPECT_EQ((*ranges)[0].last, 42);
  EXPECT_EQ((*ranges)[1].first, 5);
  EXPECT_EQ((*ranges)[1].last, 5);
  for (const char* bad : {"", ",", "1,", "a", "1-", "-1", "3-2", "1-2-3", "1 2", "99999999999"})
    EXPECT_FALSE(parse_layer_ranges(bad).ok()) << bad;
}

TEST(RecipeFlags, Overrides) {
  const auto rule = parse_type_override("blk.*=x=q4_k");
  ASSERT_TRUE(rule.ok());
  EXPECT_EQ(rule->pattern, "blk.*=x");
  EXPECT_EQ(rule->type, DType::kQ4_K);
  for (const char* bad : {"", "a", "a=", "=q8_0", "a=q9", "a=i32"}) EXPECT_FALSE(parse_type_override(bad).ok()) << bad;
}

TEST(RecipeFlags, Patterns) {
  EXPECT_TRUE(matches_pattern("", ""));
  EXPECT_TRUE(matches_pattern("*", ""));
  EXPECT_TRUE(matches_pattern("a*b*c", "aXbYbZc"));
  EXPECT_TRUE(matches_pattern("*.weight", "blk.0.weight"));
  EXPECT_TRUE(matches_pattern("a?c", "abc"));
  EXPECT_FALSE(matches_pattern("a?c", "ac"));
  EXPECT_FALSE(matches_pattern("a*b", "abc"));
  EXPECT_FALSE(matches_pattern("abc", "ab"));
  EXPECT_FALSE(matches_pattern("ab", "abc"));
  EXPECT_FALSE(matches_pattern("", "a"));
  EXPECT_FALSE(matches_pattern("a*a*a*a*a*a*a*a*b", std::string(5000, 'a'))) << "and quickly";
}

}  // namespace
}  // namespace ds4
