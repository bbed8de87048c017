#include "backend/cpu/products.h"

#include <algorithm>

#include "quant/codec.h"

namespace ds4::cpu {

namespace {

bool is_float(DType type) { return type == DType::kF32 || type == DType::kF16 || type == DType::kBF16; }

std::int64_t bytes_of_row(const Weight& w) {
  return static_cast<std::int64_t>(row_bytes(w.type, static_cast<std::size_t>(w.in)));
}

/// The first row of a tile as the file holds it.
const std::uint8_t* rows_of(const OutputRange& range, int tile) {
  const Weight& w = *range.weight;
  const void* data = w.layout == kTiles ? static_cast<const TiledMatrix*>(w.data)->rows : w.data;
  const std::int64_t row = range.matrix * w.out + range.first + std::int64_t{tile} * kTileOutputs;
  return static_cast<const std::uint8_t*>(data) + row * bytes_of_row(w);
}

/// How many of the rows from index[0] on are equally far apart.
int straight_run(const std::int32_t* index, int count) {
  if (count < 3) return count;
  int n = 2;
  while (n < count && index[n] - index[n - 1] == index[1] - index[0]) ++n;
  return n;
}

}  // namespace

Products::Products(const KernelTable& kernels, bool quality)
    : kernels_(kernels), quality_(quality), iq2_(iq2_tables()) {}

bool Products::uses_int8(const Weight& weight, bool exact) const {
  return !exact && !quality_ && !is_float(weight.type);
}

void Products::quantise(const Activations& x, int thread, int threads) const {
  for (const auto r : share_of(x.rows, thread, threads))
    kernels_.quantise(x.x + r * x.stride, x.cols, x.blocks + r, x.rows);
}

void Products::compute(const OutputRange& range, const Activations& x, const std::int32_t* index, int count, bool exact,
                       ProductScratch& scratch, TileResults& out) const {
  if (is_float(range.weight->type)) compute_float(range, x, index, count, out);
  else if (uses_int8(*range.weight, exact)) compute_int8(range, x, index, count, scratch, out);
  else compute_exact(range, x, index, count, scratch, out);
}

void Products::compute_float(const OutputRange& range, const Activations& x, const std::int32_t* index, int count,
                             TileResults& out) const {
  const DType type = range.weight->type;
  const auto dot = type == DType::kF32 ? kernels_.dot_f32 : type == DType::kF16 ? kernels_.dot_f16 : kernels_.dot_bf16;
  for (int t = 0; t < range.tiles(); ++t)
    dot({.weights = rows_of(range, t),
         .weight_stride = bytes_of_row(*range.weight),
         .outputs = range.width(t),
         .depth = range.weight->in,
         .x = x.x,
         .x_stride = x.stride,
         .index = index,
         .count = count,
         .out = out[t][0],
         .add = false});
}

void Products::compute_exact(const OutputRange& range, const Activations& x, const std::int32_t* index, int count,
                             ProductScratch& scratch, TileResults& out) const {
  const Weight& w = *range.weight;
  for (int t = 0; t < range.tiles(); ++t)
    for (std::int64_t start = 0; start < w.in; start += kPanelDepth) {
      const int depth = static_cast<int>(std::min<std::int64_t>(kPanelDepth, w.in - start));
      const std::uint8_t* block = rows_of(range, t) + row_bytes(w.type, static_cast<std::size_t>(start));
      for (int o = 0; o < range.width(t); ++o)
        decode_row(w.type, block + o * bytes_of_row(w), scratch.decoded[o], static_cast<std::size_t>(depth));
      kernels_.dot_f32({.weights = scratch.decoded,
                        .weight_stride = sizeof scratch.decoded[0],
                        .outputs = range.width(t),
                        .depth = depth,
                        .x = x.x + start,
                        .x_stride = x.stride,
                        .index = index,
                        .count = count,
                        .out = out[t][0],
                        .add = start > 0});
    }
}

/// Where a block of a tile is: in memory, or packed now.
UnpackArgs Products::block_of(const OutputRange& range, int tile, std::int64_t block, ProductScratch& scratch) const {
  const Weight& w = *range.weight;
  const TileShape shape(w.type, w.in, w.out);
  if (w.layout == kTiles && range.first % kTileOutputs == 0) {
    std::uint8_t* at =
        static_cast<const TiledMatrix*>(w.data)->tile(shape, range.matrix, range.first / kTileOutputs + tile);
    return {shape.main(at, block), shape.side(at, block), iq2_};
  }
  const std::int64_t start = block * kPanelDepth;
  kernels_.pack[panel_format(w.type)](
      {.weights = rows_of(range, tile) + row_bytes(w.type, static_cast<std::size_t>(start)),
       .stride = bytes_of_row(w),
       .outputs = range.width(tile),
       .depth = static_cast<int>(std::min<std::int64_t>(kPanelDepth, w.in - start)),
       .iq2 = iq2_,
       .main = scratch.main,
       .side = scratch.side});
  return {scratch.main, scratch.side, iq2_};
}

void Products::compute_int8(const OutputRange& range, const Activations& x, const std::int32_t* index, int count,
                            ProductScratch& scratch, TileResults& out) const {
  const Weight& w = *range.weight;
  const PanelFormat format = panel_format(w.type);
  const bool wide = kernels_.wide_dot[format] != nullptr && count >= kernels_.wide_rows;
  const auto unpack = wide ? kernels_.unpack_wide[format] : kernels_.unpack[format];
  const auto dot = wide ? kernels_.wide_dot[format] : kernels_.panel_dot[format];
  const bool in_memory = w.layout == kTiles && range.first % kTileOutputs == 0;
  // Weights that are packed on the way share one place: a tile at a time.
  const int together = in_memory ? range.tiles() : 1;
  for (int first = 0; first < range.tiles(); first += together) {
    for (int t = first; t < first + together; ++t) std::fill_n(out[t][0], std::int64_t{count} * kTileOutputs, 0.0F);
    for (std::int64_t start = 0, b = 0; start < w.in; start += kPanelDepth, ++b) {
      for (int t = 0; t < together; ++t) unpack(block_of(range, first + t, b, scratch), &scratch.panels[t]);
      for (int i = 0; i < count;) {
        const int run = straight_run(index + i, count - i);
        dot({.panels = scratch.panels,
             .panel_count = together,
             .depth = static_cast<int>(std::min<std::int64_t>(kPanelDepth, w.in - start)),
             .x = x.blocks + b * x.rows + index[i],
             .step = run > 1 ? index[i + 1] - index[i] : 0,
             .count = run,
             .out = out[first][i],
             .panel_stride = std::int64_t{kInt8RowBlock} * kTileOutputs});
        i += run;
      }
    }
  }
}

std::int64_t Products::run_length(const Product& product) const {
  // Few rows: what counts is reading, in straight runs that are worth taking. Many: what counts is that all threads end
  // together.
  constexpr std::int64_t kRunBytes = 64 << 10;
  const std::int64_t together = group(product.count, product.outputs);
  if (product.count > kFewRows) return together;
  const std::int64_t worth = kRunBytes / (bytes_of_row(*product.weight) * kTileOutputs);
  return std::max<std::int64_t>(1, (worth + together - 1) / together) * together;
}

std::int64_t Products::row_blocks(const Product& product) const {
  const std::int64_t rows = row_block(*product.weight, product.exact);
  return (product.count + rows - 1) / rows;
}

Share Products::runs_of_group(const Product& p, int group, int groups) const {
  const std::int64_t run = run_length(p) * kTileOutputs;
  const std::int64_t runs = (p.outputs + run - 1) / run;
  const std::int64_t tiles = (p.weight->out + kTileOutputs - 1) / kTileOutputs;
  // A run belongs to whom its first output belongs to.
  const auto runs_before = [&](std::int64_t tile) {
    return std::clamp<std::int64_t>((tile * kTileOutputs - p.first_output + run - 1) / run, 0, runs);
  };
  const Share own = tiles_of_group(tiles, group, groups);
  return {runs_before(own.first), runs_before(own.last)};
}

void Products::one_task(const Product& p, std::int64_t row, std::int64_t run, ProductScratch& scratch) const {
  const int count = static_cast<int>(std::min<std::int64_t>(row_block(*p.weight, p.exact), p.count - row));
  const std::int64_t first = run * run_length(p) * kTileOutputs;
  const std::int64_t last = std::min(p.outputs, first + run_length(p) * kTileOutputs);
  const std::int64_t width = std::int64_t{group(p.count, p.outputs)} * kTileOutputs;
  for (std::int64_t output = first; output < last; output += width) {
    const OutputRange range{p.weight, p.matrix, p.first_output + output,
                            static_cast<int>(std::min(width, last - output))};
    compute(range, *p.x, p.index + row, count, p.exact, scratch, scratch.results);
    for (int i = 0; i < count; ++i)
      for (int t = 0; t < range.tiles(); ++t)
        std::copy_n(scratch.results[t][i], range.width(t), p.y + (row + i) * p.y_stride + output + t * kTileOutputs);
  }
}

void Products::share_tasks(ThreadPool& pool, int thread, std::span<const Product> products,
                           ProductScratch& scratch) const {
  const auto tasks = [&](const Product& p, int group) {
    const Share runs = runs_of_group(p, group, pool.groups());
    return row_blocks(p) * (runs.last - runs.first);
  };
  const auto all_tasks = [&](int group) {
    std::int64_t sum = 0;
    for (const Product& p : products) sum += tasks(p, group);
    return sum;
  };
  pool.take_tasks(thread, all_tasks, [&](int group, std::int64_t task) {
    const Product* p = products.data();
    for (; task >= tasks(*p, group); ++p) task -= tasks(*p, group);
    const Share runs = runs_of_group(*p, group, pool.groups());
    const std::int64_t width = runs.last - runs.first;
    one_task(*p, task / width * row_block(*p->weight, p->exact), runs.first + task % width, scratch);
  });
}

void Products::run(ThreadPool& pool, std::span<const Product> products, ProductScratch* scratch) const {
  pool.run([&](int thread, int) { share_tasks(pool, thread, products, scratch[thread]); });
}

void Products::quantise_and_run(ThreadPool& pool, std::span<const Product> products, ProductScratch* scratch) const {
  pool.run([&](int thread, int threads) {
    bool quantised = false;
    for (std::size_t i = 0; i < products.size(); ++i) {
      const auto same = [&](const Product& other) {
        return other.x == products[i].x && uses_int8(*other.weight, other.exact);
      };
      const auto before = products.first(i);
      if (!same(products[i]) || std::any_of(before.begin(), before.end(), same)) continue;
      quantise(*products[i].x, thread, threads);
      quantised = true;
    }
    if (quantised) pool.sync();
    share_tasks(pool, thread, products, scratch[thread]);
  });
}

}  // namespace ds4::cpu
