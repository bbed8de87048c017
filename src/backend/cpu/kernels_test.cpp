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
#include "backend/cpu/tiles.h"
#include "base/rng.h"
#include "quant/codec.h"
#include "quant/kv_row.h"
#include "quant/random_weights.h"

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
INSTANTIATE_TEST_SUITE_P(Isa, Kernels, testing::ValuesIn(available_tables().begin(), available_tables().end()),
                         table_name);

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
        else
          k().read_packed(bytes, reinterpret_cast<const std::uint8_t*>(scales.data()), {dim - rope, dim}, found.data());
        EXPECT_EQ(found.back(), 77.0F) << "written beyond the row";
        found.pop_back();
        ASSERT_EQ(std::memcmp(found.data(), expected.data(), expected.size() * sizeof(float)), 0)
            << dim << " " << scale;
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
  for (int i = 0; i < 256; ++i)
    codes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>((i & 0x7f) == 0x7f ? 0 : i);
  const std::uint8_t scales[4] = {127, 1, 100, 240};
  std::vector<float> expected(256), found(256);
  decode_kv_row(KvFormat::kPacked, reinterpret_cast<const std::byte*>(codes.data()),
                reinterpret_cast<const std::byte*>(scales), 256, 0, expected.data());
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
    EXPECT_TRUE(blocks[1].offset[group] == 0 || blocks[1].offset[group] == -128 * sum) << "the bias of this set";
    EXPECT_FLOAT_EQ(blocks[1].group_sum[2 * group] + blocks[1].group_sum[2 * group + 1],
                    blocks[1].scale[group] * static_cast<float>(sum));
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

// ---- quantised weights ----

constexpr DType kFormats[kPanelFormats] = {DType::kQ8_0, DType::kMXFP4, DType::kIQ2_XXS, DType::kQ4_K, DType::kQ2_K};

/// One block of a tile, and the rows it was made from.
struct Block {
  PanelFormat format;
  int outputs;
  int depth;
  std::vector<std::byte> rows;
  alignas(64) std::uint8_t main[kMaxMainBytes];
  alignas(64) std::uint8_t side[kMaxSideBytes];

  Block(const KernelTable& k, PanelFormat f, int some_outputs, int some_depth, std::uint64_t seed)
      : format(f), outputs(some_outputs), depth(some_depth) {
    const std::size_t row = row_bytes(type(), static_cast<std::size_t>(depth));
    rows.resize(row * static_cast<std::size_t>(outputs));
    fill_random_weights(type(), seed, rows);
    std::memset(main, 0x5a, sizeof main);
    std::memset(side, 0x5a, sizeof side);
    k.pack[format]({reinterpret_cast<const std::uint8_t*>(rows.data()), static_cast<std::int64_t>(row), outputs, depth,
                    iq2_tables(), main, side});
  }
  DType type() const { return kFormats[format]; }
  std::vector<float> decoded(int output) const {
    std::vector<float> values(static_cast<std::size_t>(depth));
    const std::size_t row = row_bytes(type(), values.size());
    decode_row(type(), rows.data() + static_cast<std::size_t>(output) * row, values.data(), values.size());
    return values;
  }
};

bool is_signed(PanelFormat f) { return f == kPanelQ8_0 || f == kPanelMXFP4 || f == kPanelIQ2_XXS; }

/// What a panel says about one weight. Exact, but for the one rounding of a minimum.
float weight_in(const Panel& panel, PanelFormat f, int bias, int input, int output) {
  const std::uint8_t code = panel.q[(input / 4 * kTileOutputs + output) * 4 + input % 4];
  const int q = !is_signed(f) ? code : bias != 0 ? code - bias : static_cast<std::int8_t>(code);
  if (f == kPanelQ2_K) return panel.scale[0][output] * static_cast<float>(q) - panel.min[input / 16][output];
  const float value = panel.scale[input / 32][output] * static_cast<float>(q);
  return is_signed(f) ? value : value - panel.min[input / 32][output];
}

TEST_P(Kernels, PanelsSayWhatTheRowsOfTheFileSay) {
  const auto check = [&](const Block& block, auto unpack, int bias) {
    Panel panel;
    unpack({block.main, block.side, iq2_tables()}, &panel);
    for (int o = 0; o < block.outputs; ++o) {
      const std::vector<float> expected = block.decoded(o);
      for (int i = 0; i < block.depth; ++i)
        ASSERT_EQ(weight_in(panel, block.format, bias, i, o), expected[static_cast<std::size_t>(i)])
            << dtype_info(block.type()).name << ", output " << o << ", input " << i;
    }
    for (int o = block.outputs; o < kTileOutputs; ++o)
      for (int i = 0; i < block.depth; ++i) ASSERT_EQ(weight_in(panel, block.format, bias, i, o), 0.0F);
  };
  const int bias = std::string(k().name) == "avx512" || std::string(k().name) == "amx" ? 128 : 0;
  for (int f = 0; f < kPanelFormats; ++f) {
    const auto format = static_cast<PanelFormat>(f);
    for (const int outputs : {16, 9, 3})
      for (const int depth : {256, 96}) {
        if (depth % static_cast<int>(dtype_info(kFormats[f]).block_elements) != 0) continue;
        const Block block(k(), format, outputs, depth, static_cast<std::uint64_t>(100 * f + outputs));
        check(block, k().unpack[f], bias);
        if (k().wide_dot[f] != nullptr) check(block, k().unpack_wide[f], 0);
      }
  }
}

TEST_P(Kernels, DotsAreTheSameBitsForAnyNumberOfRowsAndOnTheMatrixUnit) {
  constexpr int kRows = 37;
  for (int f = 0; f < kPanelFormats; ++f) {
    const bool short_blocks = dtype_info(kFormats[f]).block_elements == 32;
    for (const int depth : {256, short_blocks ? 96 : 256}) {
      const Block block(k(), static_cast<PanelFormat>(f), 16, depth, static_cast<std::uint64_t>(f) + 7);
      Panel panel, wide;
      k().unpack[f]({block.main, block.side, iq2_tables()}, &panel);
      for (const std::int64_t step : {1, 3}) {
        std::vector<QuantBlock> x(static_cast<std::size_t>(kRows * step));
        std::vector<std::vector<float>> rows;
        for (int r = 0; r < kRows; ++r) {
          rows.push_back(noise(static_cast<std::uint64_t>(r), static_cast<std::size_t>(depth), 3.0F));
          k().quantise(rows.back().data(), depth, &x[static_cast<std::size_t>(r * step)], 1);
        }
        const std::vector<float> start = noise(99, kRows * kTileOutputs, 0.01F);
        std::vector<float> single = start;
        for (int r = 0; r < kRows; ++r)
          k().panel_dot[f](
              {&panel, 1, depth, &x[static_cast<std::size_t>(r * step)], 0, 1, single.data() + r * kTileOutputs, 0});
        for (int count = 1; count <= kRows; ++count) {
          const auto bytes = static_cast<std::size_t>(count * kTileOutputs) * sizeof(float);
          const auto check = [&](auto dot, const Panel& one, int panels, const char* how) {
            const std::vector<Panel> same(static_cast<std::size_t>(panels), one);
            std::vector<float> found;
            for (int p = 0; p < panels; ++p) found.insert(found.end(), start.begin(), start.end());
            dot({same.data(), panels, depth, x.data(), step, count, found.data(), std::ssize(start)});
            for (int p = 0; p < panels; ++p)
              ASSERT_EQ(std::memcmp(found.data() + p * std::ssize(start), single.data(), bytes), 0)
                  << dtype_info(kFormats[f]).name << ", " << count << " rows, panel " << p << " of " << panels << how;
          };
          for (int panels = 1; panels <= 3; ++panels) {
            check(k().panel_dot[f], panel, panels, "");
            if (k().wide_dot[f] == nullptr) continue;
            k().unpack_wide[f]({block.main, block.side, iq2_tables()}, &wide);
            check(k().wide_dot[f], wide, panels, ", matrix unit");
          }
        }
        for (int r = 0; r < kRows; ++r)
          for (int o = 0; o < kTileOutputs; ++o) {
            const std::vector<float> w = block.decoded(o);
            double sum = 0, size = 0;
            const QuantBlock& b = x[static_cast<std::size_t>(r * step)];
            for (int i = 0; i < depth; ++i) {
              const double term =
                  static_cast<double>(w[static_cast<std::size_t>(i)]) * b.q[i] * static_cast<double>(b.scale[i / 32]);
              sum += term;
              size += std::fabs(term);
            }
            const auto at = static_cast<std::size_t>(r * kTileOutputs + o);
            ASSERT_NEAR(single[at] - start[at], sum, 1e-6 * size + 1e-8) << dtype_info(kFormats[f]).name;
          }
      }
    }
  }
}

/// The blocks of a query's keys: larger and larger scores, then small ones; the last block is not full.
constexpr int kBlocks[] = {kKeyBlock, kKeyBlock, 5, kKeyBlock, 1};
constexpr float kLoudness[] = {0.1F, 1.0F, 3.0F, 0.2F, 4.0F};

TEST_P(Kernels, AttentionOverSeveralBlocksIsOneSoftmax) {
  for (const auto& [heads, dim] : {std::pair{5, 42}, std::pair{8, 128}}) {
    const std::vector<float> q = noise(71, static_cast<std::size_t>(heads * dim));
    std::vector<std::vector<float>> keys;
    std::vector<float> largest(static_cast<std::size_t>(heads), -std::numeric_limits<float>::infinity());
    std::vector<float> total(static_cast<std::size_t>(heads), 0.0F);
    std::vector<float> out(static_cast<std::size_t>(heads * dim), 0.0F);
    std::vector<float> scores(static_cast<std::size_t>(heads * kKeyBlock));
    for (std::size_t block = 0; block < std::size(kBlocks); ++block) {
      const std::size_t first = keys.size();
      for (int i = 0; i < kBlocks[block]; ++i)
        keys.push_back(noise(100 + keys.size(), static_cast<std::size_t>(dim), kLoudness[block]));
      std::vector<const float*> rows;
      for (std::size_t i = first; i < keys.size(); ++i) rows.push_back(keys[i].data());
      k().attend({.q = q.data(),
                  .heads = heads,
                  .dim = dim,
                  .scale = 0.8F,
                  .keys = rows.data(),
                  .count = kBlocks[block],
                  .scores = scores.data(),
                  .largest = largest.data(),
                  .total = total.data(),
                  .out = out.data()});
    }
    for (int h = 0; h < heads; ++h) {
      std::vector<double> score;
      for (const auto& key : keys) {
        double s = 0;
        for (int d = 0; d < dim; ++d)
          s += static_cast<double>(q[static_cast<std::size_t>(h * dim + d)]) * key[static_cast<std::size_t>(d)];
        score.push_back(0.8 * s);
      }
      const double top = *std::max_element(score.begin(), score.end());
      double sum = 0;
      for (double& s : score) sum += s = std::exp(s - top);
      for (int d = 0; d < dim; ++d) {
        double expected = 0;
        for (std::size_t n = 0; n < keys.size(); ++n) expected += score[n] / sum * keys[n][static_cast<std::size_t>(d)];
        const auto found = out[static_cast<std::size_t>(h * dim + d)] / total[static_cast<std::size_t>(h)];
        ASSERT_NEAR(found, expected, 2e-5) << heads << " heads of " << dim << ": head " << h << ", dimension " << d;
      }
    }
  }
}

TEST_P(Kernels, IndexScoresCountOnlyWhatIsAboveZero) {
  constexpr int heads = 6, dim = 50, count = 23;
  const std::vector<float> q = noise(81, heads * dim);
  const std::vector<float> weights = noise(82, heads);
  std::vector<std::vector<float>> keys;
  std::vector<const float*> rows;
  for (int n = 0; n < count; ++n) keys.push_back(noise(200 + static_cast<std::uint64_t>(n), dim));
  for (const auto& key : keys) rows.push_back(key.data());
  std::vector<float> products(heads * kKeyBlock), scores(count + 1, 77.0F);
  k().index_scores({.q = q.data(),
                    .weights = weights.data(),
                    .heads = heads,
                    .dim = dim,
                    .keys = rows.data(),
                    .count = count,
                    .products = products.data(),
                    .scores = scores.data()});
  EXPECT_EQ(scores[count], 77.0F) << "written beyond the keys";
  for (std::size_t n = 0; n < count; ++n) {
    double expected = 0;
    for (std::size_t h = 0; h < heads; ++h) {
      double product = 0;
      for (std::size_t d = 0; d < dim; ++d) product += static_cast<double>(q[h * dim + d]) * keys[n][d];
      expected += weights[h] * std::max(0.0, product);
    }
    ASSERT_NEAR(scores[n], expected, 1e-5) << "key " << n;
  }
}

TEST(Tiles, EveryRowIsReadOnceAndThenLetGo) {
  constexpr std::int64_t in = 4096, out = 5000;
  const std::size_t row = row_bytes(DType::kQ8_0, in);
  std::vector<std::byte> rows(row * out * 2);
  ThreadPool pool(2);
  const std::byte* next = rows.data();
  int times = 0;
  HostWeight weight{DType::kQ8_0, in, out, 2, rows.data()};
  weight.done_with = [&](std::span<const std::byte> bytes) {
    EXPECT_EQ(bytes.data(), next);
    next = bytes.data() + bytes.size();
    ++times;
  };
  const auto matrix = pack_tiles(weight, *available_tables().front(), pool);
  ASSERT_TRUE(matrix.ok());
  EXPECT_EQ(next, rows.data() + rows.size());
  EXPECT_GT(times, 1) << "not all at once";
  ASSERT_EQ(matrix->parts.size(), 1U);
  EXPECT_EQ(matrix->parts[0].memory.size(), tiled_bytes(weight));
}

TEST(Tiles, PartsOfSeveralMemoriesHoldTheSameTiles) {
  constexpr std::int64_t in = 512, out = 16 * 37 + 5, count = 3;
  std::vector<std::byte> rows(row_bytes(DType::kQ8_0, in) * out * count);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::byte>(i * 7 % 251);
  const HostWeight weight{DType::kQ8_0, in, out, count, rows.data()};
  ThreadPool one(2);
  ThreadPool three(4, "ds4-cpu", Placement::unpinned(4, 3));
  const KernelTable& kernels = *available_tables().front();
  const auto whole = pack_tiles(weight, kernels, one);
  const auto parts = pack_tiles(weight, kernels, three);
  ASSERT_TRUE(whole.ok() && parts.ok());
  ASSERT_EQ(parts->parts.size(), 3U);
  const TileShape shape(weight.type, in, out);
  for (std::int64_t m = 0; m < count; ++m)
    for (std::int64_t t = 0; t < shape.tiles; ++t)
      ASSERT_EQ(
          std::memcmp(whole->tile(shape, m, t), parts->tile(shape, m, t), static_cast<std::size_t>(shape.tile_bytes())),
          0)
          << m << " " << t;
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
