#include "rig.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <limits>

#include "base/check.h"
#include "bench/synthetic_shape.h"
#include "model/kv_state.h"

namespace ds4::conformance {

namespace {

constexpr std::int32_t kIntPoison = -559038737;

Dims base_dims() {
  Dims d;
  d.route_scale = 1.5F;
  d.hc = 4;
  d.sinkhorn_iterations = 20;
  d.hc_eps = 1e-6F;
  d.rms_eps = 1e-6F;
  return d;
}

/// Those of a published model; vocabulary and experts cut, they only repeat.
Dims published_dims(bench::ModelFamily family) {
  Dims d = bench::synthetic_shape({.family = family, .layers = 1}).dims;
  d.vocab = 1000;
  d.experts = 8;
  return d;
}

}  // namespace

std::vector<Shape> all_shapes() {
  const std::vector<DType> floats = {DType::kF32, DType::kF16, DType::kBF16};
  const std::vector<DType> blocks32 = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kMXFP4};
  const std::vector<DType> all = {DType::kF32,  DType::kF16,  DType::kBF16,    DType::kQ8_0,
                                  DType::kQ4_K, DType::kQ2_K, DType::kIQ2_XXS, DType::kMXFP4};

  Dims uneven = base_dims();  // nothing is a multiple of a vector
  uneven.hidden = 100, uneven.vocab = 37, uneven.heads = 6, uneven.head_dim = 42, uneven.rope_dim = 10;
  uneven.q_lora = 52, uneven.o_groups = 3, uneven.o_lora = 21, uneven.window = 9;
  uneven.index_heads = 3, uneven.index_dim = 16, uneven.index_topk = 5;
  uneven.experts = 5, uneven.experts_used = 2, uneven.expert_ff = 50, uneven.shared_ff = 70, uneven.hc = 3;

  Dims small = base_dims();  // the golden model small-odd
  small.hidden = 128, small.vocab = 320, small.heads = 4, small.head_dim = 64, small.rope_dim = 32, small.q_lora = 96;
  small.o_groups = 4, small.o_lora = 32, small.window = 16, small.index_heads = 2, small.index_dim = 64,
  small.index_topk = 8;
  small.experts = 8, small.experts_used = 3, small.expert_ff = 64, small.shared_ff = 64;

  Dims tiny = base_dims();  // the golden model tiny-bf16, with rows of 256 everywhere
  tiny.hidden = 256, tiny.vocab = 512, tiny.heads = 4, tiny.head_dim = 128, tiny.rope_dim = 16, tiny.q_lora = 256;
  tiny.o_groups = 2, tiny.o_lora = 128, tiny.window = 32, tiny.index_heads = 4, tiny.index_dim = 32,
  tiny.index_topk = 16;
  tiny.experts = 6, tiny.experts_used = 2, tiny.expert_ff = 256, tiny.shared_ff = 512;

  return {{"uneven", uneven, floats, {1, 3, 70}},
          {"small-odd", small, blocks32, {1, 5, 130}},
          {"tiny", tiny, all, {1, 70, 300}},
          {"pro", published_dims(bench::ModelFamily::kPro), {DType::kF16, DType::kQ8_0, DType::kIQ2_XXS}, {2}, true},
          {"flash",
           published_dims(bench::ModelFamily::kFlash),
           {DType::kF16, DType::kQ8_0, DType::kQ4_K, DType::kQ2_K, DType::kIQ2_XXS, DType::kMXFP4},
           {2},
           true}};
}

Result<std::unique_ptr<Rig>> Rig::create(const BackendOptions& options, const Shape& shape, KvFormat format,
                                         int max_rows, std::int64_t max_context) {
  DS4_ASSIGN_OR_RETURN(auto backend, create_backend(options));
  std::unique_ptr<Rig> rig(new Rig(std::move(backend), shape));
  ModelShape model;
  model.dims = shape.dims;
  for (const auto& [kind, ratio] : {std::pair{LayerKind::kWindow, 0}, std::pair{LayerKind::kCompressedSparse, 4},
                                    std::pair{LayerKind::kHeavilyCompressed, 128}}) {
    LayerShape layer;
    layer.kind = kind;
    layer.ratio = ratio;
    model.layers.push_back(layer);
  }
  rig->config_ = {.dims = shape.dims,
                  .kv = make_kv_layout(model, format, {true, true, true}),
                  .max_rows = max_rows,
                  .max_logit_rows = max_rows,
                  .max_context = max_context,
                  .max_tails = 8,
                  .max_pages = 8 * static_cast<int>(max_context / kPageTokens + 1)};
  DS4_RETURN_IF_ERROR(rig->backend_->configure(rig->config_));
  return rig;
}

void* Rig::memory(std::size_t bytes) {
  auto buffer = backend_->allocate(bytes);
  DS4_CHECK(buffer.ok());
  buffers_.push_back(std::move(buffer).value());
  return buffers_.back().data();
}

double Rig::now() const {
  if (processor_time_) return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Rig::clear() {
  buffers_.clear();
  weights_.clear();
}

Weight Rig::weight(const WeightData& data) {
  if (data.bytes.empty()) return {};
  const auto known = weights_.find(&data);
  if (known != weights_.end()) return known->second;
  auto loaded = backend_->load(data.host());
  DS4_CHECK(loaded.ok());
  return weights_[&data] = *loaded;
}

Tensor Rig::input(std::span<const float> values, std::int64_t rows) {
  Tensor t{static_cast<float*>(memory(values.size_bytes())), rows, static_cast<std::int64_t>(values.size()) / rows};
  backend_->upload(t.data, values.data(), values.size_bytes());
  return t;
}

IntTensor Rig::input(std::span<const std::int32_t> values, std::int64_t rows) {
  IntTensor t{static_cast<std::int32_t*>(memory(values.size_bytes())), rows,
              static_cast<std::int64_t>(values.size()) / rows};
  backend_->upload(t.data, values.data(), values.size_bytes());
  return t;
}

Tensor Rig::output(std::int64_t rows, std::int64_t cols) {
  return input(std::vector<float>(static_cast<std::size_t>(rows * cols), std::numeric_limits<float>::quiet_NaN()),
               rows);
}

IntTensor Rig::int_output(std::int64_t rows, std::int64_t cols) {
  return input(std::vector<std::int32_t>(static_cast<std::size_t>(rows * cols), kIntPoison), rows);
}

std::vector<float> Rig::read(const Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.rows * tensor.cols));
  DS4_CHECK(backend_->download(values.data(), tensor.data, values.size() * sizeof(float)).ok());
  return values;
}

std::vector<std::int32_t> Rig::read(const IntTensor& tensor) {
  std::vector<std::int32_t> values(static_cast<std::size_t>(tensor.rows * tensor.cols));
  DS4_CHECK(backend_->download(values.data(), tensor.data, values.size() * sizeof(std::int32_t)).ok());
  return values;
}

Distance distance(std::span<const float> expected, std::span<const float> found) {
  double squares = 0;
  double difference_squares = 0;
  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::fabs(static_cast<double>(expected[i]) - static_cast<double>(found[i]));
    if (!std::isfinite(difference))
      return {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
    largest = std::max(largest, difference);
    difference_squares += difference * difference;
    squares += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  if (squares == 0) return {largest, largest};
  const auto count = static_cast<double>(expected.size());
  return {largest / std::sqrt(squares / count), std::sqrt(difference_squares / squares)};
}

void Report::check(bool passed, const std::string& what, const std::string& detail) {
  ++checks_;
  if (!passed) ++failures_;
  if (!passed || verbose_) std::printf("%s %s: %s\n", passed ? "ok  " : "FAIL", what.c_str(), detail.c_str());
}

}  // namespace ds4::conformance
