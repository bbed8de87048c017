// The kernels of every instruction set of this machine against the exact scalar formats of quant/.
#include "backend/cpu/kernels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "backend/cpu/create.h"
#include "backend/cpu/isa.h"
#include "base/rng.h"
#include "quant/codec.h"
#include "quant/kv_row.h"

namespace ds4::cpu {
namespace {

std::vector<float> noise(std::uint64_t seed, std::size_t count, float scale = 1.0F) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = scale * static_cast<float>(uniform(seed, i) + uniform(seed, i, 1) + uniform(seed, i, 2) - 1.5);
  return values;
}

class Kernels : public testing::TestWithParam<const KernelTable*> {
 protected:
  const KernelTable& k() const { return *GetParam(); }
};
std::string table_name(const testing::TestParamInfo<const KernelTable*>& info) {
  std::string name = info.param->name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Isa, Kernels, testing::ValuesIn(available_tables().begin(), available_tables().end()), table_name);

/// silu(x) = x / (1 + e^-x) is the only way to the exponential from outside; weight 1, up 1.
TEST_P(Kernels, ExponentialIsAccurate) {
  std::vector<float> x;
  for (double v = -80.0; v < 30.0; v += 0.0137) x.push_back(static_cast<float>(v));
  const std::vector<float> one(x.size(), 1.0F);
  std::vector<float> h(x.size());
  k().swiglu(x.data(), one.data(), 100.0F, 1.0F, h.data(), static_cast<std::int64_t>(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double exact = static_cast<double>(x[i]) / (1.0 + std::exp(-static_cast<double>(x[i])));
    ASSERT_NEAR(h[i], exact, 4e-7 * std::fabs(exact)) << "x = " << x[i];
  }
}

TEST_P(Kernels, SwigluClampsTheGateFromAboveAndUpOnBothSides) {
  const std::vector<float> gate = {20, 2, -20, 2, std::nanf("")};
  const std::vector<float> up = {1, 20, 1, -20, 1};
  std::vector<float> h(5);
  k().swiglu(gate.data(), up.data(), 3.0F, 0.5F, h.data(), 5);
  const auto silu = [](double v) { return v / (1.0 + std::exp(-v)); };
  EXPECT_NEAR(h[0], 0.5 * silu(3), 1e-6);
  EXPECT_NEAR(h[1], 0.5 * silu(2) * 3, 1e-6);
  EXPECT_NEAR(h[2], 0.5 * silu(-20), 1e-12);
  EXPECT_NEAR(h[3], -0.5 * silu(2) * 3, 1e-6);
  EXPECT_TRUE(std::isnan(h[4]));
}

TEST_P(Kernels, ReadersOfRowsAreExact) {
  for (const auto& [dim, rope] : {std::pair{512, 64}, std::pair{64, 32}, std::pair{42, 10}, std::pair{200, 7}}) {
    for (const float scale : {1.0F, 1e-6F, 3e4F}) {
      const std::vector<float> row = noise(static_cast<std::uint64_t>(dim), static_cast<std::size_t>(dim), scale);
      for (const KvFormat format : {KvFormat::kF16, KvFormat::kPacked}) {
        const RowLayout layout = kv_row_layout(format, dim, rope);
        std::vector<std::byte> main(layout.main_bytes), scales(layout.scale_bytes + 1U);
        encode_kv_row(format, row.data(), dim, rope, main.data(), scales.data());
        std::vector<float> expected(row.size()), found(row.size() + 1, 77.0F);
        decode_kv_row(format, main.data(), scales.data(), dim, rope, expected.data());
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(main.data());
        if (format == KvFormat::kF16) k().read_f16(bytes, found.data(), dim);
        else k().read_packed(bytes, reinterpret_cast<const std::uint8_t*>(scales.data()), {dim - rope, dim}, found.data());
        EXPECT_EQ(found.back(), 77.0F) << "written beyond the row";
        found.pop_back();
        ASSERT_EQ(std::memcmp(found.data(), expected.data(), expected.size() * sizeof(float)), 0) << dim << " " << scale;
      }
    }
  }
  for (const int dim : {16, 32, 64, 128}) {
    const std::vector<float> row = noise(static_cast<std::uint64_t>(dim) + 7, static_cast<std::size_t>(dim));
    const RowLayout layout = index_row_layout(KvFormat::kPacked, dim);
    std::vector<std::byte> main(layout.main_bytes), scales(layout.scale_bytes);
    encode_index_row(KvFormat::kPacked, row.data(), dim, main.data(), scales.data());
    std::vector<float> expected(row.size()), found(row.size());
    decode_index_row(KvFormat::kPacked, main.data(), scales.data(), dim, expected.data());
    k().read_packed_index(reinterpret_cast<const std::uint8_t*>(main.data()),
                          reinterpret_cast<const std::uint8_t*>(scales.data()), dim, found.data());
    ASSERT_EQ(std::memcmp(found.data(), expected.data(), expected.size() * sizeof(float)), 0) << dim;
  }
}

TEST_P(Kernels, EveryE4m3CodeIsRead) {
  std::vector<std::uint8_t> codes(256);
  for (int i = 0; i < 256; ++i) codes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>((i & 0x7f) == 0x7f ? 0 : i);
  const std::uint8_t scales[4] = {127, 1, 100, 240};
  std::vector<float> expected(256), found(256);
  decode_kv_row(KvFormat::kPacked, reinterpret_cast<const std::byte*>(codes.data()), reinterpret_cast<const std::byte*>(scales),
                256, 0, expected.data());
  k().read_packed(codes.data(), scales, {256, 256}, found.data());
  for (std::size_t i = 0; i < 256; ++i) EXPECT_EQ(found[i], expected[i]) << i;
}

TEST_P(Kernels, ActivationsAreQuantisedToTheNearest) {
  std::vector<float> x = noise(5, 300, 4.0F);
  for (int i = 32; i < 64; ++i) x[static_cast<std::size_t>(i)] = 0.0F;
  std::vector<QuantBlock> blocks(6);
  k().quantise(x.data(), 300, blocks.data() + 1, 3);  // block 0 at 1, block 1 at 4
  for (std::size_t i = 0; i < x.size(); ++i) {
    const QuantBlock& block = blocks[1 + 3 * (i / 256)];
    const float scale = block.scale[i % 256 / 32];
    EXPECT_LE(std::fabs(static_cast<float>(block.q[i % 256]) * scale - x[i]), 0.5001F * scale) << i;
    EXPECT_LE(std::abs(block.q[i % 256]), 127);
  }
  for (int group = 0; group < 8; ++group) {
    int sum = 0;
    for (int i = 0; i < 32; ++i) sum += blocks[1].q[32 * group + i];
    EXPECT_EQ(blocks[1].sum[group], sum);
    EXPECT_FLOAT_EQ(blocks[1].group_sum[2 * group] + blocks[1].group_sum[2 * group + 1], blocks[1].scale[group] * static_cast<float>(sum));
  }
  for (int i = 44; i < 64; ++i) EXPECT_EQ(blocks[4].q[i], 0) << "the end of a group is padded with zeros";
}

TEST_P(Kernels, AValueThatIsNotFiniteStaysVisible) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    std::vector<float> x = noise(6, 64);
    x[40] = bad;
    QuantBlock block;
    k().quantise(x.data(), 64, &block, 1);
    EXPECT_TRUE(std::isfinite(block.scale[0]));
    EXPECT_TRUE(std::isnan(block.scale[1]));
  }
}

TEST_P(Kernels, SoftmaxPoolAndSums) {
  const std::vector<float> values = noise(8, 5 * 37), scores = noise(9, 5 * 37, 20.0F);
  const float* v[5];
  const float* s[5];
  for (std::size_t i = 0; i < 5; ++i) v[i] = values.data() + 37 * i, s[i] = scores.data() + 37 * i;
  std::vector<float> pooled(37);
  k().softmax_pool(v, s, 5, pooled.data(), 37);
  for (std::size_t n = 0; n < 37; ++n) {
    double total = 0, weighted = 0;
    for (int i = 0; i < 5; ++i) {
      const double w = std::exp(static_cast<double>(s[i][n]));
      total += w;
      weighted += w * static_cast<double>(v[i][n]);
    }
    EXPECT_NEAR(pooled[n], weighted / total, 1e-6);
  }
  double squares = 0;
  for (const float x : values) squares += static_cast<double>(x) * static_cast<double>(x);
  EXPECT_NEAR(k().sum_squares(values.data(), 5 * 37), squares, 1e-5 * squares);
}

TEST(Isa, UnknownNamesAreRefusedWithAList) {
  BackendOptions options;
  options.isa = "mmx\n";
  const auto refused = create_cpu_backend(options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUsage);
  EXPECT_EQ(refused.error().message.find('\n'), std::string::npos);
  for (const std::string& name : cpu_isa_names()) EXPECT_NE(refused.error().message.find(name), std::string::npos);
}

TEST(Isa, EveryListedNameWorks) {
  for (const std::string& name : cpu_isa_names()) {
    BackendOptions options;
    options.isa = name;
    options.threads = 1;
    const auto backend = create_cpu_backend(options);
    ASSERT_TRUE(backend.ok());
    EXPECT_EQ((*backend)->name(), "cpu/" + name);
  }
  EXPECT_EQ(cpu_isa_names().back(), "scalar");
}

}  // namespace
}  // namespace ds4::cpu
