#include "bench/synthetic_model.h"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/text.h"
#include "model/verify.h"
#include "quant/codec.h"
#include "quant/finite.h"

namespace ds4::bench {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kPool = std::uint64_t{8} << 20;

SyntheticOptions aliased(const char* spec) {
  SyntheticOptions options;
  options.spec = *parse_synthetic(spec);
  options.aliased = true;
  options.pool_bytes = kPool;
  return options;
}

double file_gigabytes(const SyntheticModel& model) { return static_cast<double>(model.file().size()) * 1e-9; }

TEST(SyntheticModel, FlashHasTheTensorsAndTheSizeOfThePublishedFile) {
  const auto model = SyntheticModel::create(aliased("flash"));
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ(model->file().tensors().size(), 1328u);
  EXPECT_NEAR(file_gigabytes(*model), 86.72, 0.1);
  const auto shape = read_shape(model->file());
  ASSERT_TRUE(shape.ok()) << shape.error().message;
  EXPECT_EQ(shape->layers.size(), 43u);
  EXPECT_EQ(shape->layers[1].kind, LayerKind::kWindow);
  EXPECT_EQ(shape->layers[2].kind, LayerKind::kCompressedSparse);
  EXPECT_EQ(shape->layers[41].kind, LayerKind::kHeavilyCompressed);
}

TEST(SyntheticModel, ProHasTheSizeOfThePublishedFile) {
  SyntheticOptions options = aliased("pro");
  options.pool_bytes *= 8;  // a process may have 65530 views
  const auto model = SyntheticModel::create(options);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_NEAR(file_gigabytes(*model), 464.62, 0.2);  // spec section 5.8: 432.7 GiB
}

class Shapes : public ::testing::TestWithParam<const char*> {};

TEST_P(Shapes, AreThoseThatTheLoaderAsksFor) {
  const SyntheticOptions options = aliased(GetParam());
  const auto model = SyntheticModel::create(options);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const auto shape = read_shape(model->file());
  ASSERT_TRUE(shape.ok()) << shape.error().message;
  EXPECT_EQ(shape->layers.size(), static_cast<std::size_t>(options.spec.layers));
  const ModelShape wanted = synthetic_shape(options.spec);
  for (std::size_t i = 0; i < wanted.layers.size(); ++i) {
    EXPECT_EQ(shape->layers[i].ratio, wanted.layers[i].ratio);
    EXPECT_EQ(shape->layers[i].hash_routed, wanted.layers[i].hash_routed);
    EXPECT_EQ(shape->layers[i].shared_swiglu_limit, wanted.layers[i].shared_swiglu_limit);
  }
  EXPECT_EQ(shape->dims.index_topk, wanted.dims.index_topk);
  EXPECT_EQ(shape->dims.shared_ff, wanted.dims.shared_ff);
  EXPECT_EQ(shape->dims.route_scale, wanted.dims.route_scale);
  EXPECT_EQ(shape->rope.yarn_factor, wanted.rope.yarn_factor);
  const auto bound = bind_weights(model->file(), *shape, [](const HostWeight& w, int) -> Result<Weight> {
    EXPECT_NE(w.data, nullptr);
    return Weight{w.type, w.in, w.out, w.count, w.data, 0};
  });
  EXPECT_TRUE(bound.ok()) << bound.error().message;
  EXPECT_TRUE(check_token_experts(model->file(), *shape).ok());
}
INSTANTIATE_TEST_SUITE_P(All, Shapes, ::testing::Values("flash:1", "flash:2", "flash:4", "pro:2", "pro:3", "flash:50"));

TEST(SyntheticModel, ViewsHoldFiniteWeightsAndNoTwoTensorsAreTheSame) {
  const auto model = SyntheticModel::create(aliased("flash:4"));
  ASSERT_TRUE(model.ok()) << model.error().message;
  std::set<std::string> beginnings;
  for (const gguf::TensorInfo& tensor : model->file().tensors()) {
    if (tensor.type == DType::kI32 || tensor.n_dims == 1) continue;
    // The beginning, the end, and the places where a view begins anew: every 64 KiB does for a look.
    const DTypeInfo& info = dtype_info(tensor.type);
    const std::uint64_t blocks = tensor.data.size() / info.block_bytes;
    for (std::uint64_t block = 0; block < blocks; block += std::max<std::uint64_t>(1, blocks / 500)) {
      const std::byte* at = tensor.data.data() + block * info.block_bytes;
      ASSERT_EQ(first_non_finite(tensor.type, at, info.block_elements), std::nullopt)
          << tensor.name << " block " << block;
      std::vector<float> values(info.block_elements);
      decode_row(tensor.type, at, values.data(), values.size());
      for (const float value : values) ASSERT_LT(std::fabs(value), 0.5F) << tensor.name << " block " << block;
    }
    beginnings.insert(std::string(reinterpret_cast<const char*>(tensor.data.data()), 64));
  }
  // A view begins at one of few places of a small pool, so some coincide; most do not.
  EXPECT_GT(beginnings.size(), 20u);
}

TEST(SyntheticModel, MixesDifferInTheExpertsOnly) {
  SyntheticOptions options = aliased("flash:1");
  options.spec.mix = WeightMix::kMxfp4;
  const auto model = SyntheticModel::create(options);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ(model->file().find_tensor("blk.0.ffn_down_exps.weight")->type, DType::kMXFP4);
  EXPECT_EQ(model->file().find_tensor("blk.0.attn_q_b.weight")->type, DType::kQ8_0);
  EXPECT_EQ(model->file().find_tensor("blk.0.ffn_gate_inp.weight")->type, DType::kF16);
}

TEST(SyntheticModel, ACacheIsWrittenOnceAndAnotherFileIsLeftAlone) {
  const std::string path = std::filesystem::temp_directory_path() / cat("ds4-bench-cache-", ::getpid(), ".gguf");
  std::ofstream(path) << "precious";
  SyntheticOptions options;
  options.spec = *parse_synthetic("flash:1");
  options.cache = path;
  const auto refused = SyntheticModel::create(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("found another file"));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace ds4::bench
