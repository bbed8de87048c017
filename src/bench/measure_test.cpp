#include "bench/measure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "bench/random_history.h"
#include "bench/report.h"
#include "bench/roof.h"
#include "bench/synthetic_shape.h"
#include "model/kv_state.h"

namespace ds4::bench {
namespace {

using ::testing::HasSubstr;

std::vector<std::int64_t> contexts(const Options& options) {
  std::vector<std::int64_t> out;
  for (const Frontier& f : plan_frontiers(options)) out.push_back(f.context);
  return out;
}

TEST(Frontiers, GrowBySteps) {
  Options o;
  o.ctx_start = 100, o.ctx_max = 400, o.step_incr = 100;
  EXPECT_EQ(contexts(o), (std::vector<std::int64_t>{100, 200, 300, 400}));
  EXPECT_EQ(plan_frontiers(o)[0].prefill, 100);
  EXPECT_EQ(plan_frontiers(o)[3].prefill, 100);
}

TEST(Frontiers, GrowByAFactor) {
  Options o;
  o.ctx_start = 1000, o.ctx_max = 8000, o.step_mul = 2;
  EXPECT_EQ(contexts(o), (std::vector<std::int64_t>{1000, 2000, 4000, 8000}));
  EXPECT_EQ(plan_frontiers(o)[3].prefill, 4000);
  o.ctx_start = 1, o.ctx_max = 4, o.step_mul = 1.1;  // and never stand still
  EXPECT_EQ(contexts(o), (std::vector<std::int64_t>{1, 2, 3, 4}));
}

TEST(Frontiers, FilledOnesComeInOrder) {
  Options o;
  o.fill = {65536, 2048};
  EXPECT_EQ(contexts(o), (std::vector<std::int64_t>{2048, 65536}));
  EXPECT_EQ(plan_frontiers(o)[0].prefill, 0);
  o.step_incr = 4096;
  EXPECT_EQ(plan_frontiers(o)[0].prefill, 2048);
  EXPECT_EQ(plan_frontiers(o)[1].prefill, 4096);
}

TEST(Samples, MedianAndSpread) {
  Samples s;
  for (const double v : {3.0, 1.0, 2.0}) s.add(v);
  EXPECT_EQ(s.median(), 2);
  s.add(10);
  EXPECT_EQ(s.median(), 2.5);
  EXPECT_EQ(s.least(), 1);
  EXPECT_EQ(s.most(), 10);
}

TEST(RandomHistory, RowsAreFiniteNormalAndDifferent) {
  const ModelShape shape = synthetic_shape(*parse_synthetic("flash:4"));
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kF16, KvFormat::kPacked}) {
    ModelOptions options;
    options.kv = format;
    const SequenceImage image = random_history(shape, options, 1, 1000, 5, 2);
    const KvLayout layout = make_kv_layout(shape, format, std::vector<bool>(4, true));
    ASSERT_EQ(image.pages[0].size(), 2 * layout.page_bytes);
    ASSERT_EQ(image.tails[0].size(), layout.tail_bytes);
    const RowStore& store = layout.layers[2].compressed;
    std::vector<float> before(512, 0.0F), row(512);
    for (int i = 0; i < store.rows; ++i) {
      const std::byte* base = image.pages[0].data() + layout.page_bytes + store.offset;
      decode_kv_row(format, base + static_cast<std::size_t>(i) * store.row.main_bytes,
                    base + static_cast<std::size_t>(store.rows) * store.row.main_bytes +
                        static_cast<std::size_t>(i) * store.row.scale_bytes,
                    512, 64, row.data());
      double squares = 0;
      for (const float v : row) squares += static_cast<double>(v) * v;
      ASSERT_NEAR(std::sqrt(squares / 512), 1, 0.25);
      ASSERT_NE(row, before);
      before = row;
    }
  }
}

/// The model that comes with the source, on the CPU.
class NanoBench {
 public:
  explicit NanoBench(Options options) : options_(std::move(options)) {
    options_.backend.threads = 2;
    file_ = std::move(gguf::File::open(DS4_SOURCE_DIR "/models/ds4-nano.gguf")).value();
    frontiers_ = plan_frontiers(options_);
    std::vector<std::unique_ptr<Backend>> backends;
    std::vector<ProfilingBackend*> profilers;
    for (std::size_t d = 0; d < options_.devices.size(); ++d) {
      auto profiler = std::make_unique<ProfilingBackend>(std::move(create_backend(options_.backend)).value());
      profilers.push_back(profiler.get());
      backends.push_back(std::move(profiler));
    }
    const int layers = static_cast<int>(read_shape(*file_)->layers.size());
    const ModelOptions plan = plan_model(options_, frontiers_, static_cast<int>(backends.size()), layers);
    model_ = std::move(Model::load(*file_, std::move(backends), plan)).value();
    bench_.emplace(*model_, profilers, options_, std::vector<std::int32_t>{1, 2, 3}, 0, 2);
  }
  const std::vector<Frontier>& frontiers() const { return frontiers_; }
  Bench& bench() { return *bench_; }
  std::int64_t layers() const { return std::ssize(model_->shape().layers); }

 private:
  Options options_;
  std::optional<gguf::File> file_;
  std::vector<Frontier> frontiers_;
  std::unique_ptr<Model> model_;
  std::optional<Bench> bench_;
};

TEST(Bench, EveryFrontierIsMeasuredAsOftenAsAskedFor) {
  Options options;
  options.ctx_start = 50, options.ctx_max = 150, options.step_incr = 50, options.gen_tokens = 3;
  options.repeat = 2, options.sequences = 3, options.prefill_chunk = 40, options.ops = true;
  NanoBench nano(options);
  ASSERT_TRUE(nano.bench().warm_up().ok());
  ASSERT_EQ(nano.frontiers().size(), 3u);
  for (const Frontier& frontier : nano.frontiers()) {
    const auto m = nano.bench().measure(frontier);
    ASSERT_TRUE(m.ok()) << m.error().message;
    EXPECT_EQ(m->prefill_seconds.count(), 2u);
    EXPECT_EQ(m->gen_seconds.count(), 2u);
    EXPECT_EQ(m->gen_first_seconds.count(), 2u);
    EXPECT_GT(m->kv_bytes, 0u);
    EXPECT_GT(m->gen_cost.kv_bytes, 0);
    ASSERT_EQ(m->profiles.size(), 2u);
    EXPECT_EQ(m->profiles[0].rows, 40);
    EXPECT_EQ(m->profiles[0].context, frontier.context - 50);
    EXPECT_EQ(m->profiles[1].rows, 3);
    EXPECT_EQ(m->profiles[1].context, frontier.context);
    EXPECT_EQ(m->profiles[1].ops[static_cast<std::size_t>(Op::kExperts)].calls, 3 * nano.layers());
    double seconds = 0;
    for (const OpTotals& op : m->profiles[1].ops) seconds += op.seconds;
    EXPECT_GT(seconds, 0);
    EXPECT_LE(seconds, m->profiles[1].seconds);
  }
}

TEST(Bench, FillsWhatItDoesNotPrefill) {
  Options options;
  options.fill = {3000, 20}, options.gen_tokens = 2, options.sequences = 2, options.step_incr = 4;
  options.devices = {"cpu", "cpu"};  // the layers are split
  NanoBench nano(options);
  for (const Frontier& frontier : nano.frontiers()) {
    const auto m = nano.bench().measure(frontier);
    ASSERT_TRUE(m.ok()) << m.error().message;
    EXPECT_EQ(m->prefill_seconds.count(), 1u);
    EXPECT_EQ(m->gen_seconds.count(), 1u);
  }
}

TEST(Bench, DecodesItsOwnAnswers) {
  Options options;
  options.fill = {100}, options.gen_tokens = 2, options.greedy = true;
  NanoBench nano(options);
  EXPECT_TRUE(nano.bench().measure(nano.frontiers()[0]).ok());
}

TEST(Bench, PrefillAloneDecodesNothing) {
  Options options;
  options.ctx_start = options.ctx_max = 20, options.gen_tokens = 0;
  NanoBench nano(options);
  const auto m = nano.bench().measure(nano.frontiers()[0]);
  ASSERT_TRUE(m.ok()) << m.error().message;
  EXPECT_TRUE(m->gen_seconds.empty());
  EXPECT_EQ(m->prefill_seconds.count(), 1u);
}

// --- reports --------------------------------------------------------------------------------------------------------

std::size_t cells(const std::string& row) { return static_cast<std::size_t>(std::ranges::count(row, ',')) + 1; }

Measurement sample() {
  Measurement m;
  m.frontier = {2048, 1024, false};
  m.sequences = 2;
  m.gen_tokens = 10;
  m.kv_bytes = 1000;
  for (const double s : {2.0, 1.0, 4.0}) m.prefill_seconds.add(s);
  for (const double s : {5.0, 4.0, 6.0}) m.gen_seconds.add(s);
  for (const double s : {0.5, 0.5, 0.5}) m.gen_first_seconds.add(s);
  m.gen_cost.weight_bytes = 1e9;
  return m;
}

TEST(Report, RowsHaveTheColumnsOfTheHead) {
  Roof roof;
  roof.bytes_per_second = 4e9, roof.quantised_flops = roof.float_flops = 1e12;
  const std::string row = csv_row(sample(), roof);
  EXPECT_EQ(cells(row), cells(csv_head()));
  EXPECT_EQ(row,
            "2048,1024,512.00,10,4.000,1000,500.000,18,4.000,2,0,3,256.00,1024.00,3.333,5.000,1000000000,2.00,50.0\n");
  EXPECT_THAT(summary_line(sample(), roof), HasSubstr("decode of 2 sequences: 4.00 tok/s"));
}

TEST(Report, WhatWasNotMeasuredIsEmpty) {
  Measurement m;
  m.frontier = {4096, 0, true};
  const std::string row = csv_row(m, {});
  EXPECT_EQ(cells(row), cells(csv_head()));
  EXPECT_EQ(row, "4096,0,,0,,0,,0,,1,4096,0,,,,,,,\n");
}

TEST(Report, CommentsStayOnTheirLines) {
  EXPECT_EQ(csv_comments({{"note", "a\nb"}, {"c", "d"}}), "# note: a b\n# c: d\n");
}

TEST(Report, OpsAddUpToTheStep) {
  PhaseProfile phase{"decode", 2048, 1, 2, 4.0, {}};
  phase.ops[static_cast<std::size_t>(Op::kExperts)] = {4, 3.0, {.weight_bytes = 2e9, .quantised_flops = 6e9}};
  const std::string rows = ops_csv_rows(phase, {});
  EXPECT_THAT(rows, HasSubstr("decode,2048,1,experts,2.0,1500.0000,75.00,1000000000,0,0,3000000000,0.667,0.0020,\n"));
  EXPECT_THAT(rows, HasSubstr("decode,2048,1,(between),0.0,500.0000,25.00"));
  EXPECT_THAT(rows, HasSubstr("decode,2048,1,step,0.0,2000.0000,100.00"));
  EXPECT_EQ(cells(rows.substr(0, rows.find('\n'))), cells(ops_csv_head()));
  EXPECT_THAT(ops_table(phase, {}), HasSubstr("experts"));
}

TEST(Roof, IsTheSlowerOfMemoryAndArithmetic) {
  Roof roof;
  roof.bytes_per_second = 10, roof.quantised_flops = 100, roof.float_flops = 10;
  EXPECT_EQ(roof.seconds({.weight_bytes = 50, .kv_bytes = 30, .activation_bytes = 20, .quantised_flops = 100}), 10);
  EXPECT_EQ(roof.seconds({.weight_bytes = 10, .quantised_flops = 1000, .float_flops = 50}), 15);
}

TEST(Roof, LoopsCountWhatTheyDo) {
  for (const ArithmeticPeak& peak : {quantised_peak(), float_peak()}) {
    EXPECT_GT(peak.run(32), 0) << peak.name;  // some loops count sixteen rounds as one
    EXPECT_EQ(peak.run(64), 2 * peak.run(32)) << peak.name;
  }
}

}  // namespace
}  // namespace ds4::bench
