// What the tests of the whole model share: a small random model, every backend of this machine, and feeding it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

#include "model/model.h"
#include "model/small_model.h"

namespace ds4::testing {

using Logits = std::vector<float>;

struct DeviceChoice {
  std::string device;
  std::string isa;
};

inline std::unique_ptr<Backend> make_backend(const DeviceChoice& choice, int threads = 2) {
  BackendOptions options;
  options.device = choice.device;
  options.threads = threads;
  options.isa = choice.isa;
  auto backend = create_backend(options);
  return backend.ok() ? std::move(*backend) : nullptr;
}

inline std::vector<DeviceChoice> devices() {
  const bool emulated = std::getenv("DS4_EMULATED") != nullptr;  // only what native runs elsewhere do not cover
  std::vector<DeviceChoice> out;
  for (const DeviceChoice& choice :
       {DeviceChoice{"reference", ""}, {"cpu", "scalar"}, {"cpu", "avx2"}, {"cpu", "avx512"}, {"cpu", "neon"}})
    if ((!emulated || choice.isa == "neon") && make_backend(choice) != nullptr) out.push_back(choice);
  return out;
}

/// The model file, written once for all tests.
inline const gguf::File& model_file() {
  static const ScratchFile scratch("small.gguf");
  static const gguf::File file = [] {
    write_small_model(scratch.path(), small_model_keys(), small_model_tensors(), 7);
    return std::move(*gguf::File::open(scratch.path()));
  }();
  return file;
}

inline std::vector<std::int32_t> random_tokens(std::size_t count, std::uint64_t seed = 3) {
  std::mt19937_64 rng(seed);
  std::vector<std::int32_t> tokens(count);
  for (auto& t : tokens) t = static_cast<std::int32_t>(rng() % 96);
  return tokens;
}

inline ModelOptions default_options() {
  ModelOptions options;
  options.kv = KvFormat::kF32;
  options.context = 1200;
  options.max_sequences = 6;
  options.max_rows = 700;
  options.max_logit_rows = 700;
  return options;
}

inline std::unique_ptr<Model> load(const DeviceChoice& choice, const ModelOptions& options = default_options(),
                                   int threads = 2) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(make_backend(choice, threads));
  auto model = Model::load(model_file(), std::move(backends), options);
  EXPECT_TRUE(model.ok()) << model.error().message;
  return std::move(*model);
}

/// Feeds `tokens` in chunks and returns the logits of all of them, [tokens][vocab].
inline Logits feed(Model& model, Sequence& sequence, std::span<const std::int32_t> tokens, std::size_t chunk) {
  const auto vocab = static_cast<std::size_t>(model.shape().dims.vocab);
  Logits logits(tokens.size() * vocab);
  for (std::size_t at = 0; at < tokens.size(); at += chunk) {
    const std::size_t n = std::min(chunk, tokens.size() - at);
    std::vector<BatchRow> rows;
    for (std::size_t i = 0; i < n; ++i)
      rows.push_back({&sequence, tokens[at + i], sequence.length() + static_cast<std::int64_t>(i), true});
    const auto status = model.forward(rows, std::span(logits).subspan(at * vocab, n * vocab));
    EXPECT_TRUE(status.ok()) << status.error().message;
    if (!status.ok()) break;
  }
  return logits;
}

inline Sequence fresh(Model& model) {
  auto sequence = model.new_sequence();
  EXPECT_TRUE(sequence.ok());
  return std::move(*sequence);
}

inline float largest_difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  float largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

class OnEveryDevice : public ::testing::TestWithParam<DeviceChoice> {};

inline std::string device_label(const ::testing::TestParamInfo<DeviceChoice>& test) {
  return test.param.device + (test.param.isa.empty() ? "" : "_" + test.param.isa);
}

}  // namespace ds4::testing
