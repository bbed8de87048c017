#include "bench/op_cost.h"

#include <gtest/gtest.h>

#include "bench/profiling_backend.h"
#include "bench/synthetic_model.h"
#include "model/model.h"

namespace ds4::bench {
namespace {

/// A small pool behind real shapes, on the CPU, with the ops counted.
struct Counted {
  std::optional<SyntheticModel> weights;
  std::unique_ptr<Model> model;
  ProfilingBackend* profiler = nullptr;

  explicit Counted(const char* spec, int rows) {
    SyntheticOptions options;
    options.spec = *parse_synthetic(spec);
    options.aliased = true;
    options.pool_bytes = std::uint64_t{8} << 20;
    weights = std::move(SyntheticModel::create(options)).value();
    BackendOptions backend;
    backend.threads = 2;
    auto wrapped = std::make_unique<ProfilingBackend>(std::move(create_backend(backend)).value());
    profiler = wrapped.get();
    std::vector<std::unique_ptr<Backend>> backends;
    backends.push_back(std::move(wrapped));
    ModelOptions model_options;
    model_options.context = 4096;
    model_options.max_rows = rows;
    model = std::move(Model::load(weights->file(), std::move(backends), model_options)).value();
  }

  Status forward(Sequence& sequence, int rows) {
    std::vector<BatchRow> batch;
    for (int r = 0; r < rows; ++r) batch.push_back({&sequence, r, sequence.length() + r, r + 1 == rows});
    std::vector<float> logits(static_cast<std::size_t>(model->shape().dims.vocab));
    return model->forward(batch, logits);
  }
};

/// What the first step must read, from the directory of the file: everything, but of the experts and of the tables only
/// what is chosen, and nothing to choose rows by.
double decode_bytes(const gguf::File& file, const Dims& dims) {
  double bytes = 0;
  for (const gguf::TensorInfo& tensor : file.tensors()) {
    const auto size = static_cast<double>(tensor.data.size());
    if (tensor.name.ends_with("_exps.weight")) bytes += size / dims.experts * dims.experts_used;
    else if (tensor.name == "token_embd.weight" || tensor.type == DType::kI32) bytes += size / dims.vocab;
    else if (tensor.name.find(".indexer.") == tensor.name.npos) bytes += size;
  }
  return bytes;
}

TEST(OpCost, ADecodeStepReadsEveryWeightOnce) {
  Counted run("flash:4", 1);
  auto sequence = run.model->new_sequence();
  ASSERT_TRUE(sequence.ok());
  ASSERT_TRUE(run.forward(*sequence, 1).ok());
  EXPECT_EQ(total_cost(run.profiler->take()).bytes(), 0) << "nothing is counted unless asked";

  run.profiler->set_mode(ProfilingBackend::Mode::kCount);
  const Status status = run.forward(*sequence, 1);
  ASSERT_TRUE(status.ok()) << status.error().message;
  const Profile profile = run.profiler->take();
  const Cost cost = total_cost(profile);
  const double expected = decode_bytes(run.weights->file(), run.model->shape().dims);
  EXPECT_NEAR(cost.weight_bytes / expected, 1, 1e-3);
  EXPECT_NEAR(expected * 1e-9, 1.35, 0.02);
  EXPECT_EQ(profile[static_cast<std::size_t>(Op::kHcPre)].calls, 8);
  EXPECT_EQ(profile[static_cast<std::size_t>(Op::kExperts)].calls, 4);
  EXPECT_EQ(profile[static_cast<std::size_t>(Op::kAttention0)].calls, 2);
  EXPECT_EQ(profile[static_cast<std::size_t>(Op::kAttention4)].calls, 1);
  EXPECT_EQ(profile[static_cast<std::size_t>(Op::kAttention128)].calls, 1);
  EXPECT_EQ(profile[static_cast<std::size_t>(Op::kCompressIndex)].calls, 1);
}

TEST(OpCost, TimesAreOfTheStepAndOnlyWhenAskedFor) {
  Counted run("flash:1", 2);
  auto sequence = run.model->new_sequence();
  ASSERT_TRUE(sequence.ok());
  run.profiler->set_mode(ProfilingBackend::Mode::kTime);
  ASSERT_TRUE(run.forward(*sequence, 2).ok());
  const Profile profile = run.profiler->take();
  EXPECT_GT(profile[static_cast<std::size_t>(Op::kExperts)].seconds, 0);
  EXPECT_GT(profile[static_cast<std::size_t>(Op::kLogits)].seconds, 0);
  EXPECT_EQ(profile[static_cast<std::size_t>(Op::kIndexTopk)].calls, 0);
}

/// Two segments, at 1000 and at 10 tokens, on a layer of each kind.
struct KvCase {
  BackendConfig config;
  std::vector<Segment> segments = {{0, 3, 1000, 0, {}}, {3, 1, 10, 1, {}}};
  KvCase() {
    Dims& d = config.dims;
    d.heads = 4, d.head_dim = 32, d.window = 16, d.index_heads = 2, d.index_dim = 16, d.index_topk = 8;
    for (const int ratio : {0, 4, 128}) {
      LayerKvLayout layer;
      layer.ratio = ratio;
      layer.window = {0, 80, {100, 4}};
      layer.compressed = {0, 1, {100, 4}};
      layer.index = {0, 1, {8, 1}};
      layer.state = {0, ratio + kRewindSlack, ratio == 4 ? 64 : 32};
      config.kv.layers.push_back(layer);
    }
  }
  StepView view() const { return {&config, segments}; }
};

TEST(OpCost, AttentionReadsWindowAndSelectedRows) {
  const KvCase c;
  std::vector<float> memory(4 * 128);
  std::int32_t chosen[4 * 8];
  const Weight none;
  const Tensor q{memory.data(), 4, 128};
  const auto cost = [&](int layer, bool sparse) {
    const IntTensor selected = sparse ? IntTensor{chosen, 4, 8} : IntTensor{};
    return cost_of(SparseAttentionArgs{layer, q, none, {}, selected, {}, q}, c.view());
  };
  const double window_pairs = 3 * 16 + 11, window_rows = 18 + 11;
  EXPECT_EQ(cost(0, false).kv_bytes, window_rows * 104);
  EXPECT_EQ(cost(0, false).float_flops, 4 * window_pairs * 128);
  // Ratio 4: the long one sees 250 rows and takes 8 for each of its three queries, the short one sees 2.
  EXPECT_EQ(cost(1, true).kv_bytes, (window_rows + 24 + 2) * 104);
  EXPECT_EQ(cost(1, true).float_flops, 4 * (window_pairs + 24 + 2) * 128);
  // Ratio 128: 7 rows, read once for all three queries.
  EXPECT_EQ(cost(2, false).kv_bytes, (window_rows + 7) * 104);
  EXPECT_EQ(cost(2, false).float_flops, 4 * (window_pairs + 21) * 128);
}

TEST(OpCost, TheIndexerScoresEveryVisibleRowWhereThereIsAChoice) {
  const KvCase c;
  const Weight w{DType::kF32, 32, 32, 1, &c, 0};
  const Tensor x{nullptr, 4, 32};
  const Cost cost = cost_of(IndexTopkArgs{1, x, x, w, w, {}, {nullptr, 4, 8}, {}}, c.view());
  EXPECT_EQ(cost.kv_bytes, 250 * 9);  // the short one takes both rows that it sees
  EXPECT_EQ(cost.weight_bytes, 2 * 32 * 32 * 4);
  EXPECT_EQ(cost.float_flops, 2 * 2 * 32 * 32 * 3 + 2.0 * (250 * 3) * 2 * 17);
}

TEST(OpCost, ExpertsAreReadOnceHoweverManyRowsChooseThem) {
  const KvCase c;
  const Weight routed{DType::kQ8_0, 32, 64, 8, &c, 0};
  const Weight shared{DType::kQ8_0, 32, 64, 1, &c, 0};
  const Tensor x{nullptr, 4, 32};
  const ExpertsArgs args{x, {nullptr, 4, 2}, {nullptr, 4, 2}, routed, routed, routed, shared, shared, shared, 1, 1, x};
  const Cost cost = cost_of(args, c.view(), 5);
  EXPECT_EQ(cost.weight_bytes, 3 * (5 + 1) * 34 * 64);
  EXPECT_EQ(cost.quantised_flops, 3 * 2.0 * 32 * 64 * (8 + 4));
}

}  // namespace
}  // namespace ds4::bench
