// The working memory of every op: each struct lays itself out in a Scratch, which either counts or hands out memory.
// All sizes follow from the configuration and the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/products.h"
#include "backend/cpu/scratch.h"

namespace ds4::cpu {

/// Query rows whose indexer scores are in memory at once: they share the decoding of the keys.
inline constexpr int kIndexRows = 8;
/// Bins of one pass of select_top.
inline constexpr int kSelectBins = 2048;

struct Sizes {
  const BackendConfig& config;
  int threads = 1;
  bool quality = false;

  const Dims& dims() const { return config.dims; }
  std::int64_t rows() const { return config.max_rows; }
  /// No int8 activations in quality mode.
  QuantBlock* blocks(Scratch& s, std::int64_t rows, std::int64_t cols) const {
    return quality ? nullptr : take_blocks(s, rows, cols);
  }
  ProductScratch* product_threads(Scratch& s) const { return s.take<ProductScratch>(threads); }
};

/// What lives as long as the backend.
struct PersistentScratch {
  std::int32_t* iota;         // 0, 1, 2, ...
  std::int32_t* row_segment;  // [max_rows]
  std::byte* fresh_rows;      // window rows of long segments, encoded
  PersistentScratch(Scratch& s, const Sizes& z) {
    iota = s.take<std::int32_t>(iota_count(z));
    row_segment = s.take<std::int32_t>(z.rows());
    std::uint64_t row = 0;
    for (const LayerKvLayout& layer : z.config.kv.layers) row = std::max<std::uint64_t>(row, layer.window.row.total());
    fresh_rows = s.take<std::byte>(static_cast<std::int64_t>(row) * z.rows());
  }
  static std::int64_t iota_count(const Sizes& z) {
    return std::max<std::int64_t>(z.rows() * (z.dims().experts_used + 1), z.config.max_logit_rows);
  }
};

struct HyperConnectionScratch {
  float* controls;  // [rows, controls]
  std::int32_t* index;
  ProductScratch* products;
  HyperConnectionScratch(Scratch& s, const Sizes& z)
      : controls(s.take<float>(z.rows() * z.dims().hc_controls())),
        index(s.take<std::int32_t>(z.rows())),
        products(z.product_threads(s)) {}
};

struct QueryHeadsScratch {
  QuantBlock* x;
  QuantBlock* qr;
  ProductScratch* products;
  QueryHeadsScratch(Scratch& s, const Sizes& z)
      : x(z.blocks(s, z.rows(), z.dims().hidden)),
        qr(z.blocks(s, z.rows(), z.dims().q_lora)),
        products(z.product_threads(s)) {}
};

struct WindowKvScratch {
  QuantBlock* x;
  float* kv;  // [rows, head_dim]
  ProductScratch* products;
  WindowKvScratch(Scratch& s, const Sizes& z)
      : x(z.blocks(s, z.rows(), z.dims().hidden)),
        kv(s.take<float>(z.rows() * z.dims().head_dim)),
        products(z.product_threads(s)) {}
};

struct CompressScratch {
  QuantBlock* x;
  float* z;  // [rows, width]
  float* g;  // [rows, width]
  ProductScratch* products;
  float* thread_rows;  // [threads, width] one compressed row, or a row of `ape`
  std::int64_t width = 0;
  CompressScratch(Scratch& s, const Sizes& sizes) {
    for (const LayerKvLayout& layer : sizes.config.kv.layers)
      width = std::max<std::int64_t>({width, layer.state.width, layer.index_state.width});
    x = sizes.blocks(s, sizes.rows(), sizes.dims().hidden);
    z = s.take<float>(sizes.rows() * width);
    g = s.take<float>(sizes.rows() * width);
    products = sizes.product_threads(s);
    thread_rows = s.take<float>(sizes.threads * width);
  }
};

struct IndexScratch {
  QuantBlock* x;
  QuantBlock* qr;
  float* queries;        // [rows, index_heads, index_dim]
  float* head_weights;   // [rows, index_heads]
  std::int32_t* index;   // [rows] those that must choose
  float* scores;         // [kIndexRows, visible]
  std::int64_t visible;  // most compressed rows a query can see
  ProductScratch* products;
  float* keys;               // [threads, kKeyBlock, index_dim]
  float* key_products;       // [threads, index_heads, kKeyBlock]
  std::uint32_t* histogram;  // [threads, kSelectBins]
  IndexScratch(Scratch& s, const Sizes& z) {
    const Dims& d = z.dims();
    const auto rows = has_indexer(z) ? z.rows() : 0;
    x = z.blocks(s, rows, d.hidden);
    qr = z.blocks(s, rows, d.q_lora);
    queries = s.take<float>(rows * d.index_heads * d.index_dim);
    head_weights = s.take<float>(rows * d.index_heads);
    index = s.take<std::int32_t>(rows);
    visible = rows == 0 ? 0 : z.config.max_context / 4 + kKeyBlock;
    scores = s.take<float>(kIndexRows * visible);
    products = z.product_threads(s);
    keys = s.take<float>(std::int64_t{z.threads} * kKeyBlock * d.index_dim);
    key_products = s.take<float>(std::int64_t{z.threads} * d.index_heads * kKeyBlock);
    histogram = s.take<std::uint32_t>(std::int64_t{z.threads} * kSelectBins);
  }
  static bool has_indexer(const Sizes& z) {
    return std::any_of(z.config.kv.layers.begin(), z.config.kv.layers.end(),
                       [](const LayerKvLayout& layer) { return layer.ratio == 4; });
  }
};

struct AttentionScratch {
  float* keys;     // [threads, kKeyBlock, head_dim]
  float* scores;   // [threads, heads, kKeyBlock]
  float* largest;  // [threads, heads]
  float* total;    // [threads, heads]
  AttentionScratch(Scratch& s, const Sizes& z)
      : keys(s.take<float>(std::int64_t{z.threads} * kKeyBlock * z.dims().head_dim)),
        scores(s.take<float>(std::int64_t{z.threads} * z.dims().heads * kKeyBlock)),
        largest(s.take<float>(std::int64_t{z.threads} * z.dims().heads)),
        total(s.take<float>(std::int64_t{z.threads} * z.dims().heads)) {}
};

struct AttentionOutputScratch {
  QuantBlock* o;
  QuantBlock* u_blocks;
  float* u;             // [rows, groups * o_lora]
  std::int32_t* index;  // [groups, rows]
  ProductScratch* products;
  AttentionOutputScratch(Scratch& s, const Sizes& z) {
    const Dims& d = z.dims();
    const std::int64_t width = std::int64_t{d.o_groups} * d.o_lora;
    o = z.blocks(s, z.rows() * d.o_groups, std::int64_t{d.heads} / d.o_groups * d.head_dim);
    u_blocks = z.blocks(s, z.rows(), width);
    u = s.take<float>(z.rows() * width);
    index = s.take<std::int32_t>(z.rows() * d.o_groups);
    products = z.product_threads(s);
  }
};

struct RouteScratch {
  float* scores;  // [rows, experts]
  ProductScratch* products;
  RouteScratch(Scratch& s, const Sizes& z)
      : scores(s.take<float>(z.rows() * z.dims().experts)), products(z.product_threads(s)) {}
};

struct ExpertsScratch {
  QuantBlock* x;
  QuantBlock* pair_blocks;  // of x, by pair: the rows of one expert lie side by side
  QuantBlock* h_blocks;     // of the routed pairs
  QuantBlock* shared_blocks;
  float* h;              // [rows * used, expert_ff], pairs by expert
  float* shared_h;       // [rows, shared_ff]
  std::int32_t* first;   // [experts + 1] first pair of each expert
  std::int32_t* next;    // [experts]
  std::int32_t* active;  // [experts] experts with pairs, ascending
  std::int32_t* row;     // [rows * used] batch row of a pair
  float* weight;         // [rows * used]
  ProductScratch* products;
  ExpertsScratch(Scratch& s, const Sizes& z) {
    const Dims& d = z.dims();
    const std::int64_t pairs = z.rows() * d.experts_used;
    x = z.blocks(s, z.rows(), d.hidden);
    pair_blocks = z.blocks(s, z.rows() > 1 ? pairs : 0, d.hidden);
    h_blocks = z.blocks(s, pairs, d.expert_ff);
    shared_blocks = z.blocks(s, z.rows(), d.shared_ff);
    h = s.take<float>(pairs * d.expert_ff);
    shared_h = s.take<float>(z.rows() * d.shared_ff);
    first = s.take<std::int32_t>(d.experts + 1);
    next = s.take<std::int32_t>(d.experts);
    active = s.take<std::int32_t>(d.experts);
    row = s.take<std::int32_t>(pairs);
    weight = s.take<float>(pairs);
    products = z.product_threads(s);
  }
};

struct LogitsScratch {
  QuantBlock* h;
  ProductScratch* products;
  LogitsScratch(Scratch& s, const Sizes& z)
      : h(z.blocks(s, z.config.max_logit_rows, z.dims().hidden)), products(z.product_threads(s)) {}
};

}  // namespace ds4::cpu
