// The three golden models against what an independent implementation computed on them (data/README.md): every listed
// logit, every argmax, every nll, the greedy continuation; exact KV rows by value, rounded ones by statistics.
//
// Backends: DS4_GOLDEN_DEVICE is "reference" or "cpu/<isa>"; an instruction set this machine lacks is skipped.
// DS4_TEST_DEEP=1 runs every prefill chunking on the reference backend too (minutes); DS4_EMULATED=1 only what an
// emulator does in seconds: the smallest set, two chunkings.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "convert/convert.h"
#include "convert/safetensors.h"
#include "model/model.h"

namespace ds4 {
namespace {

const std::string kData = std::string(DS4_SOURCE_DIR) + "/tests/golden/data/";

/// The models as f32 GGUF files, converted once by the project's own converter.
class ModelFiles {
 public:
  ModelFiles() {
    folder_ = std::filesystem::temp_directory_path() / ("ds4-golden-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  ~ModelFiles() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string path(const std::string& set) {
    const std::string out = (folder_ / (set + ".gguf")).string();
    if (std::filesystem::exists(out)) return out;
    ConvertOptions options;
    options.input = kData + set;
    options.output = out;
    options.recipe.type = DType::kF32;
    const auto report = convert_model(options, {});
    EXPECT_TRUE(report.ok()) << report.error().message;
    return out;
  }
  /// The same weights with another SwiGLU clamp.
  std::string path_with_clamp(const std::string& set, float clamp) {
    const std::string out = (folder_ / (set + "-clamp.gguf")).string();
    std::filesystem::copy_file(path(set), out, std::filesystem::copy_options::overwrite_existing);
    std::uint64_t offset = 0;
    std::uint64_t count = 0;
    {
      const auto file = gguf::File::open(out);
      const auto* value = file->find_value("deepseek4.swiglu_clamp_exp");
      offset = value->offset;
      count = value->count;
      std::vector<float> old(count);
      std::memcpy(old.data(), value->raw.data(), count * sizeof(float));
      EXPECT_EQ(old, std::vector<float>(count, 10.0F));
      offset =
          static_cast<std::uint64_t>(value->raw.data() - file->tensors()[0].data.data()) + file->tensors()[0].offset;
    }
    std::fstream stream(out, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(static_cast<std::streamoff>(offset));
    for (std::uint64_t i = 0; i < count; ++i) stream.write(reinterpret_cast<const char*>(&clamp), sizeof clamp);
    return out;
  }

 private:
  std::filesystem::path folder_;
};

ModelFiles& model_files() {
  static ModelFiles files;
  return files;
}

struct Golden {
  std::vector<std::int32_t> ids, logits_rows, argmax, greedy;
  std::vector<float> logits, nll;
  std::size_t greedy_prompt = 0;
};

template <typename T>
std::vector<T> values(const SafetensorsFile& file, std::string_view name) {
  const auto* tensor = file.find(name);
  if (tensor == nullptr) return {};
  std::vector<T> out(tensor->data.size() / sizeof(T));
  std::memcpy(out.data(), tensor->data.data(), tensor->data.size());
  return out;
}

Golden read_golden(const std::string& set, const std::string& name) {
  const auto file = SafetensorsFile::open(kData + set + "/" + name + ".safetensors");
  EXPECT_TRUE(file.ok()) << file.error().message;
  Golden g;
  g.ids = values<std::int32_t>(*file, "input_ids");
  g.logits_rows = values<std::int32_t>(*file, "logits_rows");
  g.argmax = values<std::int32_t>(*file, "argmax");
  g.greedy = values<std::int32_t>(*file, "greedy");
  g.logits = values<float>(*file, "logits");
  g.nll = values<float>(*file, "nll");
  g.greedy_prompt =
      nlohmann::json::parse(std::ifstream(kData + set + "/golden.json")).at("greedy_prompt_tokens").get<std::size_t>();
  EXPECT_GT(g.ids.size(), 400U);
  EXPECT_EQ(g.argmax.size(), g.ids.size());
  EXPECT_EQ(g.nll.size() + 1, g.ids.size());
  return g;
}

std::string device_name() {
  const char* name = std::getenv("DS4_GOLDEN_DEVICE");
  return name == nullptr ? "cpu/" : name;
}
bool emulated() { return std::getenv("DS4_EMULATED") != nullptr; }
bool deep() { return std::getenv("DS4_TEST_DEEP") != nullptr; }

Result<std::unique_ptr<Backend>> make_backend() {
  const std::string name = device_name();
  BackendOptions options;
  options.device = name.substr(0, name.find('/'));
  if (name.find('/') != std::string::npos) options.isa = name.substr(name.find('/') + 1);
  options.threads = 1;  // the number of threads changes no bit (model/forward_test)
  return create_backend(options);
}

/// One model with its file, ready to run.
struct Loaded {
  gguf::File file;
  std::unique_ptr<Model> model;
  static std::unique_ptr<Loaded> open(const std::string& path, KvFormat kv, std::int64_t context, int max_rows) {
    auto file = gguf::File::open(path);
    EXPECT_TRUE(file.ok()) << file.error().message;
    auto loaded = std::make_unique<Loaded>(Loaded{std::move(*file), nullptr});
    std::vector<std::unique_ptr<Backend>> backends;
    backends.push_back(std::move(*make_backend()));
    ModelOptions options;
    options.kv = kv;
    options.context = context;
    options.max_rows = max_rows;
    options.max_logit_rows = max_rows;
    auto model = Model::load(loaded->file, std::move(backends), options);
    EXPECT_TRUE(model.ok()) << model.error().message;
    loaded->model = std::move(*model);
    return loaded;
  }
  std::size_t vocab() const { return static_cast<std::size_t>(model->shape().dims.vocab); }
};

std::vector<float> all_logits(Loaded& loaded, const std::vector<std::int32_t>& ids, std::size_t chunk) {
  auto sequence = loaded.model->new_sequence();
  EXPECT_TRUE(sequence.ok());
  const std::size_t vocab = loaded.vocab();
  std::vector<float> logits(ids.size() * vocab);
  for (std::size_t at = 0; at < ids.size(); at += chunk) {
    const std::size_t n = std::min(chunk, ids.size() - at);
    std::vector<BatchRow> rows;
    for (std::size_t i = at; i < at + n; ++i) rows.push_back({&*sequence, ids[i], static_cast<std::int64_t>(i), true});
    const auto status = loaded.model->forward(rows, std::span(logits).subspan(at * vocab, n * vocab));
    EXPECT_TRUE(status.ok()) << status.error().message;
  }
  return logits;
}

std::int32_t argmax(std::span<const float> row) {
  return static_cast<std::int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

double nll(std::span<const float> row, std::int32_t token) {
  const double largest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float v : row) sum += std::exp(static_cast<double>(v) - largest);
  return std::log(sum) + largest - static_cast<double>(row[static_cast<std::size_t>(token)]);
}

void expect_exact(const Golden& g, const std::vector<float>& logits, std::size_t vocab) {
  double largest = 0;
  for (std::size_t i = 0; i < g.logits_rows.size(); ++i)
    for (std::size_t v = 0; v < vocab; ++v)
      largest = std::max<double>(
          largest, std::abs(logits[static_cast<std::size_t>(g.logits_rows[i]) * vocab + v] - g.logits[i * vocab + v]));
  EXPECT_LT(largest, 1e-3);
  for (std::size_t i = 0; i < g.ids.size(); ++i) {
    const std::span<const float> row(logits.data() + i * vocab, vocab);
    ASSERT_EQ(argmax(row), g.argmax[i]) << "position " << i;
    if (i + 1 < g.ids.size()) {
      ASSERT_NEAR(nll(row, g.ids[i + 1]), g.nll[i], 1e-3) << "position " << i;
    }
  }
}

class GoldenSet : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const auto backend = make_backend();
    if (!backend.ok()) GTEST_SKIP() << backend.error().message;
    if (emulated() && GetParam() != "small-odd") GTEST_SKIP() << "too slow under an emulator";
  }
};
INSTANTIATE_TEST_SUITE_P(Sets, GoldenSet, ::testing::Values("small-odd", "tiny-bf16", "tiny-official"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(GoldenSet, ExactRowsForEveryPrefillChunk) {
  const Golden g = read_golden(GetParam(), "golden");
  std::vector<std::size_t> chunks = {1, 2, 3, 4, 5, 127, 128, 129, g.ids.size()};
  if (device_name() == "reference" && !deep())
    chunks = {GetParam() == "small-odd" ? std::size_t{1} : std::size_t{127}, g.ids.size()};
  if (emulated()) chunks = {127, g.ids.size()};
  auto loaded = Loaded::open(model_files().path(GetParam()), KvFormat::kF32, static_cast<std::int64_t>(g.ids.size()),
                             static_cast<int>(g.ids.size()));
  for (const std::size_t chunk : chunks) {
    SCOPED_TRACE("chunk " + std::to_string(chunk));
    expect_exact(g, all_logits(*loaded, g.ids, chunk), loaded->vocab());
  }
}

TEST_P(GoldenSet, GreedyContinuation) {
  const Golden g = read_golden(GetParam(), "golden");
  ASSERT_EQ(g.greedy.size(), 48U);
  auto loaded = Loaded::open(model_files().path(GetParam()), KvFormat::kF32, 256, 150);
  auto sequence = loaded->model->new_sequence();
  std::vector<BatchRow> rows;
  for (std::size_t i = 0; i < g.greedy_prompt; ++i)
    rows.push_back({&*sequence, g.ids[i], static_cast<std::int64_t>(i), i + 1 == g.greedy_prompt});
  std::vector<float> logits(loaded->vocab());
  ASSERT_TRUE(loaded->model->forward(rows, logits).ok());
  std::vector<std::int32_t> found;
  while (found.size() < g.greedy.size()) {
    found.push_back(argmax(logits));
    const std::vector<BatchRow> row = {{&*sequence, found.back(), sequence->length(), true}};
    ASSERT_TRUE(loaded->model->forward(row, logits).ok());
  }
  EXPECT_EQ(found, g.greedy);
}

TEST_P(GoldenSet, RoundedRowsAgreeStatistically) {
  const Golden g = read_golden(GetParam(), "golden-official-kv");
  auto loaded =
      Loaded::open(model_files().path(GetParam()), KvFormat::kPacked, static_cast<std::int64_t>(g.ids.size()), 128);
  const std::size_t vocab = loaded->vocab();
  const auto logits = all_logits(*loaded, g.ids, 128);
  std::size_t changed = 0;
  std::vector<double> nll_difference;
  std::vector<double> row_difference;
  for (std::size_t i = 0; i < g.ids.size(); ++i) {
    const std::span<const float> row(logits.data() + i * vocab, vocab);
    changed += argmax(row) != g.argmax[i] ? 1 : 0;
    if (i + 1 < g.ids.size())
      nll_difference.push_back(std::abs(nll(row, g.ids[i + 1]) - static_cast<double>(g.nll[i])));
  }
  for (std::size_t i = 0; i < g.logits_rows.size(); ++i) {
    double largest = 0;
    for (std::size_t v = 0; v < vocab; ++v)
      largest = std::max<double>(
          largest, std::abs(logits[static_cast<std::size_t>(g.logits_rows[i]) * vocab + v] - g.logits[i * vocab + v]));
    row_difference.push_back(largest);
  }
  const auto median = [](std::vector<double>& v) {
    std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
    return v[v.size() / 2];
  };
  EXPECT_LE(static_cast<double>(changed), 0.015 * static_cast<double>(g.ids.size()));
  EXPECT_LT(median(nll_difference), 0.005);
  EXPECT_LT(median(row_difference), 0.02);
}

TEST(Golden, SwigluClampAtWork) {
  const auto backend = make_backend();
  if (!backend.ok()) GTEST_SKIP() << backend.error().message;
  const Golden g = read_golden("small-odd", "golden-clamp");
  auto loaded = Loaded::open(model_files().path_with_clamp("small-odd", 1.5F), KvFormat::kF32,
                             static_cast<std::int64_t>(g.ids.size()), 420);
  std::vector<std::size_t> chunks = {g.ids.size()};
  if (!emulated() && (device_name() != "reference" || deep())) chunks = {1, 2, 3, 4, 5, 127, 128, 129, g.ids.size()};
  for (const std::size_t chunk : chunks) {
    SCOPED_TRACE("chunk " + std::to_string(chunk));
    expect_exact(g, all_logits(*loaded, g.ids, chunk), loaded->vocab());
  }
}

}  // namespace
}  // namespace ds4
