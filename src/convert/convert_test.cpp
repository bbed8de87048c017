#include "convert/convert.h"

#include <atomic>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/safetensors.h"
#include "convert/test_checkpoint.h"
#include "convert/test_convert.h"
#include "gguf/file.h"
#include "tokenizer/byte_map.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

/// A checkpoint folder made of a golden one, with pieces changed. Tensors keep their bytes unless they are replaced.
class ChangedCheckpoint {
 public:
  explicit ChangedCheckpoint(const std::string& model)
      : config(Json::parse(TestFolder::read(golden_folder(model) + "/config.json"))),
        source_(std::move(SafetensorsFile::open(golden_folder(model) + "/model.safetensors")).value()) {
    for (const SafeTensor& tensor : source_.tensors()) tensors[tensor.name] = copy_of(tensor);
  }

  struct Tensor {
    std::string dtype;
    std::vector<std::uint64_t> shape;
    std::vector<std::byte> data;
  };

  /// Writes config.json and model.safetensors.
  const TestFolder& write() {
    SafetensorsBuilder builder;
    for (const auto& [name, tensor] : tensors) builder.add(name, tensor.dtype, tensor.shape, tensor.data);
    folder.write("model.safetensors", builder.bytes());
    folder.write("config.json", config.dump());
    return folder;
  }

  std::string convert_error(DType type = DType::kF32) {
    write();
    const Outcome outcome = convert(folder.path(), folder.path("out.gguf"), type);
    EXPECT_FALSE(std::filesystem::exists(folder.path("out.gguf")) && !outcome.report.ok())
        << "a failure leaves no file";
    EXPECT_FALSE(std::filesystem::exists(folder.path("out.gguf.part")));
    return outcome.report.ok() ? "" : outcome.report.error().message;
  }

  TestFolder folder;
  Json config;
  std::map<std::string, Tensor> tensors;

 private:
  static Tensor copy_of(const SafeTensor& tensor) {
    return {std::string(safe_type_name(tensor.type)), tensor.shape, {tensor.data.begin(), tensor.data.end()}};
  }
  SafetensorsFile source_;
};

TEST(Convert, Metadata) {
  TestFolder folder;
  ASSERT_TRUE(convert(golden_folder("small-odd"), folder.path("m.gguf"), DType::kQ8_0).report.ok());
  const gguf::File model = open_model(folder.path("m.gguf"));
  const std::map<std::string, std::uint64_t> integers = {{"general.file_type", 7},
                                                         {"general.quantization_version", 2},
                                                         {"deepseek4.block_count", 4},
                                                         {"deepseek4.embedding_length", 128},
                                                         {"deepseek4.vocab_size", 320},
                                                         {"deepseek4.context_length", 4096},
                                                         {"deepseek4.attention.head_count", 4},
                                                         {"deepseek4.attention.head_count_kv", 1},
                                                         {"deepseek4.attention.key_length", 64},
                                                         {"deepseek4.attention.value_length", 64},
                                                         {"deepseek4.rope.dimension_count", 32},
                                                         {"deepseek4.attention.q_lora_rank", 96},
                                                         {"deepseek4.attention.output_lora_rank", 32},
                                                         {"deepseek4.attention.output_group_count", 4},
                                                         {"deepseek4.attention.sliding_window", 16},
                                                         {"deepseek4.attention.indexer.head_count", 2},
                                                         {"deepseek4.attention.indexer.key_length", 64},
                                                         {"deepseek4.attention.indexer.top_k", 8},
                                                         {"deepseek4.expert_count", 8},
                                                         {"deepseek4.expert_used_count", 3},
                                                         {"deepseek4.expert_shared_count", 1},
                                                         {"deepseek4.expert_feed_forward_length", 64},
                                                         {"deepseek4.hash_layer_count", 1},
                                                         {"deepseek4.expert_gating_func", 4},
                                                         {"deepseek4.hyper_connection.count", 4},
                                                         {"deepseek4.hyper_connection.sinkhorn_iterations", 20},
                                                         {"deepseek4.rope.scaling.original_context_length", 256},
                                                         {"deepseek4.nextn_predict_layers", 0}};
  for (const auto& [key, expected] : integers) {
    const auto found = model.get_uint(key);
    ASSERT_TRUE(found.ok() && found->has_value()) << key;
    EXPECT_EQ(**found, expected) << key;
    EXPECT_EQ(model.find_value(key)->type, gguf::ValueType::kU32) << key;
  }
  const std::map<std::string, double> reals = {{"deepseek4.expert_weights_scale", 1.5},
                                               {"deepseek4.hyper_connection.epsilon", 1e-6},
                                               {"deepseek4.attention.layer_norm_rms_epsilon", 1e-6},
                                               {"deepseek4.rope.freq_base", 10000},
                                               {"deepseek4.attention.compress_rope_freq_base", 160000},
                                               {"deepseek4.rope.scaling.factor", 16},
                                               {"deepseek4.rope.scaling.yarn_beta_fast", 32},
                                               {"deepseek4.rope.scaling.yarn_beta_slow", 1}};
  for (const auto& [key, expected] : reals) {
    const auto found = model.get_float(key);
    ASSERT_TRUE(found.ok() && found->has_value()) << key;
    EXPECT_EQ(**found, static_cast<double>(static_cast<float>(expected))) << key;
  }
  EXPECT_EQ(**model.get_string("general.architecture"), "deepseek4");
  EXPECT_EQ(**model.get_string("general.name"), "small-odd");
  EXPECT_EQ(**model.get_string("deepseek4.rope.scaling.type"), "yarn");
  EXPECT_EQ(**model.get_bool("deepseek4.expert_weights_norm"), true);
  EXPECT_THAT(**model.get_int_array("deepseek4.attention.compress_ratios"), ElementsAre(0, 4, 128, 4, 0));
  EXPECT_EQ(model.find_value("deepseek4.attention.compress_ratios")->element, gguf::ValueType::kI32);
  EXPECT_THAT(**model.get_float_array("deepseek4.swiglu_clamp_exp"), ElementsAre(10, 10, 10, 10));
  EXPECT_EQ(model.find_value("tokenizer.ggml.tokens"), nullptr);
}

TEST(Convert, TokenizerIsTakenAlong) {
  ChangedCheckpoint checkpoint("small-odd");
  checkpoint.write();
  Json vocab = {{"<s>", 0}, {"</s>", 1}, {"ab", 2}};
  for (int byte = 0; byte < 256; ++byte) vocab[byte_symbol(static_cast<std::uint8_t>(byte))] = 3 + byte;
  const Json added = {{"id", 0}, {"content", "<s>"}, {"special", true}};
  const Json tokenizer = {{"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Json::array({"a b"})}}},
                          {"added_tokens", Json::array({added})}};
  checkpoint.folder.write("tokenizer.json", tokenizer.dump());
  const Outcome outcome = convert(checkpoint.folder.path(), checkpoint.folder.path("m.gguf"), DType::kF32);
  ASSERT_TRUE(outcome.report.ok()) << outcome.report.error().message;
  EXPECT_THAT(outcome.notes, IsEmpty());
  const gguf::File model = open_model(checkpoint.folder.path("m.gguf"));
  EXPECT_EQ(**model.get_string("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(**model.get_string("tokenizer.ggml.pre"), "joyai-llm");
  const auto tokens = model.get_string_array("tokenizer.ggml.tokens");
  ASSERT_TRUE(tokens.ok() && tokens->has_value());
  EXPECT_EQ((*tokens)->size(), 320u);
  EXPECT_EQ((**tokens)[2], "ab");
  EXPECT_THAT(**model.get_string_array("tokenizer.ggml.merges"), ElementsAre("a b"));
  EXPECT_EQ((**model.get_int_array("tokenizer.ggml.token_type"))[0], 3);
  EXPECT_EQ(**model.get_uint("tokenizer.ggml.bos_token_id"), 0u);
  EXPECT_EQ(**model.get_uint("tokenizer.ggml.eos_token_id"), 1u);
  EXPECT_EQ(**model.get_uint("tokenizer.ggml.padding_token_id"), 1u);
  EXPECT_EQ(**model.get_bool("tokenizer.ggml.add_bos_token"), false);
  const auto loaded = Tokenizer::from_gguf(model);
  ASSERT_TRUE(loaded.ok() && loaded->has_value());
  EXPECT_THAT((*loaded)->encode_text("<s>abc", true), ElementsAre(0, 2, 3 + 'c'));
}

TEST(Convert, TokenizerThatNoProgramCouldLoad) {
  ChangedCheckpoint checkpoint("small-odd");
  checkpoint.folder.write("tokenizer.json", R"({"model":{"vocab":{"a":0},"merges":[]}})");
  EXPECT_THAT(checkpoint.convert_error(), HasSubstr("tokenizer.json: "));
  EXPECT_THAT(checkpoint.convert_error(), HasSubstr("expected all 256 byte symbols"));
}

TEST(Convert, ShardsGiveTheSameFile) {
  ChangedCheckpoint checkpoint("small-odd");
  checkpoint.write();
  ASSERT_TRUE(convert(checkpoint.folder.path(), checkpoint.folder.path("one.gguf"), DType::kQ8_0, 1).report.ok());
  SafetensorsBuilder shards[3];
  Json map;
  std::size_t next = 0;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    const std::size_t shard = next++ % 3;
    shards[shard].add(name, tensor.dtype, tensor.shape, tensor.data);
    map[name] = cat("part-", shard, ".safetensors");
  }
  for (int i = 0; i < 3; ++i) checkpoint.folder.write(cat("part-", i, ".safetensors"), shards[i].bytes());
  checkpoint.folder.write("model.safetensors.index.json", Json({{"weight_map", map}}).dump());
  std::filesystem::remove(checkpoint.folder.path("model.safetensors"));
  const Outcome outcome = convert(checkpoint.folder.path(), checkpoint.folder.path("three.gguf"), DType::kQ8_0, 3);
  ASSERT_TRUE(outcome.report.ok()) << outcome.report.error().message;
  EXPECT_EQ(outcome.report->files, 3u);
  EXPECT_EQ(TestFolder::read(checkpoint.folder.path("one.gguf")),
            TestFolder::read(checkpoint.folder.path("three.gguf")));
}

TEST(Convert, RowsThatNoBlockFitsBecomeF16) {
  ChangedCheckpoint checkpoint("small-odd");
  checkpoint.config["q_lora_rank"] = 92;
  for (auto& [name, tensor] : checkpoint.tensors) {
    const std::size_t element = tensor.dtype == "F32" ? 4 : 2;
    if (name.ends_with("wq_a.weight") || name.ends_with("q_norm.weight")) tensor.shape[0] = 92;
    if (name.ends_with("wq_b.weight")) tensor.shape[1] = 92;
    std::uint64_t elements = 1;
    for (const std::uint64_t dim : tensor.shape) elements *= dim;
    if (tensor.dtype != "I64") tensor.data.resize(elements * element);
  }
  checkpoint.write();
  const Outcome outcome = convert(checkpoint.folder.path(), checkpoint.folder.path("m.gguf"), DType::kQ8_0);
  ASSERT_TRUE(outcome.report.ok()) << outcome.report.error().message;
  EXPECT_THAT(outcome.notes,
              Contains("6 matrices with rows that are no multiple of 32 are stored as f16 in place of q8_0: "
                       "blk.0.attn_q_b.weight, blk.1.attn_q_b.weight, blk.1.indexer.attn_q_b.weight and 3 more"));
  const gguf::File model = open_model(checkpoint.folder.path("m.gguf"));
  EXPECT_EQ(model.find_tensor("blk.0.attn_q_b.weight")->type, DType::kF16);
  EXPECT_EQ(model.find_tensor("blk.0.attn_q_a.weight")->type, DType::kQ8_0);
}

/// Gives the checkpoint an MTP block: a copy of layer 1 of tiny-bf16 with the routing bias of layer 3, and its own
/// tensors.
void add_mtp(ChangedCheckpoint& checkpoint) {
  const auto layers = checkpoint.tensors;
  for (const auto& [name, tensor] : layers)
    if (name.starts_with("layers.1.") && !name.ends_with("tid2eid"))
      checkpoint.tensors["mtp.0." + name.substr(9)] = tensor;
  checkpoint.tensors["mtp.0.ffn.gate.bias"] = layers.at("layers.3.ffn.gate.bias");
  const ChangedCheckpoint::Tensor& square = layers.at("layers.0.ffn.shared_experts.w1.weight");  // [256, 256]
  checkpoint.tensors["mtp.0.e_proj.weight"] = checkpoint.tensors["mtp.0.h_proj.weight"] = square;
  for (const char* norm : {"enorm", "hnorm", "norm"})
    checkpoint.tensors[cat("mtp.0.", norm, ".weight")] = layers.at("norm.weight");
  for (const char* part : {"fn", "base", "scale"})
    checkpoint.tensors[cat("mtp.0.hc_head_", part)] = layers.at(cat("hc_head_", part));
}

TEST(Convert, MtpBlock) {
  ChangedCheckpoint checkpoint("tiny-bf16");
  add_mtp(checkpoint);
  checkpoint.config["num_nextn_predict_layers"] = 1;
  checkpoint.write();
  Outcome outcome = convert(checkpoint.folder.path(), checkpoint.folder.path("with.gguf"), DType::kF32);
  ASSERT_TRUE(outcome.report.ok()) << outcome.report.error().message;
  EXPECT_THAT(outcome.notes, ElementsAre(HasSubstr("no tokenizer.json")));
  const gguf::File with = open_model(checkpoint.folder.path("with.gguf"));
  EXPECT_EQ(with.tensors().size(), 178u + 32u);
  EXPECT_EQ(**with.get_uint("deepseek4.nextn_predict_layers"), 1u);
  EXPECT_EQ(**with.get_uint("deepseek4.block_count"), 6u);
  ASSERT_NE(with.find_tensor("mtp.0.attn_q_a.weight"), nullptr);
  EXPECT_TRUE(std::ranges::equal(with.find_tensor("mtp.0.attn_q_a.weight")->data,
                                 with.find_tensor("blk.1.attn_q_a.weight")->data));

  checkpoint.config["num_nextn_predict_layers"] = 0;
  checkpoint.write();
  outcome = convert(checkpoint.folder.path(), checkpoint.folder.path("without.gguf"), DType::kF32);
  ASSERT_TRUE(outcome.report.ok());
  EXPECT_THAT(outcome.notes, Contains(HasSubstr("MTP tensors are left out")));
  EXPECT_EQ(open_model(checkpoint.folder.path("without.gguf")).tensors().size(), 178u);
}

TEST(Convert, MtpBlockNamedButAbsent) {
  ChangedCheckpoint checkpoint("small-odd");
  checkpoint.config["num_nextn_predict_layers"] = 1;
  checkpoint.write();
  const Outcome outcome = convert(checkpoint.folder.path(), checkpoint.folder.path("m.gguf"), DType::kF32);
  ASSERT_TRUE(outcome.report.ok()) << outcome.report.error().message;
  EXPECT_THAT(outcome.notes, Contains(HasSubstr("names an MTP block, but the checkpoint has none")));
  EXPECT_EQ(**open_model(checkpoint.folder.path("m.gguf")).get_uint("deepseek4.nextn_predict_layers"), 0u);
}

TEST(Convert, UnknownTensorsAreNoted) {
  ChangedCheckpoint checkpoint("small-odd");
  checkpoint.tensors["vision.patch.weight"] = checkpoint.tensors["norm.weight"];
  checkpoint.write();
  const Outcome outcome = convert(checkpoint.folder.path(), checkpoint.folder.path("m.gguf"), DType::kF32);
  ASSERT_TRUE(outcome.report.ok());
  EXPECT_THAT(outcome.notes, Contains("1 tensors of the checkpoint are not known and left out: vision.patch.weight"));
}

TEST(Convert, EveryTensorIsNeeded) {
  // One tensor of each kind goes missing; then its shape is wrong.
  for (const char* name : {"embed.weight", "norm.weight", "layers.0.ffn.gate.tid2eid", "layers.1.attn.compressor.ape",
                           "layers.1.ffn.experts.7.w3.weight", "layers.2.ffn.gate.bias", "layers.3.hc_ffn_scale"}) {
    ChangedCheckpoint checkpoint("small-odd");
    const auto tensor = checkpoint.tensors.extract(name);
    ASSERT_FALSE(tensor.empty()) << name;
    EXPECT_THAT(checkpoint.convert_error(), HasSubstr(cat("tensor ", name, ": expected ")));
    auto changed = tensor.mapped();
    changed.shape.push_back(1);
    checkpoint.tensors[name] = changed;
    EXPECT_THAT(checkpoint.convert_error(), HasSubstr(cat("tensor ", name, " at byte")));
  }
}

TEST(Convert, QuantisedWeightWithoutScales) {
  ChangedCheckpoint checkpoint("tiny-official");
  checkpoint.tensors.erase("layers.2.ffn.experts.1.w2.scale");
  EXPECT_THAT(checkpoint.convert_error(), HasSubstr("expected its scales in layers.2.ffn.experts.1.w2.scale"));
}

TEST(Convert, ExpertIdsBeyondTheExperts) {
  for (const std::int64_t id : {std::int64_t{8}, std::int64_t{-1}, std::int64_t{1} << 32}) {
    ChangedCheckpoint checkpoint("small-odd");
    std::memcpy(checkpoint.tensors["layers.0.ffn.gate.tid2eid"].data.data() + 40, &id, 8);
    EXPECT_THAT(checkpoint.convert_error(), HasSubstr(cat("element 5: expected an expert from 0 to 7, found ", id)));
  }
}

TEST(Convert, ConfigWrongByOrdersOfMagnitude) {
  ChangedCheckpoint checkpoint("small-odd");
  checkpoint.config["n_routed_experts"] = 65536;
  EXPECT_THAT(checkpoint.convert_error(), HasSubstr("expected 786432 expert tensors (4 blocks of 65536 experts)"));
}

TEST(Convert, FilesAreNotReplacedByAccident) {
  TestFolder folder;
  folder.write("m.gguf", "precious");
  const Outcome refused = convert(golden_folder("small-odd"), folder.path("m.gguf"), DType::kF32);
  ASSERT_FALSE(refused.report.ok());
  EXPECT_EQ(refused.report.error().code, ErrorCode::kUsage);
  EXPECT_THAT(refused.report.error().message, HasSubstr("m.gguf: the file exists"));
  EXPECT_EQ(TestFolder::read(folder.path("m.gguf")), "precious");

  ConvertOptions options;
  options.input = golden_folder("small-odd");
  options.output = folder.path("m.gguf");
  options.overwrite = true;
  EXPECT_TRUE(convert_model(options, {}).ok());
  EXPECT_GT(std::filesystem::file_size(options.output), 1000000u);
}

TEST(Convert, BadArguments) {
  TestFolder folder;
  const auto code = [&](const std::string& checkpoint, const std::string& output, DType type) {
    return convert(checkpoint, output, type).report.error().code;
  };
  EXPECT_EQ(code(folder.path("nowhere"), folder.path("m.gguf"), DType::kF32), ErrorCode::kUsage);
  EXPECT_EQ(code(golden_folder("small-odd"), folder.path(), DType::kF32), ErrorCode::kUsage);
  EXPECT_EQ(code(golden_folder("small-odd"), folder.path("m.gguf"), DType::kI32), ErrorCode::kUsage);
  EXPECT_EQ(code(folder.path(), folder.path("m.gguf"), DType::kF32), ErrorCode::kBadModel) << "no config.json";
}

TEST(Convert, ProgressAndCancel) {
  TestFolder folder;
  std::atomic<bool> cancel{false};
  ConvertOptions options;
  options.input = golden_folder("small-odd");
  options.output = folder.path("m.gguf");
  options.threads = 2;
  options.cancel = &cancel;
  ConvertProgress last;
  ConvertEvents events;
  events.progress = [&](const ConvertProgress& progress) {
    EXPECT_GT(progress.work, last.work);
    EXPECT_GE(progress.bytes, last.bytes);
    last = progress;
    if (progress.work > 0.5) cancel = true;
  };
  const auto stopped = convert_model(options, events);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kCancelled);
  EXPECT_LT(last.bytes, last.total_bytes);
  EXPECT_FALSE(std::filesystem::exists(options.output)) << "complete, or not there";

  events.progress = [&](const ConvertProgress& progress) { last = progress; };
  cancel = false;
  EXPECT_TRUE(convert_model(options, events).ok());
  EXPECT_EQ(last.bytes, last.total_bytes);
  EXPECT_EQ(last.work, 1.0);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1) << "nothing but the file";
}

}  // namespace
}  // namespace ds4
