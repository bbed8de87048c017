#include "model/small_model.h"

#include <gtest/gtest.h>

#include <unistd.h>
#include <cmath>
#include <filesystem>
#include <random>

#include "gguf/writer.h"
#include "quant/codec.h"

namespace ds4::testing {

namespace {
constexpr int kHidden = 64, kVocab = 96, kHeads = 4, kHeadDim = 32, kQLora = 48, kGroups = 2, kOLora = 16;
constexpr int kIndexHeads = 2, kIndexDim = 16, kExperts = 6, kUsed = 2, kFf = 32, kStreams = 4;
const std::vector<std::int32_t> kRatios = {0, 4, 128, 4};
}  // namespace

std::map<std::string, KeyValue> small_model_keys() {
  const auto u = [](std::uint64_t v) { return KeyValue(v); };
  std::map<std::string, KeyValue> keys = {{"general.architecture", std::string("deepseek4")},
                                          {"general.name", std::string("small")},
                                          {"deepseek4.expert_weights_norm", true},
                                          {"deepseek4.attention.compress_ratios", kRatios},
                                          {"deepseek4.swiglu_clamp_exp", std::vector<float>(4, 10.0F)}};
  const std::map<std::string, KeyValue> more = {{"block_count", u(4)},
                                                {"context_length", u(4096)},
                                                {"embedding_length", u(kHidden)},
                                                {"vocab_size", u(kVocab)},
                                                {"attention.head_count", u(kHeads)},
                                                {"attention.head_count_kv", u(1)},
                                                {"attention.key_length", u(kHeadDim)},
                                                {"attention.value_length", u(kHeadDim)},
                                                {"rope.dimension_count", u(8)},
                                                {"attention.q_lora_rank", u(kQLora)},
                                                {"attention.output_lora_rank", u(kOLora)},
                                                {"attention.output_group_count", u(kGroups)},
                                                {"expert_count", u(kExperts)},
                                                {"expert_used_count", u(kUsed)},
                                                {"expert_feed_forward_length", u(kFf)},
                                                {"expert_shared_count", u(1)},
                                                {"expert_gating_func", u(4)},
                                                {"hash_layer_count", u(1)},
                                                {"attention.sliding_window", u(16)},
                                                {"attention.indexer.head_count", u(kIndexHeads)},
                                                {"attention.indexer.key_length", u(kIndexDim)},
                                                {"attention.indexer.top_k", u(8)},
                                                {"hyper_connection.count", u(kStreams)},
                                                {"hyper_connection.sinkhorn_iterations", u(20)},
                                                {"hyper_connection.epsilon", 1e-6},
                                                {"rope.scaling.original_context_length", u(256)},
                                                {"rope.freq_base", 10000.0},
                                                {"rope.scaling.factor", 16.0},
                                                {"rope.scaling.yarn_beta_fast", 32.0},
                                                {"rope.scaling.yarn_beta_slow", 1.0},
                                                {"attention.compress_rope_freq_base", 160000.0},
                                                {"expert_weights_scale", 1.5},
                                                {"attention.layer_norm_rms_epsilon", 1e-6}};
  for (const auto& [key, value] : more) keys["deepseek4." + key] = value;
  return keys;
}

std::vector<SmallModelTensor> small_model_tensors() {
  std::vector<SmallModelTensor> tensors;
  const auto add = [&](std::string name, std::vector<std::uint64_t> dims, DType type = DType::kF32) {
    tensors.push_back({std::move(name), std::move(dims), type});
  };
  const std::uint64_t controls = (2 + kStreams) * kStreams;
  add("token_embd.weight", {kHidden, kVocab});
  for (std::size_t i = 0; i < kRatios.size(); ++i) {
    const std::string b = "blk." + std::to_string(i) + ".";
    for (const std::string s : {"attn", "ffn"}) {
      add(b + "hc_" + s + "_fn.weight", {kHidden * kStreams, controls});
      add(b + "hc_" + s + "_base.weight", {controls});
      add(b + "hc_" + s + "_scale.weight", {3});
      add(b + s + "_norm.weight", {kHidden});
    }
    add(b + "attn_q_a.weight", {kHidden, kQLora});
    add(b + "attn_q_a_norm.weight", {kQLora});
    add(b + "attn_q_b.weight", {kQLora, kHeads * kHeadDim});
    add(b + "attn_kv.weight", {kHidden, kHeadDim});
    add(b + "attn_kv_a_norm.weight", {kHeadDim});
    add(b + "attn_sinks.weight", {kHeads});
    add(b + "attn_output_a.weight", {kHeads / kGroups * kHeadDim, kGroups * kOLora});
    add(b + "attn_output_b.weight", {kGroups * kOLora, kHidden});
    const auto compressor = [&](const std::string& name, std::uint64_t width) {
      const std::uint64_t r = static_cast<std::uint64_t>(kRatios[i]);
      const std::uint64_t out = r == 4 ? 2 * width : width;
      add(b + name + "_kv.weight", {kHidden, out});
      add(b + name + "_gate.weight", {kHidden, out});
      add(b + name + "_ape.weight", {out, r});
      add(b + name + "_norm.weight", {width});
    };
    if (kRatios[i] != 0) compressor("attn_compressor", kHeadDim);
    if (kRatios[i] == 4) {
      compressor("indexer_compressor", kIndexDim);
      add(b + "indexer.attn_q_b.weight", {kQLora, kIndexHeads * kIndexDim});
      add(b + "indexer.proj.weight", {kHidden, kIndexHeads});
    }
    add(b + "ffn_gate_inp.weight", {kHidden, kExperts});
    if (i == 0) add(b + "ffn_gate_tid2eid.weight", {kUsed, kVocab}, DType::kI32);
    else add(b + "exp_probs_b.bias", {kExperts});
    for (const std::string s : {"gate", "up"}) {
      add(b + "ffn_" + s + "_exps.weight", {kHidden, kFf, kExperts});
      add(b + "ffn_" + s + "_shexp.weight", {kHidden, kFf});
    }
    add(b + "ffn_down_exps.weight", {kFf, kHidden, kExperts});
    add(b + "ffn_down_shexp.weight", {kFf, kHidden});
  }
  add("output_hc_fn.weight", {kHidden * kStreams, kStreams});
  add("output_hc_base.weight", {kStreams});
  add("output_hc_scale.weight", {1});
  add("output_norm.weight", {kHidden});
  add("output.weight", {kHidden, kVocab});
  return tensors;
}

namespace {

void write_keys(gguf::Writer& writer, const std::map<std::string, KeyValue>& keys) {
  for (const auto& [name, value] : keys) {
    const std::string& key = name;
    std::visit(
        [&](const auto& v) {
          using T = std::decay_t<decltype(v)>;
          if constexpr (std::is_same_v<T, bool>) writer.add_bool(key, v);
          else if constexpr (std::is_same_v<T, std::uint64_t>) writer.add_u64(key, v);
          else if constexpr (std::is_same_v<T, double>) writer.add_f32(key, static_cast<float>(v));
          else if constexpr (std::is_same_v<T, std::string>) writer.add_string(key, v);
          else if constexpr (std::is_same_v<T, std::vector<float>>) writer.add_f32_array(key, v);
          else writer.add_i32_array(key, v);
        },
        value);
  }
}

std::vector<std::byte> random_data(const SmallModelTensor& tensor, std::mt19937_64& rng) {
  std::uint64_t count = 1;
  for (const std::uint64_t d : tensor.dims) count *= d;
  std::vector<std::byte> bytes(row_bytes(tensor.type, count));
  if (tensor.type == DType::kI32) {
    auto* ids = reinterpret_cast<std::int32_t*>(bytes.data());
    for (std::uint64_t i = 0; i < count; ++i)
      ids[i] = static_cast<std::int32_t>((rng() % (kExperts / kUsed)) * kUsed + i % kUsed);
    return bytes;
  }
  const bool is_norm = tensor.name.ends_with("_norm.weight") || tensor.name.ends_with("_scale.weight");
  const bool is_vector = tensor.dims.size() == 1;
  const double size = is_vector ? 0.1 : 1.0 / std::sqrt(static_cast<double>(tensor.dims[0]));
  std::normal_distribution<double> normal(is_norm ? 1.0 : 0.0, size);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(normal(rng));
  encode_row(tensor.type, values.data(), bytes.data(), count);
  return bytes;
}

}  // namespace

void write_small_model(const std::string& path, const std::map<std::string, KeyValue>& keys,
                       const std::vector<SmallModelTensor>& tensors, std::optional<std::uint64_t> seed) {
  std::mt19937_64 rng(seed.value_or(0));
  gguf::Writer writer(path);
  write_keys(writer, keys);
  for (const auto& tensor : tensors) writer.add_tensor(tensor.name, tensor.type, tensor.dims);
  auto status = writer.begin();
  for (std::size_t i = 0; i < tensors.size() && status.ok(); ++i) {
    if (seed) status = writer.write_data(i, 0, random_data(tensors[i], rng));
    else writer.skip_data(i);
  }
  if (status.ok()) status = writer.finish();
  ASSERT_TRUE(status.ok()) << status.error().message;
}

ScratchFile::ScratchFile(const std::string& name) {
  static int serial = 0;
  const std::filesystem::path memory = "/dev/shm";
  const auto parent = std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
  folder_ = (parent / ("ds4-test-" + std::to_string(::getpid()) + "-" + std::to_string(serial++))).string();
  std::filesystem::create_directories(folder_);
  path_ = folder_ + "/" + name;
}

ScratchFile::~ScratchFile() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

}  // namespace ds4::testing
