// What one instruction set offers: a table of plain functions over plain structs. The bodies are written once, in the
// kernels_*.inl files, over the primitives of simd_<isa>.h; table_<isa>.cpp compiles them with the flags of its set.
//
// Those files may include nothing that has inline functions with external linkage (the whole STL): the linker keeps one
// copy of such a function, and it could be the one with the newest instructions. So this header is plain C and
// intrinsics.
//
// Every result is a sum in a fixed order that depends only on its own row and weights: not on how many rows or outputs
// are computed together, nor on which thread does it.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace ds4::cpu {

constexpr int kTileOutputs = 16;  // outputs computed together; results of a tile are [row][kTileOutputs]
constexpr int kPanelDepth = 256;  // inputs of one panel and of one quantised activation block
constexpr int kKeyBlock = 64;     // keys of one step of attention and of the indexer
constexpr int kMaxStreams = 8;    // hyper-connection streams

/// 256 activations of one row as int8, one scale per 32. Rows of a batch lie side by side: block b of row r is at
/// [b * rows + r], so that one panel of weights meets all rows in a straight run of memory.
struct alignas(64) QuantBlock {
  int8_t q[kPanelDepth];
  float scale[8];       // x ≈ scale * q
  float group_sum[16];  // scale * Σ q over 16 values: what a weight's minimum is multiplied by
  int32_t offset[8];    // -bias * Σ q over 32 values, where weights are stored with a bias
};

/// The quantised formats; the order of the columns of the tables below.
enum PanelFormat : int { kPanelQ8_0, kPanelMXFP4, kPanelIQ2_XXS, kPanelQ4_K, kPanelQ2_K, kPanelFormats };

/// How quantised weights lie in memory: tiles of 16 outputs, one after the other. A tile is, for every 256 inputs,
/// `main` bytes, and after all of those, for every 256 inputs, `side` bytes. Main holds the quants, four inputs of one
/// output side by side, outputs next to each other, as a panel wants them; side holds what they are scaled with:
///   Q8_0     main [64][16][4] bytes                                   side f16 scale [8][16]
///   MXFP4    main [8][4][16][4] bytes: quad k and k + 4 of a group    side e8m0 scale [8][16]
///   IQ2_XXS  main [8]: codes [16][4], then signs [16][4]: bit k of    side nibbles [4][16]: groups 2 i and
///            a byte is the sign in quad k of the group                     2 i + 1; f16 d [16]
///   Q4_K     main [8][4][16][4] bytes: quad k and k + 4 of a group    side scale [8][16], min [8][16]; f16 d, dmin
///   [16] Q2_K     main [16][16][4] bytes: quads 0 to 3 of a group of 16    side scale | min << 4 [16][16]; f16 d, dmin
///   [16]
struct TileBytes {
  int main;
  int side;
};
constexpr TileBytes kTileBytes[kPanelFormats] = {{4096, 256}, {2048, 128}, {1024, 96}, {2048, 320}, {1024, 320}};
constexpr int kTileGroup = 4;  // tiles computed together when there are many rows: they share the reading of those
constexpr int kMaxMainBytes = 4096;
constexpr int kMaxSideBytes = 320;

/// 256 inputs of 16 outputs of any quantised weight, in L1: four inputs of one output side by side, so that every lane
/// of a vector of 32-bit integers is one output and no sum ever crosses lanes.
///   w[output][input] = scale[group][output] * (q - bias) - min[group][output]
/// Groups are of 32 inputs, but minima of Q2_K of 16; Q2_K has its small scales in q and one scale per output.
struct alignas(64) Panel {
  float scale[8][kTileOutputs];
  float min[16][kTileOutputs];
  uint8_t room[kPanelDepth / 4][kTileOutputs][4];
  const uint8_t* q;  // [kPanelDepth / 4][kTileOutputs][4]: in `room`, or in the tile
};

/// Tables of the IQ2_XXS format.
struct Iq2Tables {
  const uint64_t* grid;   // [256] octets
  const uint64_t* signs;  // [128] octets of 0x00 (plus) or 0xff (minus)
  const uint8_t* levels;  // [2][256] two bits for each value of the first and of the last four of an octet
};

/// 256 inputs of 16 outputs from the rows of a file to a tile.
struct PackArgs {
  const uint8_t* weights;  // block of the first output
  int64_t stride;          // bytes from one output to the next
  int outputs;             // 1..16; the rest of the tile is zero
  int depth;               // inputs, a multiple of the format's block, at most kPanelDepth
  Iq2Tables iq2;
  uint8_t* main;
  uint8_t* side;
};

struct UnpackArgs {
  const uint8_t* main;
  const uint8_t* side;
  Iq2Tables iq2;
};

/// out[p][i] += panels[p] * x[i * step]
struct PanelDotArgs {
  const Panel* panels;
  int panel_count;
  int depth;            // a multiple of 32
  const QuantBlock* x;  // block of the first row
  int64_t step;         // blocks from one row to the next
  int count;
  float* out;            // [count][kTileOutputs] of the first panel
  int64_t panel_stride;  // floats to those of the next
};

/// out[i][o] (+)= Σ_k weights[o][k] * x[index[i]][k]
struct FloatDotArgs {
  const void* weights;
  int64_t weight_stride;  // bytes
  int outputs;            // 1..16
  int64_t depth;
  const float* x;
  int64_t x_stride;  // elements
  const int32_t* index;
  int count;
  float* out;  // [count][kTileOutputs]
  bool add;
};

/// One block of keys for some heads of one query; the running softmax lives in largest, total and out.
struct AttentionArgs {
  const float* q;  // [heads][dim]
  int heads;
  int dim;
  float scale;
  const float* const* keys;  // [count], at most kKeyBlock; key and value are the same row
  int count;
  float* scores;   // scratch [heads][kKeyBlock]
  float* largest;  // [heads]
  float* total;    // [heads]
  float* out;      // [heads][dim], not yet divided by total
};

/// scores[n] = Σ_h weights[h] * max(0, q[h] · keys[n])
struct IndexArgs {
  const float* q;        // [heads][dim]
  const float* weights;  // [heads]
  int heads;
  int dim;
  const float* const* keys;  // [count], at most kKeyBlock
  int count;
  float* products;  // scratch [heads][kKeyBlock]
  float* scores;    // out [count]
};

struct RowFormat {
  int rounded;  // packed: dims in e4m3, the rest is bf16
  int dim;
};

struct KernelTable {
  const char* name;

  void (*dot_f32)(const FloatDotArgs&);
  void (*dot_f16)(const FloatDotArgs&);
  void (*dot_bf16)(const FloatDotArgs&);

  /// Splits one row over its blocks: block b goes to blocks[b * stride].
  void (*quantise)(const float* x, int64_t count, QuantBlock* blocks, int64_t stride);
  void (*pack[kPanelFormats])(const PackArgs&);
  void (*unpack[kPanelFormats])(const UnpackArgs&, Panel*);
  void (*panel_dot[kPanelFormats])(const PanelDotArgs&);
  /// The same for a matrix unit, which wants signed weights without a bias; from `wide_rows` rows on. Null where it is
  /// not faster.
  int wide_rows;
  void (*unpack_wide[kPanelFormats])(const UnpackArgs&, Panel*);
  void (*wide_dot[kPanelFormats])(const PanelDotArgs&);

  void (*attend)(const AttentionArgs&);
  void (*index_scores)(const IndexArgs&);

  float (*sum_squares)(const float* x, int64_t count);
  /// y[i] = x[i] * factor * weight[i]; weight may be null.
  void (*scale)(const float* x, float factor, const float* weight, float* y, int64_t count);
  void (*add)(const float* x, float* y, int64_t count);  // y += x
  /// y = Σ_j weights[j] * x[j]
  void (*mix)(const float* const* x, const float* weights, int inputs, float* y, int64_t count);
  /// streams[k] = post[k] * o + Σ_j comb[j][k] * streams[j], over `count` values that start at `o` and in every stream.
  void (*mix_streams)(const float* o, const float* post, const float* comb, int streams, float* x,
                      int64_t stream_stride, int64_t count);
  /// h = silu(min(gate, limit)) * clamp(up, ±limit) * weight
  void (*swiglu)(const float* gate, const float* up, float limit, float weight, float* h, int64_t count);
  /// y[n] = Σ_i softmax_i(scores[i][n]) * values[i][n]
  void (*softmax_pool)(const float* const* values, const float* const* scores, int entries, float* y, int64_t count);

  // Row formats of quant/kv_row.h.
  void (*read_f16)(const uint8_t* row, float* y, int count);
  void (*read_packed)(const uint8_t* row, const uint8_t* scales, const RowFormat& format, float* y);
  void (*read_packed_index)(const uint8_t* row, const uint8_t* scales, int dim, float* y);
};

}  // namespace ds4::cpu
