// Matrix times activations, in two ways. Which one runs depends on the matrix and on the number of rows only, and
// every output is one sum in a fixed order: a row's result does not depend on its neighbours among up to kFewRows rows.
// Exceptions: how many warps share a sum of the routed experts depends on the number of (row, expert) pairs, and up to
// kNormedRows rows a norm may be summed in another order than for more.
//
//   file_product    the weights as in the file, against f32: exact products, slow. Matrices that are not tiled.
//   half_product    tiles against f16 on the tensor cores, f32 sums: up to kFewRows rows weights stream once through
//                   registers (bound by memory), beyond that with up to rows_of_block() rows at a time (many_rows.h).
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "backend/cuda/matrix.h"

namespace ds4::cuda {

inline constexpr int kFewRows = 16;
inline constexpr int kDirectRows = 2;  // where all warps read the same columns, more rows come through shared memory

/// What a product's x is the RMSNorm (§2.3) of. Every block works it out for itself: cheaper than a kernel between two
/// others.
inline constexpr int kNormedRows = 8;
struct NormedInput {
  const float* x = nullptr;  // [rows, in]; null: halves are there
  const float* weight = nullptr;
  float eps = 0;
  float* y = nullptr;        // out [rows, in]: the norm, for whoever else wants it; or null
  __half* y_half = nullptr;  // the same as halves
};

/// Rows of a normed input lie in shared memory; more than a block has by default is not worth asking for.
inline bool fits_normed(std::int64_t rows, std::int64_t columns) {
  return rows <= kNormedRows && rows * columns <= 20 * 1024;
}

/// For each group g: y[r][g * outs + o] = m[g * outs + o] . (x[r] + g * in), o < outs. One group is the plain product.
struct Product {
  Matrix m;
  std::int64_t outs = 0;  // of one group; with several, tiled: a multiple of 16
  std::int64_t rows = 0;
  std::int64_t x_stride = 0;
  float* y = nullptr;
  std::int64_t y_stride = 0;
  int groups = 1;
  __half* y_half = nullptr;  // half_product: written in place of y, for a product that follows
  NormedInput normed =
      {};  // half_product of up to kNormedRows rows and one group, where joins(m) and fits_normed(): in place of x
};

void file_product(const Product& p, const float* x, cudaStream_t stream);
void half_product(const Product& p, const __half* x, cudaStream_t stream);

/// Several products of the same x, of up to kFewRows rows and one group each, as one kernel: a small one alone would
/// leave most of the card's memory idle. Their matrices are of the types that joins() says.
inline constexpr int kMostJoined = 7;  // low-rank query, window row, two compressors of two, indexer's weights
bool joins(const Matrix& m);
void joint_product(std::span<const Product> products, const __half* x, cudaStream_t stream);

/// x [rows, columns] to halves, dense.
void convert_to_half(const float* x, std::int64_t rows, std::int64_t columns, __half* to, cudaStream_t stream);

/// An f32 product through two f16 ones: x is high + low / kLowScale to 22 bits. The high parts first, then the low
/// ones: [2 * rows, columns], so that one half_product gives both terms.
inline constexpr float kLowScale = 2048.0F;
void split_to_halves(const float* x, std::int64_t rows, std::int64_t columns, __half* to, cudaStream_t stream);

// --- experts ---------------------------------------------------------------------------------------------------------

struct ExpertMatrices {
  Matrix gate, up, down;
  Matrix shared_gate, shared_up, shared_down;
};

/// The routed experts' outputs, still apart: row r is the sum of `used` rows of `out`, in ascending order of expert, on
/// top of what the shared expert left. Whoever reads the sum adds them up (hyper_connection.h), or add_experts() does.
struct ExpertOutputs {
  const float* out = nullptr;           // [rows * used, d]; null: nothing is apart
  const std::int32_t* order = nullptr;  // [rows * used]: what to sort the slots of a row by
  const std::int32_t* place = nullptr;  // [rows * used]: row of `out` for (row, slot); null: r * used + slot
  int used = 0;
};

struct RouteChoice;
inline constexpr int kRowsThatChoose = 2;

/// Up to kFewRows rows.
struct FewExperts {
  ExpertMatrices w;
  const __half* x;              // [rows, d]
  const std::int32_t* experts;  // [rows, used]
  const float* weights;         // [rows, used]
  int rows;
  int used;
  float limit;
  float shared_limit;
  __half* hidden;             // scratch [rows * used, expert_ff]
  __half* shared_hidden;      // scratch [rows, shared_ff]
  float* pair_out;            // out [rows * used, d]
  float* y;                   // out [rows, d]
  const RouteChoice* choice;  // still to be made, into `experts` and `weights`; null: it is made
};
void routed_experts(const FewExperts& e, cudaStream_t stream);  // pair_out
/// The shared expert: hidden values, then y. The first takes the router's product along, of the same x and of its low
/// parts behind it, where routes_beside_shared(): both would leave most of the card idle.
bool routes_beside_shared(const Product& route);
void shared_gated(const FewExperts& e, const Product* route, cudaStream_t stream);
void shared_down(const FewExperts& e, cudaStream_t stream);
void add_experts(const ExpertOutputs& parts, std::int64_t rows, std::int64_t hidden, float* y, cudaStream_t stream);

/// Any number of rows: the (row, expert) pairs sorted by expert, each expert's weights read once for up to 64 of them.
struct ManyExperts {
  ExpertMatrices w;
  const __half* x;
  const std::int32_t* experts;
  const float* weights;
  int rows;
  int used;
  float limit;
  float shared_limit;
  // scratch
  __half* hidden;          // [rows * used, expert_ff], sorted
  __half* shared_hidden;   // [rows, shared_ff]
  float* pair_out;         // [rows * used, d], sorted
  std::int32_t* cursors;   // [experts]
  std::int32_t* pair_row;  // [rows * used]: row of the pair at a sorted place
  float* pair_weight;      // [rows * used]
  std::int32_t* place_of;  // [rows * used]: sorted place of (row, slot)
  int4* items;             // [rows * used / 64 + experts]: expert, first place, pairs, -
  std::int32_t* item_count;
  float* y;  // out [rows, d]: the shared expert
};
void many_experts(const ManyExperts& e, cudaStream_t stream);

}  // namespace ds4::cuda
