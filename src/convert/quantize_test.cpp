// Recipes, importance matrices, model files as input, dry runs, and going on after an interruption.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <map>

#include "convert/compare.h"
#include "convert/convert.h"
#include "convert/test_checkpoint.h"
#include "convert/test_convert.h"
#include "gguf/writer.h"
#include "quant/codec.h"
#include "quant/imatrix.h"

namespace ds4 {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

/// The model that ships with the project: rows of 256, a tokenizer, a draft block.
std::string nano() { return cat(DS4_SOURCE_DIR, "/models/ds4-nano.gguf"); }

ConvertOptions from_nano(const std::string& output, const std::string& recipe = "q2") {
  ConvertOptions options;
  options.input = nano();
  options.output = output;
  options.recipe.name = recipe;
  options.threads = 2;
  return options;
}

/// The same, with little to search for: most tests are about something else.
ConvertOptions quick(const std::string& output) {
  ConvertOptions options = from_nano(output, "q8");
  options.recipe.overrides = {{"blk.2.ffn_gate_exps.weight", DType::kIQ2_XXS},
                              {"blk.2.ffn_down_exps.weight", DType::kQ2_K}};
  return options;
}

/// Nano by recipe q2, made once.
const std::string& q2_file() {
  static const TestFolder folder;
  static const std::string path = [] {
    const auto report = convert_model(from_nano(folder.path("q2.gguf")), {});
    EXPECT_TRUE(report.ok()) << report.error().message;
    return folder.path("q2.gguf");
  }();
  return path;
}

std::map<std::string, DType> types_of(const gguf::File& file) {
  std::map<std::string, DType> types;
  for (const gguf::TensorInfo& tensor : file.tensors()) types[std::string(tensor.name)] = tensor.type;
  return types;
}

TEST(Quantize, AModelFileByRecipe) {
  const gguf::File before = open_model(nano());
  const gguf::File after = open_model(q2_file());
  EXPECT_EQ(after.tensors().size(), before.tensors().size());
  auto types = types_of(after);
  EXPECT_EQ(types["blk.2.ffn_gate_exps.weight"], DType::kIQ2_XXS);
  EXPECT_EQ(types["blk.2.ffn_down_exps.weight"], DType::kQ2_K);
  EXPECT_EQ(types["mtp.0.ffn_down_exps.weight"], DType::kQ4_K);
  EXPECT_EQ(types["token_embd.weight"], DType::kF16);
  EXPECT_EQ(types["blk.1.ffn_gate_inp.weight"], DType::kF16);
  EXPECT_EQ(types["blk.1.attn_compressor_ape.weight"], DType::kF16);
  EXPECT_EQ(types["blk.1.hc_attn_fn.weight"], DType::kF16);
  EXPECT_EQ(types["blk.1.attn_kv.weight"], DType::kQ8_0);
  EXPECT_EQ(types["output.weight"], DType::kQ8_0);
  EXPECT_EQ(types["blk.1.attn_norm.weight"], DType::kF32);
  EXPECT_EQ(**after.get_uint("general.file_type"), 19U);
  // Everything else that the file says is taken over.
  for (const gguf::Value& value : before.values()) {
    if (value.key == "general.file_type") continue;
    const gguf::Value* same = after.find_value(value.key);
    ASSERT_NE(same, nullptr) << value.key;
    EXPECT_TRUE(std::ranges::equal(same->raw, value.raw)) << value.key;
  }
  // Tensors that keep their type keep their bytes.
  const auto* kept = before.find_tensor("blk.1.attn_kv.weight");
  EXPECT_TRUE(std::ranges::equal(kept->data, after.find_tensor("blk.1.attn_kv.weight")->data));
}

TEST(Quantize, TheFileDoesNotDependOnThreads) {
  const TestFolder folder;
  for (const int threads : {1, 3}) {
    ConvertOptions options = quick(folder.path(cat(threads)));
    options.threads = threads;
    const auto report = convert_model(options, {});
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_EQ(report->output_bytes, fs::file_size(options.output));
  }
  EXPECT_EQ(TestFolder::read(folder.path("1")), TestFolder::read(folder.path("3")));
}

TEST(Quantize, RowsThatAreNoWholeBlocksFallBack) {
  const TestFolder folder;
  ConvertOptions options;
  options.input = golden_folder("small-odd");
  options.output = folder.path("m.gguf");
  options.recipe.name = "q2";
  std::vector<std::string> notes;
  const ConvertEvents events{[&](std::string_view text) { notes.emplace_back(text); }, {}};
  ASSERT_TRUE(convert_model(options, events).ok());
  EXPECT_EQ(types_of(open_model(options.output))["blk.0.ffn_gate_exps.weight"], DType::kQ8_0);
  EXPECT_THAT(notes, Contains(HasSubstr("no multiple of 256 are stored as q8_0 in place of iq2_xxs")));

  options.recipe.overrides = {{"blk.0.ffn_gate_exps.weight", DType::kQ4_K}};
  options.overwrite = true;
  EXPECT_THAT(convert_model(options, {}).error().message,
              HasSubstr("blk.0.ffn_gate_exps.weight: rows of 128 elements cannot be q4_k, which has blocks of 256"));
  options.recipe.overrides = {{"blk.77.*", DType::kF16}};
  EXPECT_THAT(convert_model(options, {}).error().message, HasSubstr("the pattern blk.77.* matches none of the"));
}

TEST(Quantize, WithoutCheckpointOrModel) {
  const TestFolder folder;
  ConvertOptions options = from_nano(folder.path("m.gguf"));
  options.input = folder.path("nowhere");
  EXPECT_THAT(convert_model(options, {}).error().message, HasSubstr("expected a folder with config.json, or a GGUF"));
  folder.write("text.gguf", "not a model");
  options.input = folder.path("text.gguf");
  EXPECT_EQ(convert_model(options, {}).error().code, ErrorCode::kBadModel);
  fs::copy_file(nano(), folder.path("m.gguf"));
  options.input = folder.path("m.gguf");
  options.overwrite = true;
  EXPECT_THAT(convert_model(options, {}).error().message, HasSubstr("cannot be replaced while it is read"));
}

// ---- Importance matrices

/// One for the experts of nano's layer 2, in which every fourth column is all that matters.
std::string write_imatrix(const TestFolder& folder, const std::string& tensor, std::size_t values) {
  const std::string path = folder.path("m.dat");
  ImatrixWriter writer = std::move(ImatrixWriter::create(path, 1)).value();
  std::vector<float> means(values, 0.001F);
  for (std::size_t i = 0; i < values; ++i)
    if (i % 4 == 0) means[i] = 1.0F;
  EXPECT_TRUE(writer.add(tensor, means).ok());
  EXPECT_TRUE(writer.finish(5, "text.txt").ok());
  return path;
}

/// Squared error of every fourth column and of the others.
std::pair<double, double> column_errors(const gguf::File& a, const gguf::File& b, const char* name) {
  const auto* x = a.find_tensor(name);
  const auto* y = b.find_tensor(name);
  std::vector<float> left(x->elements()), right(x->elements());
  decode_row(x->type, x->data.data(), left.data(), left.size());
  decode_row(y->type, y->data.data(), right.data(), right.size());
  std::pair<double, double> sums;
  for (std::size_t i = 0; i < left.size(); ++i) {
    const double off = static_cast<double>(left[i] - right[i]);
    (i % 4 == 0 ? sums.first : sums.second) += off * off;
  }
  return sums;
}

TEST(QuantizeImatrix, ColumnsThatMatterAreCloser) {
  const TestFolder folder;
  const char* name = "blk.2.ffn_gate_exps.weight";
  ASSERT_TRUE(convert_model(quick(folder.path("plain.gguf")), {}).ok());
  ConvertOptions options = quick(folder.path("weighted.gguf"));
  options.imatrix = write_imatrix(folder, name, 8 * 256);
  std::vector<std::string> notes;
  const ConvertEvents events{[&](std::string_view text) { notes.emplace_back(text); }, {}};
  ASSERT_TRUE(convert_model(options, events).ok());
  EXPECT_THAT(notes,
              Contains(HasSubstr("quantised tensors are not in the importance matrix: blk.2.ffn_down_exps.weight")));
  const gguf::File original = open_model(nano());
  const gguf::File plain = open_model(folder.path("plain.gguf"));
  const gguf::File weighted = open_model(folder.path("weighted.gguf"));
  const auto before = column_errors(original, plain, name);
  const auto after = column_errors(original, weighted, name);
  EXPECT_LT(after.first, 0.8 * before.first);
  EXPECT_GT(after.second, before.second);
  EXPECT_EQ(column_errors(original, weighted, "blk.2.ffn_down_exps.weight"),
            column_errors(original, plain, "blk.2.ffn_down_exps.weight"));
  EXPECT_EQ(**weighted.get_string("quantize.imatrix.file"), "m.dat");
  EXPECT_EQ(**weighted.get_string("quantize.imatrix.dataset"), "text.txt");
  EXPECT_EQ(**weighted.get_uint("quantize.imatrix.entries_count"), 1U);
  EXPECT_EQ(**weighted.get_uint("quantize.imatrix.chunks_count"), 5U);
}

TEST(QuantizeImatrix, OneRowForAllExperts) {
  const TestFolder folder;
  ConvertOptions options = quick(folder.path("a.gguf"));
  options.imatrix = write_imatrix(folder, "blk.2.ffn_gate_exps.weight", 8 * 256);
  ASSERT_TRUE(convert_model(options, {}).ok());
  options.output = folder.path("b.gguf");
  options.imatrix = write_imatrix(folder, "blk.2.ffn_gate_exps.weight", 256);
  ASSERT_TRUE(convert_model(options, {}).ok());
  EXPECT_EQ(TestFolder::read(folder.path("a.gguf")), TestFolder::read(folder.path("b.gguf")));
}

TEST(QuantizeImatrix, ColumnsThatMatterAlikeChangeNothing) {
  const TestFolder folder;
  const std::vector<const char*> names = {"blk.2.ffn_gate_exps.weight", "blk.2.ffn_down_exps.weight"};
  ImatrixWriter writer = std::move(ImatrixWriter::create(folder.path("even.dat"), 2)).value();
  for (const char* name : names) ASSERT_TRUE(writer.add(name, std::vector<float>(256, 0.5F)).ok());
  ASSERT_TRUE(writer.finish(1, "").ok());
  ASSERT_TRUE(convert_model(quick(folder.path("plain.gguf")), {}).ok());
  ConvertOptions options = quick(folder.path("even.gguf"));
  options.imatrix = folder.path("even.dat");
  ASSERT_TRUE(convert_model(options, {}).ok());
  const gguf::File plain = open_model(folder.path("plain.gguf"));
  const gguf::File even = open_model(options.output);
  for (const char* name : names)
    EXPECT_TRUE(std::ranges::equal(plain.find_tensor(name)->data, even.find_tensor(name)->data)) << name;
}

TEST(QuantizeImatrix, OneThatDoesNotFit) {
  const TestFolder folder;
  ConvertOptions options = quick(folder.path("m.gguf"));
  options.imatrix = write_imatrix(folder, "blk.2.ffn_gate_exps.weight", 300);
  EXPECT_THAT(
      convert_model(options, {}).error().message,
      HasSubstr("m.dat: entry blk.2.ffn_gate_exps.weight at byte 4: expected 256 values, or 2048 for 8 experts, "
                "found 300"));
  options.imatrix = write_imatrix(folder, "blk.99.ffn_gate_exps.weight", 2048);
  EXPECT_THAT(convert_model(options, {}).error().message,
              HasSubstr("none of its 1 entries is for a tensor that this conversion quantises; the first is blk.99"));
  options.imatrix = nano();
  EXPECT_EQ(convert_model(options, {}).error().code, ErrorCode::kBadModel);
  EXPECT_FALSE(fs::exists(options.output));
}

// ---- Dry runs

TEST(QuantizeDryRun, SizesAreThoseOfTheFile) {
  const auto plan = plan_conversion(from_nano(""), {});
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  const gguf::File file = open_model(q2_file());
  const PlanLine& whole = plan->back();
  EXPECT_EQ(whole.group, "file");
  EXPECT_EQ(whole.bytes, file.size());
  EXPECT_EQ(whole.tensors, file.tensors().size());
  std::map<std::string, const PlanLine*> lines;
  for (const PlanLine& line : *plan) lines[line.group] = &line;
  EXPECT_EQ(lines["routed gate and up"]->types, "iq2_xxs");
  EXPECT_EQ(lines["routed gate and up"]->tensors, 12U);
  EXPECT_EQ(lines["routed gate and up"]->elements, 6291456U);
  EXPECT_EQ(lines["routed gate and up"]->bytes, 6291456U / 256 * 66);
  EXPECT_EQ(lines["embedding"]->types, "f16");
  EXPECT_EQ(lines["MTP block"]->tensors, 32U);
}

// ---- Going on after an interruption

/// Runs until `tensors` tensors are in the journal, then asks to stop.
Result<ConvertReport> interrupted_after(ConvertOptions options, int lines) {
  std::atomic<bool> cancel{false};
  options.cancel = &cancel;
  options.threads = 1;
  ConvertEvents events;
  events.progress = [&](const ConvertProgress&) {
    const std::string journal = TestFolder::read(options.output + ".journal");
    if (std::count(journal.begin(), journal.end(), '\n') > lines) cancel = true;
  };
  return convert_model(options, events);
}

TEST(QuantizeResume, GoesOnWithWhatIsComplete) {
  const TestFolder folder;
  ASSERT_TRUE(convert_model(quick(folder.path("straight.gguf")), {}).ok());
  const ConvertOptions options = quick(folder.path("m.gguf"));
  const auto stopped = interrupted_after(options, 20);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kCancelled);
  EXPECT_THAT(stopped.error().message, HasSubstr("tensors are complete, the same command goes on with them"));
  EXPECT_FALSE(fs::exists(options.output));
  ASSERT_TRUE(fs::exists(options.output + ".part"));

  std::vector<std::string> notes;
  const ConvertEvents events{[&](std::string_view text) { notes.emplace_back(text); }, {}};
  const auto report = convert_model(options, events);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_GE(report->resumed, 20U);
  EXPECT_LT(report->resumed, report->tensors);
  EXPECT_THAT(notes, Contains(HasSubstr("going on with an interrupted run")));
  EXPECT_EQ(TestFolder::read(options.output), TestFolder::read(folder.path("straight.gguf")));
  EXPECT_FALSE(fs::exists(options.output + ".part"));
  EXPECT_FALSE(fs::exists(options.output + ".journal"));
}

TEST(QuantizeResume, DamagedTensorsAreWrittenAgain) {
  const TestFolder folder;
  ASSERT_TRUE(convert_model(quick(folder.path("straight.gguf")), {}).ok());
  const ConvertOptions options = quick(folder.path("m.gguf"));
  ASSERT_FALSE(interrupted_after(options, 20).ok());
  {  // the embedding, which is complete, loses a byte in its middle
    const gguf::File straight = open_model(folder.path("straight.gguf"));
    std::fstream part(options.output + ".part", std::ios::in | std::ios::out | std::ios::binary);
    part.seekp(static_cast<std::streamoff>(straight.find_tensor("token_embd.weight")->offset + 1000));
    part.put('\x7e');
  }
  const auto report = convert_model(options, {});
  ASSERT_TRUE(report.ok());
  EXPECT_GT(report->resumed, 0U);
  EXPECT_EQ(TestFolder::read(options.output), TestFolder::read(folder.path("straight.gguf")));
}

TEST(QuantizeResume, AnotherConversionStartsAnew) {
  const TestFolder folder;
  ConvertOptions options = quick(folder.path("m.gguf"));
  ASSERT_FALSE(interrupted_after(options, 20).ok());
  options.recipe.overrides.pop_back();
  std::vector<std::string> notes;
  const ConvertEvents events{[&](std::string_view text) { notes.emplace_back(text); }, {}};
  const auto report = convert_model(options, events);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->resumed, 0U);
  EXPECT_THAT(notes, Contains(HasSubstr("the partial file that is there is of another run: starting anew")));
  options.output = folder.path("straight.gguf");
  ASSERT_TRUE(convert_model(options, {}).ok());
  EXPECT_EQ(TestFolder::read(folder.path("m.gguf")), TestFolder::read(folder.path("straight.gguf")));
}

// ---- Comparing

TEST(Compare, WorstFirst) {
  const auto same = compare_models(nano(), nano(), {});
  ASSERT_TRUE(same.ok());
  for (const TensorDifference& tensor : same->tensors) {
    ASSERT_EQ(tensor.relative_rms, 0) << tensor.name;
    ASSERT_NEAR(tensor.cosine, 1, 1e-12) << tensor.name;
  }
  CompareOptions options;
  options.threads = 2;
  const auto result = compare_models(nano(), q2_file(), options);
  ASSERT_TRUE(result.ok()) << result.error().message;
  const TensorDifference& worst = result->tensors.front();
  EXPECT_EQ(worst.type_a, DType::kMXFP4);
  EXPECT_EQ(worst.type_b, DType::kIQ2_XXS);
  EXPECT_NEAR(worst.relative_rms, 0.33, 0.03);
  EXPECT_NEAR(worst.cosine, std::sqrt(1 - worst.relative_rms * worst.relative_rms), 0.01);
  EXPECT_EQ(result->tensors.back().relative_rms, 0);
  EXPECT_TRUE(std::is_sorted(result->tensors.begin(), result->tensors.end(),
                             [](const auto& a, const auto& b) { return a.relative_rms > b.relative_rms; }));
  EXPECT_TRUE(result->only_a.empty() && result->only_b.empty() && result->other_shape.empty());
}

TEST(Compare, TensorsThatHaveNoPartner) {
  const TestFolder folder;
  const auto write = [&](const std::string& file, std::vector<std::pair<std::string, std::uint64_t>> tensors) {
    gguf::Writer writer(folder.path(file));
    for (const auto& [name, size] : tensors) writer.add_tensor(name, DType::kF32, std::vector<std::uint64_t>{size});
    EXPECT_TRUE(writer.begin().ok());
    for (std::size_t i = 0; i < tensors.size(); ++i) writer.skip_data(i);
    EXPECT_TRUE(writer.finish().ok());
  };
  write("a", {{"x", 4}, {"y", 4}, {"z", 4}});
  write("b", {{"x", 4}, {"y", 8}, {"w", 4}});
  const auto result = compare_models(folder.path("a"), folder.path("b"), {});
  ASSERT_TRUE(result.ok());
  EXPECT_THAT(result->only_a, ElementsAre("z"));
  EXPECT_THAT(result->only_b, ElementsAre("w"));
  EXPECT_THAT(result->other_shape, ElementsAre("y"));
  ASSERT_EQ(result->tensors.size(), 1U);
  EXPECT_EQ(result->tensors[0].relative_rms, 0) << "zeros against zeros";
}

}  // namespace
}  // namespace ds4
