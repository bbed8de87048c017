#include "bench/op_cost.h"

#include <gtest/gtest.h>

#include <new>
#include <numeric>

#include "bench/profiling_backend.h"
#include "bench/synthetic_model.h"
#include "model/kv_state.h"
#include "model/model.h"

namespace ds4::bench {
namespace {

// Spec sections 5.6 and 5.8, "active bytes" of the q2 files.
constexpr double kFlashActiveBytes = 9559118244;
constexpr double kProActiveBytes = 34354218452;

/// Computes nothing. What is read from it counts 0 1 2 ..: the ids of different experts, and finite logits.
class NullBackend final : public Backend {
 public:
  std::string name() const override { return "null"; }
  std::uint64_t weight_bytes(const HostWeight&) const override { return 0; }
  std::uint64_t scratch_bytes(const BackendConfig&) const override { return 0; }
  Result<Weight> load(const HostWeight& w) override { return Weight{w.type, w.in, w.out, w.count, w.data, 0}; }
  Status configure(const BackendConfig&) override { return {}; }
  Result<Buffer> allocate(std::size_t bytes) override {
    return Buffer(::operator new(bytes), bytes, [](void* data) { ::operator delete(data); });
  }
  void upload(void*, const void*, std::size_t) override {}
  Status download(void* host, const void*, std::size_t bytes) override {
    std::iota(static_cast<std::int32_t*>(host), static_cast<std::int32_t*>(host) + bytes / sizeof(std::int32_t), 0);
    return {};
  }
  Result<std::int32_t> new_page() override { return pages_++; }
  void free_page(std::int32_t) override {}
  Result<std::int32_t> new_tail() override { return 0; }
  void free_tail(std::int32_t) override {}
  void copy_page(std::int32_t, std::int32_t) override {}
  void copy_tail(std::int32_t, std::int32_t) override {}
  Status read_page(std::int32_t, std::span<std::byte>) override { return {}; }
  void write_page(std::int32_t, std::span<const std::byte>) override {}
  Status read_tail(std::int32_t, std::span<std::byte>) override { return {}; }
  void write_tail(std::int32_t, std::span<const std::byte>) override {}
  void begin(const BatchView&) override {}
  void embed(const EmbedArgs&) override {}
  void hc_pre(const HcPreArgs&) override {}
  void rms_norm(const RmsNormArgs&) override {}
  void query_heads(const QueryHeadsArgs&) override {}
  void window_kv(const WindowKvArgs&) override {}
  void compress(const CompressArgs&) override {}
  void index_topk(const IndexTopkArgs&) override {}
  void sparse_attention(const SparseAttentionArgs&) override {}
  void attention_output(const AttentionOutputArgs&) override {}
  void hc_post(const HcPostArgs&) override {}
  void route(const RouteArgs&) override {}
  void experts(const ExpertsArgs&) override {}
  void hc_head(const HcHeadArgs&) override {}
  void logits(const LogitsArgs&) override {}
  Status wait() override { return fault; }

  Status fault;

 private:
  std::int32_t pages_ = 0;
};

/// A decode step of a whole model, `position` tokens deep, that only counts.
class Counted {
 public:
  explicit Counted(const char* spec) {
    SyntheticOptions options;
    options.spec = *parse_synthetic(spec);
    options.aliased = true;
    options.pool_bytes = std::uint64_t{64} << 20;
    weights_ = std::move(SyntheticModel::create(options)).value();
    auto null = std::make_unique<NullBackend>();
    null_ = null.get();
    auto wrapped = std::make_unique<ProfilingBackend>(std::move(null));
    profiler_ = wrapped.get();
    std::vector<std::unique_ptr<Backend>> backends;
    backends.push_back(std::move(wrapped));
    ModelOptions model_options;
    model_options.context = 100000;
    model_options.max_rows = 1;
    model_ = std::move(Model::load(weights_->file(), std::move(backends), model_options)).value();
  }

  Result<Profile> step(std::int64_t position, ProfilingBackend::Mode mode) {
    const KvLayout layout =
        make_kv_layout(model_->shape(), KvFormat::kPacked, std::vector<bool>(model_->shape().layers.size(), true));
    SequenceImage image{position, position, {}, {}};
    image.pages.emplace_back(static_cast<std::size_t>((position + kPageTokens - 1) / kPageTokens) * layout.page_bytes);
    image.tails.emplace_back(layout.tail_bytes);
    DS4_ASSIGN_OR_RETURN(Sequence sequence, model_->restore(image));
    std::vector<float> logits(static_cast<std::size_t>(model_->shape().dims.vocab));
    const BatchRow row{&sequence, 1, position, true};
    profiler_->set_mode(mode);
    DS4_RETURN_IF_ERROR(model_->forward({&row, 1}, logits));
    return profiler_->take();
  }
  NullBackend& null() { return *null_; }

 private:
  std::optional<SyntheticModel> weights_;
  std::unique_ptr<Model> model_;
  NullBackend* null_ = nullptr;
  ProfilingBackend* profiler_ = nullptr;
};

using Mode = ProfilingBackend::Mode;

std::int64_t calls(const Profile& profile, Op op) { return profile[static_cast<std::size_t>(op)].calls; }

TEST(OpCost, ADecodeStepOfFlashReadsWhatTheSpecSays) {
  Counted flash("flash");
  EXPECT_EQ(total_cost(*flash.step(5000, Mode::kOff)).bytes(), 0) << "nothing is counted unless asked";
  const Profile profile = *flash.step(5000, Mode::kCount);
  const Cost cost = total_cost(profile);
  EXPECT_NEAR(cost.weight_bytes / kFlashActiveBytes, 1, 3e-4);
  EXPECT_EQ(calls(profile, Op::kHcPre), 86);
  EXPECT_EQ(calls(profile, Op::kExperts), 43);
  EXPECT_EQ(calls(profile, Op::kAttention0), 2);
  EXPECT_EQ(calls(profile, Op::kAttention4), 21);
  EXPECT_EQ(calls(profile, Op::kAttention128), 20);
  EXPECT_EQ(calls(profile, Op::kCompressIndex), 21);
  // With no more rows than may be taken the indexer has nothing to do.
  const double shallow = total_cost(*flash.step(1000, Mode::kCount)).weight_bytes;
  EXPECT_EQ(cost.weight_bytes - shallow, 21.0 * 2 * (1024 * 8192 + 4096 * 64));
}

TEST(OpCost, DepthCostsWhatTheSpecSays) {
  Counted flash("flash");
  EXPECT_NEAR(total_cost(*flash.step(4095, Mode::kCount)).flops() * 1e-9, 29.1, 0.2);
  EXPECT_NEAR(total_cost(*flash.step(32767, Mode::kCount)).flops() * 1e-9, 32.2, 0.2);
  // 16384 index rows of 68 bytes in 21 layers, 640 rows of 584 bytes in 41, 128 in two; and what the token itself
  // writes.
  const double kv = total_cost(*flash.step(65536, Mode::kCount)).kv_bytes;
  EXPECT_NEAR(kv, 21 * 16384 * 68 + 41 * 640 * 584 + 2 * 128 * 584, 0.5e6);
}

TEST(OpCost, ADecodeStepOfProReadsWhatTheSpecSays) {
  Counted pro("pro");
  const Cost cost = total_cost(*pro.step(5000, Mode::kCount));
  EXPECT_NEAR(cost.weight_bytes / kProActiveBytes, 1, 3e-4);
}

TEST(Profiling, CallsAreTimedAndAFaultInTheMiddleIsReported) {
  Counted flash("flash:1");
  const Result<Profile> timed = flash.step(10, Mode::kTime);
  ASSERT_TRUE(timed.ok());
  EXPECT_EQ(calls(*timed, Op::kExperts), 1);
  EXPECT_EQ(calls(*timed, Op::kIndexTopk), 0);
  EXPECT_GT((*timed)[static_cast<std::size_t>(Op::kExperts)].seconds, 0);
  flash.null().fault = Error{ErrorCode::kNoDevice, "on fire"};
  const Result<Profile> failed = flash.step(10, Mode::kTime);
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().message, "on fire");
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
