#include "backend/cpu/products.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "quant/codec.h"

namespace ds4::cpu {

namespace {

/// Bit i of the sign byte to byte i.
const std::uint64_t* sign_octets() {
  static const std::array<std::uint64_t, 128> table = [] {
    std::array<std::uint64_t, 128> octets{};
    for (unsigned t = 0; t < 128; ++t)
      for (unsigned i = 0; i < 8; ++i)
        if ((iq2_xxs_signs(t) >> i & 1) != 0) octets[t] |= std::uint64_t{0xff} << (8 * i);
    return octets;
  }();
  return table.data();
}

bool is_float(DType type) { return type == DType::kF32 || type == DType::kF16 || type == DType::kBF16; }

PanelFormat panel_format(DType type) {
  switch (type) {
    case DType::kQ8_0: return kPanelQ8_0;
    case DType::kMXFP4: return kPanelMXFP4;
    case DType::kIQ2_XXS: return kPanelIQ2_XXS;
    case DType::kQ4_K: return kPanelQ4_K;
    case DType::kQ2_K: return kPanelQ2_K;
    default: check_failed("a quantised weight", __FILE__, __LINE__);
  }
}

}  // namespace

Products::Products(const KernelTable& kernels, bool quality)
    : kernels_(kernels), quality_(quality), iq2_{iq2_xxs_grid(), sign_octets()} {}

bool Products::uses_int8(const Weight& weight, bool exact) const {
  return !exact && !quality_ && !is_float(weight.type);
}

void Products::quantise(const Activations& x, int thread, int threads) const {
  for (const auto r : share_of(x.rows, thread, threads)) kernels_.quantise(x.x + r * x.stride, x.cols, x.blocks + r, x.rows);
}

void Products::tile(const Weight& weight, std::int64_t matrix, std::int64_t first_output, int outputs,
                    const Activations& x, const std::int32_t* index, int count, bool exact, ProductScratch& scratch,
                    float (*out)[kTileOutputs]) const {
  const DTypeInfo& type = dtype_info(weight.type);
  const auto row_bytes = static_cast<std::int64_t>(weight.in / type.block_elements * type.block_bytes);
  const auto* base =
      static_cast<const std::uint8_t*>(weight.data) + (matrix * weight.out + first_output) * row_bytes;
  FloatDotArgs dot{.weights = base,
                   .weight_stride = row_bytes,
                   .outputs = outputs,
                   .depth = weight.in,
                   .x = x.x,
                   .x_stride = x.stride,
                   .index = index,
                   .count = count,
                   .out = out[0],
                   .add = false};
  if (weight.type == DType::kF32) return kernels_.dot_f32(dot);
  if (weight.type == DType::kF16) return kernels_.dot_f16(dot);
  if (weight.type == DType::kBF16) return kernels_.dot_bf16(dot);

  const bool int8 = uses_int8(weight, exact);
  const auto block_bytes = static_cast<std::int64_t>(kPanelDepth / type.block_elements * type.block_bytes);
  const PanelFormat format = panel_format(weight.type);
  if (int8) std::fill_n(out[0], std::int64_t{count} * kTileOutputs, 0.0F);
  for (std::int64_t start = 0, b = 0; start < weight.in; start += kPanelDepth, ++b) {
    const int depth = static_cast<int>(std::min<std::int64_t>(kPanelDepth, weight.in - start));
    const std::uint8_t* block = base + b * block_bytes;
    if (int8) {
      kernels_.unpack[format]({block, row_bytes, outputs, depth, iq2_}, &scratch.panel);
      kernels_.panel_dot[format]({&scratch.panel, depth, x.blocks + b * x.rows, index, count, out[0]});
      continue;
    }
    for (int o = 0; o < outputs; ++o)
      decode_row(weight.type, block + o * row_bytes, scratch.decoded[o], static_cast<std::size_t>(depth));
    dot.weights = scratch.decoded;
    dot.weight_stride = sizeof scratch.decoded[0];
    dot.depth = depth;
    dot.x = x.x + start;
    dot.add = start > 0;
    kernels_.dot_f32(dot);
  }
}

std::int64_t Products::tasks(const Product& product) const {
  const std::int64_t rows = row_block(*product.weight, product.exact);
  return (product.count + rows - 1) / rows * ((product.outputs + kTileOutputs - 1) / kTileOutputs);
}

void Products::one_task(const Product& p, std::int64_t task, ProductScratch& scratch) const {
  const std::int64_t tiles = (p.outputs + kTileOutputs - 1) / kTileOutputs;
  const std::int64_t row = task / tiles * row_block(*p.weight, p.exact);
  const std::int64_t output = task % tiles * kTileOutputs;
  const int count = static_cast<int>(std::min<std::int64_t>(row_block(*p.weight, p.exact), p.count - row));
  const int outputs = static_cast<int>(std::min<std::int64_t>(kTileOutputs, p.outputs - output));
  tile(*p.weight, p.matrix, p.first_output + output, outputs, *p.x, p.index + row, count, p.exact, scratch,
       scratch.tile);
  for (int i = 0; i < count; ++i) std::copy_n(scratch.tile[i], outputs, p.y + (row + i) * p.y_stride + output);
}

void Products::share_tasks(ThreadPool& pool, std::span<const Product> products, ProductScratch& scratch) const {
  std::int64_t first = 0;  // task number where products[p] begins
  std::size_t p = 0;
  for (std::int64_t task = pool.take_task();; task = pool.take_task()) {
    while (p < products.size() && task >= first + tasks(products[p])) first += tasks(products[p++]);
    if (p == products.size()) return;
    one_task(products[p], task - first, scratch);
  }
}

void Products::run(ThreadPool& pool, std::span<const Product> products, ProductScratch* scratch) const {
  pool.run([&](int thread, int) { share_tasks(pool, products, scratch[thread]); });
}

void Products::quantise_and_run(ThreadPool& pool, std::span<const Product> products, ProductScratch* scratch) const {
  pool.run([&](int thread, int threads) {
    bool quantised = false;
    for (std::size_t i = 0; i < products.size(); ++i) {
      const auto same = [&](const Product& other) { return other.x == products[i].x && uses_int8(*other.weight, other.exact); };
      const auto before = products.first(i);
      if (!same(products[i]) || std::any_of(before.begin(), before.end(), same)) continue;
      quantise(*products[i].x, thread, threads);
      quantised = true;
    }
    if (quantised) pool.sync();
    share_tasks(pool, products, scratch[thread]);
  });
}

}  // namespace ds4::cpu
