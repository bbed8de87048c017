// Matrix products: weights of any format times rows of activations, in tiles of kTileOutputs outputs.
//
// Three ways, chosen by the weight's type:
//   float   f32, f16 and bf16 weights against f32 activations
//   int8    quantised weights against int8 activations: a panel of weights is unpacked once for all rows of the tile,
//           from weights in tiles, or from rows that are packed on the way (slower)
//   exact   quantised weights decoded to f32 (--quality, and where routing hangs on the last bits)
// In each, the sum of one output of one row has a fixed order that does not depend on the other rows or outputs.
//
// A product is cut into tasks, runs of outputs. Each belongs to the group of threads in whose memory its outputs are
// (tiles.h), and threads take those of their own group first; inside a group, whoever is free takes the next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "backend/cpu/kernels.h"
#include "backend/cpu/scratch.h"
#include "backend/cpu/tiles.h"
#include "backend/tensor.h"
#include "base/thread_pool.h"

namespace ds4::cpu {

/// Rows of f32 activations, and room for their int8 form.
struct Activations {
  const float* x = nullptr;  // row r is at x + r * stride
  std::int64_t stride = 0;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  QuantBlock* blocks = nullptr;  // [ceil(cols / kPanelDepth)][rows]
};

/// Blocks for `rows` rows of `cols` activations.
inline QuantBlock* take_blocks(Scratch& scratch, std::int64_t rows, std::int64_t cols) {
  return scratch.take<QuantBlock>(rows * ((cols + kPanelDepth - 1) / kPanelDepth));
}

/// y[i][o] = Σ_k w[matrix][first_output + o][k] * x[index[i]][k], for `outputs` outputs and `count` rows.
struct Product {
  const Weight* weight = nullptr;
  std::int64_t matrix = 0;
  std::int64_t first_output = 0;
  std::int64_t outputs = 0;
  const Activations* x = nullptr;
  const std::int32_t* index = nullptr;  // [count]
  std::int64_t count = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
  bool exact = false;
};

/// Consecutive outputs of a weight: up to kTileGroup tiles.
struct OutputRange {
  const Weight* weight = nullptr;
  std::int64_t matrix = 0;
  std::int64_t first = 0;
  int outputs = kTileOutputs;
  int tiles() const { return (outputs + kTileOutputs - 1) / kTileOutputs; }
  /// Outputs of one of them.
  int width(int tile) const { return std::min(kTileOutputs, outputs - tile * kTileOutputs); }
};

/// Rows computed together: activations of that many stay in the L2 cache while all weights pass by once.
inline constexpr int kFloatRowBlock = 64;
inline constexpr int kInt8RowBlock = 256;

/// Results of up to kTileGroup tiles.
using TileResults = float[kTileGroup][kInt8RowBlock][kTileOutputs];

/// One thread's working memory.
struct ProductScratch {
  Panel panels[kTileGroup];
  alignas(64) std::uint8_t main[kMaxMainBytes];  // a block that is packed on the way
  alignas(64) std::uint8_t side[kMaxSideBytes];
  float decoded[kTileOutputs][kPanelDepth];
  TileResults results;
  TileResults second_results;
};

class Products {
 public:
  Products(const KernelTable& kernels, bool quality);

  /// Whether products with this weight read the int8 form of their activations.
  bool uses_int8(const Weight& weight, bool exact) const;
  int row_block(const Weight& weight, bool exact) const {
    return uses_int8(weight, exact) ? kInt8RowBlock : kFloatRowBlock;
  }

  /// This thread's part of filling x.blocks.
  void quantise(const Activations& x, int thread, int threads) const;

  /// out[t][i][o] for at most row_block() rows; of the last tile only the columns that exist.
  void compute(const OutputRange& range, const Activations& x, const std::int32_t* index, int count, bool exact,
               ProductScratch& scratch, TileResults& out) const;
  /// Tiles that compute() had best be given at once. With many rows they share the reading of those; with few they are
  /// as many streams from memory, which one alone leaves half idle, as long as there are tasks enough for many threads.
  static constexpr std::int64_t kFewRows = 4;
  static int group(std::int64_t rows, std::int64_t outputs) {
    return rows > kFewRows || outputs >= 2048 ? kTileGroup : outputs >= 1024 ? 2 : 1;
  }

  /// All products, as one job of the pool. x.blocks must be filled where they are read.
  void run(ThreadPool& pool, std::span<const Product> products, ProductScratch* scratch) const;
  /// The same, quantising the activations of each product first.
  void quantise_and_run(ThreadPool& pool, std::span<const Product> products, ProductScratch* scratch) const;

 private:
  void compute_float(const OutputRange& range, const Activations& x, const std::int32_t* index, int count,
                     TileResults& out) const;
  void compute_exact(const OutputRange& range, const Activations& x, const std::int32_t* index, int count,
                     ProductScratch& scratch, TileResults& out) const;
  void compute_int8(const OutputRange& range, const Activations& x, const std::int32_t* index, int count,
                    ProductScratch& scratch, TileResults& out) const;
  UnpackArgs block_of(const OutputRange& range, int tile, std::int64_t block, ProductScratch& scratch) const;
  /// Rows from `row` on, at most row_block() of them, for one run of outputs.
  void one_task(const Product& product, std::int64_t row, std::int64_t run, ProductScratch& scratch) const;
  /// Output tiles that make one task.
  std::int64_t run_length(const Product& product) const;
  std::int64_t row_blocks(const Product& product) const;
  /// The runs of outputs that belong to a group of threads.
  Share runs_of_group(const Product& product, int group, int groups) const;
  void share_tasks(ThreadPool& pool, int thread, std::span<const Product> products, ProductScratch& scratch) const;

  const KernelTable& kernels_;
  const bool quality_;
  const Iq2Tables iq2_;
};

}  // namespace ds4::cpu
