// Products of many rows on the tensor cores: what products and experts ask of many_rows.cuh. One file a group of
// formats (many_rows_*.cu), because they take long to compile.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backend/cuda/matrix.h"

namespace ds4::cuda {

inline constexpr int kBlockRows = 64;  // rows of activations that one block takes, without and with warpgroup products
inline constexpr int kGroupBlockRows = 128;
/// The calling thread's card has warpgroup products (Device::select()).
inline thread_local bool has_warpgroups = false;
inline int rows_of_block() { return has_warpgroups ? kGroupBlockRows : kBlockRows; }

enum class Output { kPlain, kGated };

struct ManyRows {
  Matrix a;  // plain: the matrix; gated: gate
  Matrix b;  // gated: up
  const __half* x;
  std::int64_t x_stride;
  const std::int32_t* gather;  // row of x for a place; null: the place itself
  const int4* items;           // expert, first place, places; null: blockIdx.y cuts `rows`
  const std::int32_t* item_count;
  std::int64_t rows;
  std::int64_t outs;
  int groups;      // as in Product; 0 counts as 1
  float* y;        // plain: [place][y_stride]
  __half* hidden;  // gated, and plain where y is wanted as halves: [place][y_stride]
  std::int64_t y_stride;
  const float* weight;  // gated: factor of a place, or null
  float limit;
};

/// `blocks_of_rows`: how many groups of up to rows_of_block() rows there are, or can be.
void many_rows(Output output, const ManyRows& p, std::int64_t blocks_of_rows, cudaStream_t stream);

void many_rows_16(Output output, const ManyRows& p, std::int64_t blocks_of_rows, cudaStream_t stream);  // f16, bf16
void many_rows_8(Output output, const ManyRows& p, std::int64_t blocks_of_rows, cudaStream_t stream);   // q8_0
void many_rows_4(Output output, const ManyRows& p, std::int64_t blocks_of_rows, cudaStream_t stream);   // mxfp4, q4_k
void many_rows_2(Output output, const ManyRows& p, std::int64_t blocks_of_rows, cudaStream_t stream);   // q2_k, iq2_xxs

}  // namespace ds4::cuda
