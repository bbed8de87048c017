#include "convert/synth_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/test_checkpoint.h"
#include "gguf/file.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {
namespace {

using ::testing::HasSubstr;
using Mix = SynthOptions::Mix;

Result<SynthReport> write_sparse(const std::string& path, Mix mix, int layers, int experts) {
  SynthOptions options;
  options.output = path;
  options.layers = layers;
  options.experts = experts;
  options.mix = mix;
  options.sparse = true;
  return write_synth_model(options);
}

TEST(SynthModel, HasTheSizeOfThePublishedFiles) {
  TestFolder folder;
  const auto q2 = write_sparse(folder.path("q2.gguf"), Mix::kQ2, 43, 256);
  ASSERT_TRUE(q2.ok()) << q2.error().message;
  EXPECT_EQ(q2->tensors, 1328u);
  EXPECT_NEAR(static_cast<double>(q2->bytes) / std::exp2(30), 80.76, 0.006);
  EXPECT_EQ(std::filesystem::file_size(folder.path("q2.gguf")), q2->bytes);
  const auto q4 = write_sparse(folder.path("q4.gguf"), Mix::kQ4, 43, 256);
  ASSERT_TRUE(q4.ok()) << q4.error().message;
  EXPECT_NEAR(static_cast<double>(q4->bytes) / std::exp2(30), 153.32, 0.006);
}

TEST(SynthModel, OpensAsAModelFile) {
  TestFolder folder;
  ASSERT_TRUE(write_sparse(folder.path("m.gguf"), Mix::kQ2, 4, 8).ok());
  const auto model = gguf::File::open(folder.path("m.gguf"));
  ASSERT_TRUE(model.ok()) << model.error().message;
  const auto type = [&](const char* name) { return model->find_tensor(name)->type; };
  EXPECT_EQ(type("token_embd.weight"), DType::kF16);
  EXPECT_EQ(type("output.weight"), DType::kQ8_0);
  EXPECT_EQ(type("blk.2.attn_q_b.weight"), DType::kQ8_0);
  EXPECT_EQ(type("blk.2.indexer.attn_q_b.weight"), DType::kF16);
  EXPECT_EQ(type("blk.2.attn_compressor_kv.weight"), DType::kF16);
  EXPECT_EQ(type("blk.2.hc_ffn_fn.weight"), DType::kF16);
  EXPECT_EQ(type("blk.2.ffn_up_exps.weight"), DType::kIQ2_XXS);
  EXPECT_EQ(type("blk.2.ffn_down_exps.weight"), DType::kQ2_K);
  EXPECT_EQ(type("blk.2.ffn_down_shexp.weight"), DType::kQ8_0);
  EXPECT_EQ(type("blk.2.ffn_gate_tid2eid.weight"), DType::kI32);
  EXPECT_EQ(type("blk.3.exp_probs_b.bias"), DType::kF32);
  EXPECT_EQ(**model->get_uint("deepseek4.block_count"), 4u);
  const auto tokenizer = Tokenizer::from_gguf(*model);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  EXPECT_EQ((*tokenizer)->added_token("<think>"), 128004);
  EXPECT_EQ((*tokenizer)->decode((*tokenizer)->encode_text("three words\n", false)), "three words\n");
}

TEST(SynthModel, BadOptions) {
  TestFolder folder;
  EXPECT_THAT(write_sparse(folder.path("m.gguf"), Mix::kQ2, 0, 8).error().message, HasSubstr("layers"));
  EXPECT_THAT(write_sparse(folder.path("m.gguf"), Mix::kQ2, 1, 5).error().message, HasSubstr("experts"));
  folder.write("m.gguf", "precious");
  EXPECT_EQ(write_sparse(folder.path("m.gguf"), Mix::kQ2, 1, 8).error().code, ErrorCode::kUsage);
}

}  // namespace
}  // namespace ds4
