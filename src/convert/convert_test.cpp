#include "convert/convert.h"

#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "convert/safetensors.h"
#include "convert/test_checkpoint.h"
#include "gguf/file.h"
#include "quant/codec.h"
#include "tokenizer/byte_map.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

struct Outcome {
  Result<ConvertReport> report;
  std::vector<std::string> notes;
};

Outcome convert(const std::string& checkpoint, const std::string& output, DType type, int threads = 2) {
  std::vector<std::string> notes;
  ConvertOptions options;
  options.checkpoint = checkpoint;
  options.output = output;
  options.type = type;
  options.threads = threads;
  ConvertEvents events;
  events.note = [&](std::string_view text) { notes.emplace_back(text); };
  auto report = convert_checkpoint(options, events);
  return {std::move(report), std::move(notes)};
}

gguf::File open_model(const std::string& path) {
  auto file = gguf::File::open(path);
  EXPECT_TRUE(file.ok()) << file.error().message;
  return std::move(file).value();
}

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

/// The value of element (row, column) of a checkpoint tensor, from the definitions of the formats in double precision.
class CheckpointOracle {
 public:
  explicit CheckpointOracle(const std::string& model)
      : file_(std::move(SafetensorsFile::open(golden_folder(model) + "/model.safetensors")).value()) {}

  double at(const std::string& name, std::uint64_t row, std::uint64_t column) const {
    const SafeTensor& tensor = *file_.find(name);
    const std::uint64_t width = tensor.shape.back();
    switch (tensor.type) {
      case SafeType::kF32:
        return number<float>(tensor, row * width + column);
      case SafeType::kBF16:
        return std::bit_cast<float>(std::uint32_t{number<std::uint16_t>(tensor, row * width + column)} << 16);
      case SafeType::kF8_E4M3:
        return e4m3(number<std::uint8_t>(tensor, row * width + column)) * scale(name, row / 128, column / 128);
      case SafeType::kI8: {
        const unsigned pair = number<std::uint8_t>(tensor, row * width + column / 2);
        const unsigned code = column % 2 == 0 ? pair & 15 : pair >> 4;
        const double doubled[8] = {0, 1, 2, 3, 4, 6, 8, 12};
        return (code >= 8 ? -0.5 : 0.5) * doubled[code % 8] * scale(name, row, column / 32);
      }
      default:
        ADD_FAILURE() << name;
        return 0;
    }
  }
  const SafetensorsFile& file() const { return file_; }

 private:
  template <typename T>
  static T number(const SafeTensor& tensor, std::uint64_t index) {
    T value;
    std::memcpy(&value, tensor.data.data() + index * sizeof(T), sizeof(T));
    return value;
  }
  static double e4m3(unsigned code) {
    const unsigned exponent = code >> 3 & 15;
    const double mantissa = (code & 7) / 8.0 + (exponent == 0 ? 0 : 1);
    return std::ldexp((code & 0x80) != 0 ? -mantissa : mantissa, static_cast<int>(exponent == 0 ? 1 : exponent) - 7);
  }
  double scale(const std::string& weight, std::uint64_t row, std::uint64_t column) const {
    const SafeTensor& scales = *file_.find(weight.substr(0, weight.rfind('.')) + ".scale");
    return std::ldexp(1.0, number<std::uint8_t>(scales, row * scales.shape[1] + column) - 127);
  }
  SafetensorsFile file_;
};

/// Where some tensors of the model file must come from, written out by hand.
struct Origin {
  std::string name;
  std::uint64_t slice;
  std::string source;
};

std::vector<Origin> origins(std::uint64_t experts, int csa, int hca) {
  const std::string c = cat("blk.", csa, "."), h = cat("blk.", hca, ".");
  const std::string lc = cat("layers.", csa, "."), lh = cat("layers.", hca, ".");
  std::vector<Origin> list = {
      {"token_embd.weight", 0, "embed.weight"},
      {"output.weight", 0, "head.weight"},
      {"output_norm.weight", 0, "norm.weight"},
      {"output_hc_fn.weight", 0, "hc_head_fn"},
      {"output_hc_base.weight", 0, "hc_head_base"},
      {"output_hc_scale.weight", 0, "hc_head_scale"},
      {c + "attn_norm.weight", 0, lc + "attn_norm.weight"},
      {c + "ffn_norm.weight", 0, lc + "ffn_norm.weight"},
      {c + "attn_q_a.weight", 0, lc + "attn.wq_a.weight"},
      {c + "attn_q_a_norm.weight", 0, lc + "attn.q_norm.weight"},
      {c + "attn_q_b.weight", 0, lc + "attn.wq_b.weight"},
      {c + "attn_kv.weight", 0, lc + "attn.wkv.weight"},
      {c + "attn_kv_a_norm.weight", 0, lc + "attn.kv_norm.weight"},
      {c + "attn_sinks.weight", 0, lc + "attn.attn_sink"},
      {c + "attn_output_a.weight", 0, lc + "attn.wo_a.weight"},
      {c + "attn_output_b.weight", 0, lc + "attn.wo_b.weight"},
      {c + "attn_compressor_ape.weight", 0, lc + "attn.compressor.ape"},
      {c + "attn_compressor_kv.weight", 0, lc + "attn.compressor.wkv.weight"},
      {c + "attn_compressor_gate.weight", 0, lc + "attn.compressor.wgate.weight"},
      {h + "attn_compressor_norm.weight", 0, lh + "attn.compressor.norm.weight"},
      {h + "attn_compressor_ape.weight", 0, lh + "attn.compressor.ape"},
      {c + "indexer.attn_q_b.weight", 0, lc + "attn.indexer.wq_b.weight"},
      {c + "indexer.proj.weight", 0, lc + "attn.indexer.weights_proj.weight"},
      {c + "indexer_compressor_ape.weight", 0, lc + "attn.indexer.compressor.ape"},
      {c + "indexer_compressor_kv.weight", 0, lc + "attn.indexer.compressor.wkv.weight"},
      {c + "indexer_compressor_gate.weight", 0, lc + "attn.indexer.compressor.wgate.weight"},
      {c + "indexer_compressor_norm.weight", 0, lc + "attn.indexer.compressor.norm.weight"},
      {c + "ffn_gate_inp.weight", 0, lc + "ffn.gate.weight"},
      {h + "exp_probs_b.bias", 0, lh + "ffn.gate.bias"},
      {c + "ffn_gate_shexp.weight", 0, lc + "ffn.shared_experts.w1.weight"},
      {c + "ffn_up_shexp.weight", 0, lc + "ffn.shared_experts.w3.weight"},
      {c + "ffn_down_shexp.weight", 0, lc + "ffn.shared_experts.w2.weight"},
      {h + "hc_attn_fn.weight", 0, lh + "hc_attn_fn"},
      {h + "hc_ffn_base.weight", 0, lh + "hc_ffn_base"},
      {h + "hc_ffn_scale.weight", 0, lh + "hc_ffn_scale"},
  };
  for (std::uint64_t e = 0; e < experts; ++e) {
    list.push_back({h + "ffn_gate_exps.weight", e, cat(lh, "ffn.experts.", e, ".w1.weight")});
    list.push_back({h + "ffn_up_exps.weight", e, cat(lh, "ffn.experts.", e, ".w3.weight")});
    list.push_back({h + "ffn_down_exps.weight", e, cat(lh, "ffn.experts.", e, ".w2.weight")});
  }
  return list;
}

struct Golden {
  const char* model;
  std::uint64_t experts;
  int csa, hca;
  std::size_t tensors;
};

class GoldenConversion : public ::testing::TestWithParam<Golden> {};

TEST_P(GoldenConversion, F32HasTheValuesOfTheCheckpoint) {
  const Golden& golden = GetParam();
  TestFolder folder;
  const Outcome outcome = convert(golden_folder(golden.model), folder.path("m.gguf"), DType::kF32);
  ASSERT_TRUE(outcome.report.ok()) << outcome.report.error().message;
  EXPECT_THAT(outcome.notes, ElementsAre(HasSubstr("no tokenizer.json")));
  const gguf::File model = open_model(folder.path("m.gguf"));
  EXPECT_EQ(model.tensors().size(), golden.tensors);
  EXPECT_EQ(outcome.report->tensors, golden.tensors);
  EXPECT_EQ(outcome.report->output_bytes, std::filesystem::file_size(folder.path("m.gguf")));

  const CheckpointOracle oracle(golden.model);
  for (const Origin& origin : origins(golden.experts, golden.csa, golden.hca)) {
    const gguf::TensorInfo* tensor = model.find_tensor(origin.name);
    ASSERT_NE(tensor, nullptr) << origin.name;
    ASSERT_EQ(tensor->type, DType::kF32) << origin.name;
    const std::uint64_t columns = tensor->dims[0], rows = tensor->dims[1];
    std::vector<float> values(columns * rows);
    std::memcpy(values.data(), tensor->data.data() + origin.slice * values.size() * 4, values.size() * 4);
    for (std::uint64_t r = 0; r < rows; ++r)
      for (std::uint64_t c = 0; c < columns; ++c)
        ASSERT_EQ(values[r * columns + c], oracle.at(origin.source, r, c)) << origin.name << " " << r << " " << c;
  }
}

TEST_P(GoldenConversion, TokenTables) {
  const Golden& golden = GetParam();
  TestFolder folder;
  ASSERT_TRUE(convert(golden_folder(golden.model), folder.path("m.gguf"), DType::kQ8_0).report.ok());
  const gguf::File model = open_model(folder.path("m.gguf"));
  const CheckpointOracle oracle(golden.model);
  const SafeTensor* source = oracle.file().find("layers.0.ffn.gate.tid2eid");
  const gguf::TensorInfo* table = model.find_tensor("blk.0.ffn_gate_tid2eid.weight");
  ASSERT_NE(table, nullptr);
  EXPECT_EQ(table->type, DType::kI32);
  EXPECT_EQ(table->dims[0], source->shape[1]);
  EXPECT_EQ(table->dims[1], source->shape[0]);
  for (std::uint64_t i = 0; i < source->elements(); ++i) {
    std::int64_t wide = 0;
    std::int32_t narrow = 0;
    std::memcpy(&wide, source->data.data() + 8 * i, 8);
    std::memcpy(&narrow, table->data.data() + 4 * i, 4);
    ASSERT_EQ(wide, narrow);
  }
}

TEST_P(GoldenConversion, EveryTypeIsTheEncodingOfTheF32File) {
  TestFolder folder;
  ASSERT_TRUE(convert(golden_folder(GetParam().model), folder.path("f32.gguf"), DType::kF32).report.ok());
  const gguf::File exact = open_model(folder.path("f32.gguf"));
  for (const DType type : {DType::kF16, DType::kBF16, DType::kQ8_0}) {
    const std::string path = folder.path("other.gguf");
    std::filesystem::remove(path);
    ASSERT_TRUE(convert(golden_folder(GetParam().model), path, type, /*threads=*/3).report.ok());
    const gguf::File model = open_model(path);
    ASSERT_EQ(model.tensors().size(), exact.tensors().size());
    for (const gguf::TensorInfo& wanted : exact.tensors()) {
      const gguf::TensorInfo* tensor = model.find_tensor(wanted.name);
      ASSERT_NE(tensor, nullptr) << wanted.name;
      const bool matrix = wanted.n_dims > 1 && wanted.type == DType::kF32;
      ASSERT_EQ(tensor->type, matrix ? type : wanted.type) << wanted.name;
      std::vector<std::byte> encoded(wanted.data.begin(), wanted.data.end());
      if (matrix) {
        std::vector<float> values(wanted.elements());
        std::memcpy(values.data(), wanted.data.data(), values.size() * 4);
        encoded.resize(row_bytes(type, values.size()));
        encode_row(type, values.data(), encoded.data(), values.size());
      }
      ASSERT_TRUE(std::ranges::equal(tensor->data, encoded)) << wanted.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenConversion,
                         ::testing::Values(Golden{"small-odd", 8, 1, 2, 126}, Golden{"tiny-bf16", 4, 4, 3, 178},
                                           Golden{"tiny-official", 4, 4, 3, 178}),
                         [](const auto& golden) {
                           std::string name = golden.param.model;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

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
  EXPECT_EQ(outcome.report->shards, 3u);
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
              Contains("6 matrices with rows that are no multiple of 32 are stored as f16: "
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
  options.checkpoint = golden_folder("small-odd");
  options.output = folder.path("m.gguf");
  options.overwrite = true;
  EXPECT_TRUE(convert_checkpoint(options, {}).ok());
  EXPECT_GT(std::filesystem::file_size(options.output), 1000000u);
}

TEST(Convert, BadArguments) {
  TestFolder folder;
  const auto code = [&](const std::string& checkpoint, const std::string& output, DType type) {
    return convert(checkpoint, output, type).report.error().code;
  };
  EXPECT_EQ(code(folder.path("nowhere"), folder.path("m.gguf"), DType::kF32), ErrorCode::kUsage);
  EXPECT_EQ(code(golden_folder("small-odd"), folder.path(), DType::kF32), ErrorCode::kUsage);
  EXPECT_EQ(code(golden_folder("small-odd"), folder.path("m.gguf"), DType::kQ4_K), ErrorCode::kUsage);
  EXPECT_EQ(code(folder.path(), folder.path("m.gguf"), DType::kF32), ErrorCode::kBadModel) << "no config.json";
}

TEST(Convert, ProgressAndCancel) {
  TestFolder folder;
  std::atomic<bool> cancel{false};
  ConvertOptions options;
  options.checkpoint = golden_folder("small-odd");
  options.output = folder.path("m.gguf");
  options.threads = 2;
  options.cancel = &cancel;
  std::uint64_t last = 0, expected_total = 0;
  ConvertEvents events;
  events.progress = [&](std::uint64_t done, std::uint64_t total) {
    EXPECT_GT(done, last);
    last = done;
    expected_total = total;
    if (done > total / 2) cancel = true;
  };
  const auto stopped = convert_checkpoint(options, events);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kCancelled);
  EXPECT_LT(last, expected_total);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << "no file, no part of one";

  last = 0;
  events.progress = [&](std::uint64_t done, std::uint64_t) { last = done; };
  cancel = false;
  EXPECT_TRUE(convert_checkpoint(options, events).ok());
  EXPECT_EQ(last, expected_total);
}

}  // namespace
}  // namespace ds4
