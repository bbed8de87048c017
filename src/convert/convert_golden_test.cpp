// The golden models converted, against values decoded here from the definitions of the formats.
#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "convert/safetensors.h"
#include "convert/test_checkpoint.h"
#include "convert/test_convert.h"
#include "quant/codec.h"

namespace ds4 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// The value of element (row, column) of a checkpoint tensor, from the definitions of the formats in double precision.
class CheckpointOracle {
 public:
  explicit CheckpointOracle(const std::string& model)
      : file_(std::move(SafetensorsFile::open(golden_folder(model) + "/model.safetensors")).value()) {}

  double at(const std::string& name, std::uint64_t row, std::uint64_t column) const {
    const SafeTensor& tensor = *file_.find(name);
    const std::uint64_t width = tensor.shape.back();
    switch (tensor.type) {
      case SafeType::kF32: return number<float>(tensor, row * width + column);
      case SafeType::kBF16:
        return std::bit_cast<float>(std::uint32_t{number<std::uint16_t>(tensor, row * width + column)} << 16);
      case SafeType::kF8_E4M3:
        return e4m3(number<std::uint8_t>(tensor, row * width + column)) * scale(name, row / 128, column / 128);
      case SafeType::kI8: {
        const unsigned pair = number<std::uint8_t>(tensor, row * width + column / 2);
        const unsigned code = column % 2 == 0 ? pair & 15 : pair >> 4;
        const double doubled[8] = {0, 1, 2, 3, 4, 6, 8, 12};
        return (code >= 8 ? -0.5 : 0.5) * doubled[code % 8] * scale(name, row, column / 32);
      }
      default: ADD_FAILURE() << name; return 0;
    }
  }
  const SafetensorsFile& file() const { return file_; }

 private:
  template <typename T>
  static T number(const SafeTensor& tensor, std::uint64_t index) {
    T value;
    std::memcpy(&value, tensor.data.data() + index * sizeof(T), sizeof(T));
    return value;
  }
  static double e4m3(unsigned code) {
    const unsigned exponent = code >> 3 & 15;
    const double mantissa = (code & 7) / 8.0 + (exponent == 0 ? 0 : 1);
    return std::ldexp((code & 0x80) != 0 ? -mantissa : mantissa, static_cast<int>(exponent == 0 ? 1 : exponent) - 7);
  }
  double scale(const std::string& weight, std::uint64_t row, std::uint64_t column) const {
    const SafeTensor& scales = *file_.find(weight.substr(0, weight.rfind('.')) + ".scale");
    return std::ldexp(1.0, number<std::uint8_t>(scales, row * scales.shape[1] + column) - 127);
  }
  SafetensorsFile file_;
};

/// Where some tensors of the model file must come from, written out by hand.
struct Origin {
  std::string name;
  std::uint64_t slice;
  std::string source;
};

std::vector<Origin> origins(std::uint64_t experts, int csa, int hca) {
  const std::string c = cat("blk.", csa, "."), h = cat("blk.", hca, ".");
  const std::string lc = cat("layers.", csa, "."), lh = cat("layers.", hca, ".");
  std::vector<Origin> list = {
      {"token_embd.weight", 0, "embed.weight"},
      {"output.weight", 0, "head.weight"},
      {"output_norm.weight", 0, "norm.weight"},
      {"output_hc_fn.weight", 0, "hc_head_fn"},
      {"output_hc_base.weight", 0, "hc_head_base"},
      {"output_hc_scale.weight", 0, "hc_head_scale"},
      {c + "attn_norm.weight", 0, lc + "attn_norm.weight"},
      {c + "ffn_norm.weight", 0, lc + "ffn_norm.weight"},
      {c + "attn_q_a.weight", 0, lc + "attn.wq_a.weight"},
      {c + "attn_q_a_norm.weight", 0, lc + "attn.q_norm.weight"},
      {c + "attn_q_b.weight", 0, lc + "attn.wq_b.weight"},
      {c + "attn_kv.weight", 0, lc + "attn.wkv.weight"},
      {c + "attn_kv_a_norm.weight", 0, lc + "attn.kv_norm.weight"},
      {c + "attn_sinks.weight", 0, lc + "attn.attn_sink"},
      {c + "attn_output_a.weight", 0, lc + "attn.wo_a.weight"},
      {c + "attn_output_b.weight", 0, lc + "attn.wo_b.weight"},
      {c + "attn_compressor_ape.weight", 0, lc + "attn.compressor.ape"},
      {c + "attn_compressor_kv.weight", 0, lc + "attn.compressor.wkv.weight"},
      {c + "attn_compressor_gate.weight", 0, lc + "attn.compressor.wgate.weight"},
      {h + "attn_compressor_norm.weight", 0, lh + "attn.compressor.norm.weight"},
      {h + "attn_compressor_ape.weight", 0, lh + "attn.compressor.ape"},
      {c + "indexer.attn_q_b.weight", 0, lc + "attn.indexer.wq_b.weight"},
      {c + "indexer.proj.weight", 0, lc + "attn.indexer.weights_proj.weight"},
      {c + "indexer_compressor_ape.weight", 0, lc + "attn.indexer.compressor.ape"},
      {c + "indexer_compressor_kv.weight", 0, lc + "attn.indexer.compressor.wkv.weight"},
      {c + "indexer_compressor_gate.weight", 0, lc + "attn.indexer.compressor.wgate.weight"},
      {c + "indexer_compressor_norm.weight", 0, lc + "attn.indexer.compressor.norm.weight"},
      {c + "ffn_gate_inp.weight", 0, lc + "ffn.gate.weight"},
      {h + "exp_probs_b.bias", 0, lh + "ffn.gate.bias"},
      {c + "ffn_gate_shexp.weight", 0, lc + "ffn.shared_experts.w1.weight"},
      {c + "ffn_up_shexp.weight", 0, lc + "ffn.shared_experts.w3.weight"},
      {c + "ffn_down_shexp.weight", 0, lc + "ffn.shared_experts.w2.weight"},
      {h + "hc_attn_fn.weight", 0, lh + "hc_attn_fn"},
      {h + "hc_ffn_base.weight", 0, lh + "hc_ffn_base"},
      {h + "hc_ffn_scale.weight", 0, lh + "hc_ffn_scale"},
  };
  for (std::uint64_t e = 0; e < experts; ++e) {
    list.push_back({h + "ffn_gate_exps.weight", e, cat(lh, "ffn.experts.", e, ".w1.weight")});
    list.push_back({h + "ffn_up_exps.weight", e, cat(lh, "ffn.experts.", e, ".w3.weight")});
    list.push_back({h + "ffn_down_exps.weight", e, cat(lh, "ffn.experts.", e, ".w2.weight")});
  }
  return list;
}

struct Golden {
  const char* model;
  std::uint64_t experts;
  int csa, hca;
  std::size_t tensors;
};

class GoldenConversion : public ::testing::TestWithParam<Golden> {};

TEST_P(GoldenConversion, F32HasTheValuesOfTheCheckpoint) {
  const Golden& golden = GetParam();
  TestFolder folder;
  const Outcome outcome = convert(golden_folder(golden.model), folder.path("m.gguf"), DType::kF32);
  ASSERT_TRUE(outcome.report.ok()) << outcome.report.error().message;
  EXPECT_THAT(outcome.notes, ElementsAre(HasSubstr("no tokenizer.json")));
  const gguf::File model = open_model(folder.path("m.gguf"));
  EXPECT_EQ(model.tensors().size(), golden.tensors);
  EXPECT_EQ(outcome.report->tensors, golden.tensors);
  EXPECT_EQ(outcome.report->output_bytes, std::filesystem::file_size(folder.path("m.gguf")));

  const CheckpointOracle oracle(golden.model);
  for (const Origin& origin : origins(golden.experts, golden.csa, golden.hca)) {
    const gguf::TensorInfo* tensor = model.find_tensor(origin.name);
    ASSERT_NE(tensor, nullptr) << origin.name;
    ASSERT_EQ(tensor->type, DType::kF32) << origin.name;
    const std::uint64_t columns = tensor->dims[0], rows = tensor->dims[1];
    std::vector<float> values(columns * rows);
    std::memcpy(values.data(), tensor->data.data() + origin.slice * values.size() * 4, values.size() * 4);
    for (std::uint64_t r = 0; r < rows; ++r)
      for (std::uint64_t c = 0; c < columns; ++c)
        ASSERT_EQ(values[r * columns + c], oracle.at(origin.source, r, c)) << origin.name << " " << r << " " << c;
  }
}

TEST_P(GoldenConversion, TokenTables) {
  const Golden& golden = GetParam();
  TestFolder folder;
  ASSERT_TRUE(convert(golden_folder(golden.model), folder.path("m.gguf"), DType::kQ8_0).report.ok());
  const gguf::File model = open_model(folder.path("m.gguf"));
  const CheckpointOracle oracle(golden.model);
  const SafeTensor* source = oracle.file().find("layers.0.ffn.gate.tid2eid");
  const gguf::TensorInfo* table = model.find_tensor("blk.0.ffn_gate_tid2eid.weight");
  ASSERT_NE(table, nullptr);
  EXPECT_EQ(table->type, DType::kI32);
  EXPECT_EQ(table->dims[0], source->shape[1]);
  EXPECT_EQ(table->dims[1], source->shape[0]);
  for (std::uint64_t i = 0; i < source->elements(); ++i) {
    std::int64_t wide = 0;
    std::int32_t narrow = 0;
    std::memcpy(&wide, source->data.data() + 8 * i, 8);
    std::memcpy(&narrow, table->data.data() + 4 * i, 4);
    ASSERT_EQ(wide, narrow);
  }
}

TEST_P(GoldenConversion, EveryTypeIsTheEncodingOfTheF32File) {
  TestFolder folder;
  ASSERT_TRUE(convert(golden_folder(GetParam().model), folder.path("f32.gguf"), DType::kF32).report.ok());
  const gguf::File exact = open_model(folder.path("f32.gguf"));
  for (const DType type : {DType::kF16, DType::kBF16, DType::kQ8_0}) {
    const std::string path = folder.path("other.gguf");
    std::filesystem::remove(path);
    ASSERT_TRUE(convert(golden_folder(GetParam().model), path, type, /*threads=*/3).report.ok());
    const gguf::File model = open_model(path);
    ASSERT_EQ(model.tensors().size(), exact.tensors().size());
    for (const gguf::TensorInfo& wanted : exact.tensors()) {
      const gguf::TensorInfo* tensor = model.find_tensor(wanted.name);
      ASSERT_NE(tensor, nullptr) << wanted.name;
      const bool matrix = wanted.n_dims > 1 && wanted.type == DType::kF32;
      ASSERT_EQ(tensor->type, matrix ? type : wanted.type) << wanted.name;
      std::vector<std::byte> encoded(wanted.data.begin(), wanted.data.end());
      if (matrix) {
        std::vector<float> values(wanted.elements());
        std::memcpy(values.data(), wanted.data.data(), values.size() * 4);
        encoded.resize(row_bytes(type, values.size()));
        encode_row(type, values.data(), encoded.data(), values.size());
      }
      ASSERT_TRUE(std::ranges::equal(tensor->data, encoded)) << wanted.name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenConversion,
                         ::testing::Values(Golden{"small-odd", 8, 1, 2, 126}, Golden{"tiny-bf16", 4, 4, 3, 178},
                                           Golden{"tiny-official", 4, 4, 3, 178}),
                         [](const auto& golden) {
                           std::string name = golden.param.model;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace ds4
