#include "model/shape.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "model/small_model.h"
#include "model/weights.h"

namespace ds4 {
namespace {

using testing::KeyValue;
using Keys = std::map<std::string, KeyValue>;

struct Opened {
  testing::ScratchFile scratch{"m.gguf"};
  Result<gguf::File> file;
  Opened(const Keys& keys, const std::vector<testing::SmallModelTensor>& tensors)
      : file((testing::write_small_model(scratch.path(), keys, tensors, std::nullopt),
              gguf::File::open(scratch.path()))) {}
};

Result<ModelShape> shape_of(const Keys& keys) {
  const Opened opened(keys, testing::small_model_tensors());
  if (!opened.file.ok()) return opened.file.error();
  return read_shape(*opened.file);
}

Status bind_all(const std::vector<testing::SmallModelTensor>& tensors, const Keys& keys = testing::small_model_keys()) {
  const Opened opened(keys, tensors);
  if (!opened.file.ok()) return opened.file.error();
  auto shape = read_shape(*opened.file);
  if (!shape.ok()) return shape.error();
  const auto weights = bind_weights(*opened.file, *shape, [](const HostWeight& w, int) -> Result<Weight> {
    return Weight{w.type, w.in, w.out, w.count, w.data, 0};
  });
  return weights.ok() ? Status{} : Status(weights.error());
}

TEST(Shape, ReadsASmallModel) {
  const auto shape = shape_of(testing::small_model_keys());
  ASSERT_TRUE(shape.ok()) << shape.error().message;
  ASSERT_EQ(shape->layers.size(), 4U);
  EXPECT_EQ(shape->layers[0].kind, LayerKind::kWindow);
  EXPECT_EQ(shape->layers[1].kind, LayerKind::kCompressedSparse);
  EXPECT_EQ(shape->layers[2].kind, LayerKind::kHeavilyCompressed);
  EXPECT_TRUE(shape->layers[0].hash_routed);
  EXPECT_FALSE(shape->layers[1].hash_routed);
  EXPECT_EQ(shape->dims.shared_ff, 32);
  EXPECT_EQ(shape->name, "small");
  EXPECT_TRUE(bind_all(testing::small_model_tensors()).ok());
}

// Every key that changes the result: removing it, or an absurd value, is refused with a message that names it.
TEST(Shape, EveryRequiredKeyIsRequired) {
  const Keys good = testing::small_model_keys();
  const std::vector<std::string> optional = {
      "general.name", "deepseek4.context_length", "deepseek4.expert_gating_func", "deepseek4.expert_weights_norm",
      // derivable from tensors (§5.9)
      "deepseek4.attention.compress_ratios", "deepseek4.attention.output_lora_rank",
      "deepseek4.attention.output_group_count", "deepseek4.hash_layer_count", "deepseek4.hyper_connection.count",
      "deepseek4.hyper_connection.sinkhorn_iterations", "deepseek4.hyper_connection.epsilon",
      "deepseek4.attention.value_length"};
  const auto complete = shape_of(good);
  ASSERT_TRUE(complete.ok());
  for (const auto& [key, value] : good) {
    Keys without = good;
    without.erase(key);
    const auto shape = shape_of(without);
    if (std::find(optional.begin(), optional.end(), key) != optional.end()) {
      EXPECT_TRUE(shape.ok()) << key << ": " << shape.error().message;
      continue;
    }
    ASSERT_FALSE(shape.ok()) << key;
    EXPECT_NE(shape.error().message.find(key), std::string::npos) << shape.error().message;
    EXPECT_EQ(shape.error().code, ErrorCode::kBadModel);
  }
}

TEST(Shape, AbsurdValuesAreRefusedByName) {
  const Keys good = testing::small_model_keys();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  for (const auto& [key, value] : good) {
    if (key == "general.name") continue;
    std::vector<KeyValue> bad;
    if (std::holds_alternative<std::uint64_t>(value)) {
      bad = {std::uint64_t{1} << 31, (std::uint64_t{1} << 32) + 1, UINT64_MAX, 1.5,
             std::string("4"),       std::vector<float>{4.0F}};
      if (key != "deepseek4.hash_layer_count") bad.emplace_back(std::uint64_t{0});
    } else if (std::holds_alternative<double>(value)) {
      bad = {nan, inf, -inf, -1.0, 0.0, std::string("x"), std::vector<float>{1.0F}};
    } else if (std::holds_alternative<bool>(value)) {
      bad = {false, std::string("true"), std::uint64_t{7}};
    } else if (std::holds_alternative<std::string>(value)) {
      bad = {std::string("llama"), std::string("\x1b[2J"), std::uint64_t{1}};
    } else if (std::holds_alternative<std::vector<std::int32_t>>(value)) {
      bad = {std::vector<std::int32_t>{0, 4, 128}, std::vector<std::int32_t>{0, 4, 3, 4},
             std::vector<std::int32_t>{0, -4, 128, 4}, std::uint64_t{4}};
    } else {
      bad = {std::vector<float>(3, 10.0F), std::vector<float>{10, 10, -1, 10}, std::vector<float>{10, NAN, 10, 10},
             10.0};
    }
    for (const KeyValue& replacement : bad) {
      Keys keys = good;
      keys[key] = replacement;
      const auto shape = shape_of(keys);
      ASSERT_FALSE(shape.ok()) << key << " value " << replacement.index();
      EXPECT_NE(shape.error().message.find(key), std::string::npos) << shape.error().message;
      EXPECT_EQ(shape.error().message.find('\x1b'), std::string::npos);
    }
  }
  Keys many = good;
  many["deepseek4.expert_used_count"] = std::uint64_t{7};  // of 6
  EXPECT_FALSE(shape_of(many).ok());
}

TEST(Shape, ADialectWithoutTheDerivableKeysOpensAlike) {
  Keys keys = testing::small_model_keys();
  for (const char* key : {"attention.compress_ratios", "attention.output_lora_rank", "attention.output_group_count",
                          "hash_layer_count", "hyper_connection.count", "hyper_connection.sinkhorn_iterations",
                          "hyper_connection.epsilon", "attention.compress_rope_freq_base"})
    keys.erase(std::string("deepseek4.") + key);
  keys["deepseek4.rope.freq_base_swa"] = 160000.0;
  auto tensors = testing::small_model_tensors();
  for (auto& tensor : tensors) {
    const auto rename = [&](const std::string& from, const std::string& to) {
      if (const auto at = tensor.name.find(from); at != std::string::npos) tensor.name.replace(at, from.size(), to);
    };
    rename("attn_kv.", "attn_kv_latent.");
    rename("attn_compressor_", "attn_compress_");
    rename("indexer_compressor_", "indexer.compress_");
    for (const char* bare : {"hc_", "sinks", "exp_probs_b", "tid2eid"})
      if (tensor.name.find(bare) != std::string::npos) tensor.name.erase(tensor.name.rfind('.'));
  }
  const Opened opened(keys, tensors);
  ASSERT_TRUE(opened.file.ok()) << opened.file.error().message;
  const auto shape = read_shape(*opened.file);
  ASSERT_TRUE(shape.ok()) << shape.error().message;
  const auto usual = shape_of(testing::small_model_keys());
  EXPECT_EQ(shape->dims.o_groups, usual->dims.o_groups);
  EXPECT_EQ(shape->dims.o_lora, usual->dims.o_lora);
  EXPECT_EQ(shape->dims.hc, usual->dims.hc);
  EXPECT_FLOAT_EQ(shape->rope.compressed_base, 160000.0F);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(shape->layers[i].ratio, usual->layers[i].ratio);
    EXPECT_EQ(shape->layers[i].hash_routed, usual->layers[i].hash_routed);
  }
  const auto status = bind_all(tensors, keys);
  EXPECT_TRUE(status.ok()) << status.error().message;
}

TEST(Weights, MissingMisshapenOrMistypedTensorsAreRefusedByName) {
  const auto good = testing::small_model_tensors();
  for (std::size_t i = 0; i < good.size(); ++i) {
    auto without = good;
    without.erase(without.begin() + static_cast<std::ptrdiff_t>(i));
    auto status = bind_all(without);
    ASSERT_FALSE(status.ok()) << good[i].name;
    EXPECT_NE(status.error().message.find(good[i].name), std::string::npos) << status.error().message;

    auto wider = good;
    wider[i].dims.back() += 1;
    status = bind_all(wider);
    ASSERT_FALSE(status.ok()) << good[i].name;
    EXPECT_NE(status.error().message.find(good[i].name), std::string::npos) << status.error().message;

    auto mistyped = good;
    mistyped[i].type = mistyped[i].type == DType::kI32 ? DType::kF32 : DType::kI32;
    status = bind_all(mistyped);
    ASSERT_FALSE(status.ok()) << good[i].name;
    EXPECT_NE(status.error().message.find(good[i].name), std::string::npos) << status.error().message;
  }
}

/// The tensors of an MTP block: those of a window-only layer under `prefix`, and the block's own under `extra`.
std::vector<testing::SmallModelTensor> mtp_tensors(const std::string& prefix, const std::string& extra, bool fused) {
  std::vector<testing::SmallModelTensor> out;
  for (auto tensor : testing::small_model_tensors()) {
    const bool window_layer = tensor.name.starts_with("blk.0.") && tensor.type != DType::kI32;
    if (!window_layer && tensor.name != "blk.1.exp_probs_b.bias") continue;
    tensor.name = prefix + tensor.name.substr(6);
    out.push_back(tensor);
  }
  const auto add = [&](const std::string& name, std::vector<std::uint64_t> dims) {
    out.push_back({prefix + extra + name, std::move(dims)});
  };
  add("enorm.weight", {64});
  add("hnorm.weight", {64});
  if (fused) {
    add("eh_proj.weight", {128, 64});
  } else {
    add("e_proj.weight", {64, 64});
    add("h_proj.weight", {64, 64});
  }
  add("hc_head_fn.weight", {256, 4});
  add("hc_head_base.weight", {4});
  add("hc_head_scale.weight", {1});
  add(extra.empty() ? "norm.weight" : "shared_head_norm.weight", {64});
  return out;
}

TEST(Weights, TheMtpBlockIsFoundUnderEitherName) {
  const LoadWeight keep = [](const HostWeight& w, int layer) -> Result<Weight> {
    EXPECT_EQ(layer, 4);
    return Weight{w.type, w.in, w.out, w.count, w.data, 0};
  };
  const auto trunk = shape_of(testing::small_model_keys());
  ASSERT_TRUE(trunk.ok());
  {  // a trunk without one
    const Opened opened(testing::small_model_keys(), testing::small_model_tensors());
    const auto mtp = bind_mtp_weights(*opened.file, *trunk, keep);
    ASSERT_TRUE(mtp.ok());
    EXPECT_FALSE(mtp->has_value());
  }
  {  // a file of its own: 32 tensors, as published
    const auto tensors = mtp_tensors("mtp.0.", "", false);
    EXPECT_EQ(tensors.size(), 32U);
    const Opened opened({{"general.architecture", std::string("deepseek4")}}, tensors);
    const auto mtp = bind_mtp_weights(*opened.file, *trunk, keep);
    ASSERT_TRUE(mtp.ok()) << mtp.error().message;
    ASSERT_TRUE(mtp->has_value());
    EXPECT_EQ((*mtp)->e_proj.in, 64);
    EXPECT_FALSE((*mtp)->eh_proj.present() && (*mtp)->eh_proj.in > 0);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].name == "mtp.0.attn_norm.weight") continue;  // its presence is what says that there is a block
      auto without = tensors;
      without.erase(without.begin() + static_cast<std::ptrdiff_t>(i));
      const Opened broken({{"general.architecture", std::string("deepseek4")}}, without);
      const auto refused = bind_mtp_weights(*broken.file, *trunk, keep);
      ASSERT_FALSE(refused.ok()) << tensors[i].name;
      EXPECT_NE(refused.error().message.find(tensors[i].name), std::string::npos) << refused.error().message;
    }
  }
  for (const bool fused : {false, true}) {  // appended to the trunk
    auto keys = testing::small_model_keys();
    keys["deepseek4.block_count"] = std::uint64_t{5};
    keys["deepseek4.nextn_predict_layers"] = std::uint64_t{1};
    auto tensors = testing::small_model_tensors();
    for (auto& tensor : mtp_tensors("blk.4.", "nextn.", fused)) tensors.push_back(tensor);
    const Opened opened(keys, tensors);
    const auto shape = read_shape(*opened.file);
    ASSERT_TRUE(shape.ok()) << shape.error().message;
    EXPECT_EQ(shape->layers.size(), 4U);
    EXPECT_EQ(shape->mtp_layers, 1);
    const auto mtp = bind_mtp_weights(*opened.file, *shape, keep);
    ASSERT_TRUE(mtp.ok()) << mtp.error().message;
    ASSERT_TRUE(mtp->has_value());
    EXPECT_EQ((*mtp)->eh_proj.in, fused ? 128 : 0);
  }
}

TEST(Rope, MatchesTheAppendix) {
  const RopeShape rope{10000.0F, 160000.0F, 16.0F, 65536, 32.0F, 1.0F};
  const auto yarn = rope_frequencies(rope, 64, 4);
  const auto plain = rope_frequencies(rope, 64, 0);
  const std::vector<std::pair<std::size_t, std::pair<double, double>>> golden = {{0, {1, 1}},
                                                                                 {1, {0.687656022, 0.749894209}},
                                                                                 {8, {0.05, 0.1}},
                                                                                 {15, {0.00363553858, 0.0133352143}},
                                                                                 {16, {0.002265625, 0.01}},
                                                                                 {20, {2.96977778e-4, 3.16227766e-3}},
                                                                                 {24, {1.953125e-5, 1e-3}},
                                                                                 {25, {5.37231267e-6, 7.49894209e-4}},
                                                                                 {31, {5.68052904e-7, 1.33352143e-4}}};
  for (const auto& [pair, value] : golden) {
    EXPECT_NEAR(yarn[pair] / value.first, 1.0, 1e-6) << pair;
    EXPECT_NEAR(plain[pair] / value.second, 1.0, 1e-6) << pair;
  }
}

}  // namespace
}  // namespace ds4
