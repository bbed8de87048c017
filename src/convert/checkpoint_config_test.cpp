#include "convert/checkpoint_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/test_checkpoint.h"

namespace ds4 {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json golden(const std::string& model) { return Json::parse(TestFolder::read(golden_folder(model) + "/config.json")); }

std::string error_of(const Json& json) {
  const auto config = parse_checkpoint_config(json.dump(), "config.json");
  return config.ok() ? "" : config.error().message;
}

TEST(CheckpointConfig, GoldenModels) {
  for (const char* model : {"small-odd", "tiny-bf16", "tiny-official"}) EXPECT_EQ(error_of(golden(model)), "") << model;
  const auto config = parse_checkpoint_config(golden("small-odd").dump(), "config.json");
  EXPECT_EQ(config->num_hidden_layers, 4u);
  EXPECT_EQ(config->compress_ratios, (std::vector<std::int32_t>{0, 4, 128, 4, 0}));
  EXPECT_EQ(config->original_max_position_embeddings, 256u);
  EXPECT_EQ(config->rope_factor, 16.0f);
  EXPECT_EQ(config->hc_controls(), 24u);
}

TEST(CheckpointConfig, EveryNeededFieldIsMissedByName) {
  for (const char* field : {"num_hidden_layers",
                            "hidden_size",
                            "vocab_size",
                            "max_position_embeddings",
                            "num_attention_heads",
                            "head_dim",
                            "qk_rope_head_dim",
                            "q_lora_rank",
                            "o_lora_rank",
                            "o_groups",
                            "sliding_window",
                            "compress_ratios",
                            "index_n_heads",
                            "index_head_dim",
                            "index_topk",
                            "n_routed_experts",
                            "num_experts_per_tok",
                            "n_shared_experts",
                            "moe_intermediate_size",
                            "num_hash_layers",
                            "routed_scaling_factor",
                            "swiglu_limit",
                            "hc_mult",
                            "hc_sinkhorn_iters",
                            "hc_eps",
                            "rms_norm_eps",
                            "rope_theta",
                            "compress_rope_theta",
                            "rope_scaling"}) {
    Json json = golden("tiny-bf16");
    ASSERT_EQ(json.erase(field), 1u) << field;
    EXPECT_EQ(error_of(json), cat("config.json: ", field, ": expected, but missing"));
    json[field] = "text";
    EXPECT_THAT(error_of(json), HasSubstr(cat("config.json: ", field, ": expected ")));
    EXPECT_THAT(error_of(json), HasSubstr("found \\x22text\\x22"));
  }
  for (const char* field : {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}) {
    Json json = golden("tiny-bf16");
    ASSERT_EQ(json["rope_scaling"].erase(field), 1u);
    EXPECT_EQ(error_of(json), cat("config.json: rope_scaling.", field, ": expected, but missing"));
  }
}

TEST(CheckpointConfig, ValuesOutsideTheFamily) {
  struct Case {
    const char* field;
    Json value;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"num_hidden_layers", 0, "expected a whole number from 1 to 4096, found 0"},
      {"num_hidden_layers", 1e300, "expected a whole number from 1 to 4096, found 1e+300"},
      {"hidden_size", -5, "found -5"},
      {"num_key_value_heads", 2, "expected a whole number from 1 to 1, found 2"},
      {"qk_rope_head_dim", 15, "expected an even number, at most head_dim and index_head_dim (128, 32), found 15"},
      {"qk_rope_head_dim", 64, "at most head_dim and index_head_dim (128, 32), found 64"},
      {"o_groups", 3, "expected a divisor of num_attention_heads (4), found 3"},
      {"index_head_dim", 48, "expected a power of two, found 48"},
      {"num_experts_per_tok", 5, "from 1 to 4, found 5"},
      {"num_hash_layers", 7, "from 0 to 6, found 7"},
      {"scoring_func", "sigmoid", "expected \\x22sqrtsoftplus\\x22, found \\x22sigmoid\\x22"},
      {"topk_method", "greedy", "expected \\x22noaux_tc\\x22"},
      {"hidden_act", "gelu", "expected \\x22silu\\x22"},
      {"n_group", 8, "from 0 to 1, found 8"},
      {"tie_word_embeddings", true, "expected false, found true"},
      {"model_type", "llama", "expected \\x22deepseek_v4\\x22"},
      {"norm_topk_prob", 1, "expected true or false, found 1"},
      {"rms_norm_eps", 0, "expected a number above 0, found 0"},
      {"swiglu_limit", 1e300, "expected a number above 0, found 1e+300"},
      {"compress_ratios", Json::array({0, 0, 4}), "expected 6 entries, or one more for an MTP block, found 3"},
      {"compress_ratios", Json::array({0, 0, 4, 128, 4, 64, 0}), "entry 5: expected 0, 4 or 128"},
      {"compress_ratios", Json::array({0, 0, 4, 128, 4, 128, 4}), "entry 6: expected 0 for an MTP block"},
      {"rope_scaling", Json::array(), "expected an object, found an array"},
      {"eos_token_id", 512, "from 0 to 511, found 512"},
      {"quantization_config", Json({{"weight_block_size", {64, 64}}}),
       "weight_block_size: expected an array, found an array"},
      {"quantization_config", Json({{"fmt", "e5m2"}}), "quantization_config.fmt: expected \\x22e4m3\\x22"},
  };
  for (const Case& bad : cases) {
    Json json = golden("tiny-bf16");
    json[bad.field] = bad.value;
    EXPECT_THAT(error_of(json), HasSubstr(bad.field));
    EXPECT_THAT(error_of(json), HasSubstr(bad.message));
  }
  Json json = golden("tiny-bf16");
  json["rope_scaling"]["type"] = "linear";
  EXPECT_THAT(error_of(json), HasSubstr("rope_scaling.type: expected \\x22yarn\\x22"));
}

TEST(CheckpointConfig, NotJson) {
  for (const char* text : {"", "{", "[]", "\xff"})
    EXPECT_THAT(parse_checkpoint_config(text, "c").error().message, HasSubstr("c: expected a JSON object"));
  const std::string deep = "{\"hidden_size\":" + std::string(200000, '[') + std::string(200000, ']') + "}";
  EXPECT_FALSE(parse_checkpoint_config(deep, "c").ok()) << "and no stack overflow";
}

TEST(CheckpointConfig, RatiosWithoutAnEntryForMtp) {
  Json json = golden("tiny-bf16");
  json["compress_ratios"] = Json::array({0, 0, 4, 128, 4, 128});
  EXPECT_EQ(error_of(json), "");
}

}  // namespace
}  // namespace ds4
