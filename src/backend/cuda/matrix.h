// Weights on the card: either as the file has them (vectors, tables, f32, whatever does not fit the tiles), or cut into
// tiles in the order of the tensor cores (fragments.cuh).
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "backend/tensor.h"

namespace ds4::cuda {

inline constexpr int kTileRows = 16;
inline constexpr int kTileColumns = 128;

/// The IQ2_XXS codebook on the card.
struct Iq2Tables {
  std::uint64_t grid[256];  // magnitudes 8, 25, 43 as bytes
  uint4 octets[256];        // the same as halves
};
Iq2Tables make_iq2_tables();

struct Matrix {
  DType type = DType::kF32;
  bool tiled = false;
  float pre = 1.0F;  // tiles hold value * pre
  const std::byte* data = nullptr;
  std::int64_t in = 0;
  std::int64_t out = 0;
  std::int64_t count = 1;
  std::uint64_t row_bytes = 0;     // as in the file
  std::uint64_t tile_bytes = 0;    // tiled: one tile of 16 rows by 128 columns; tiles of a row of tiles are consecutive
  std::uint64_t matrix_bytes = 0;  // from one of `count` to the next
  const Iq2Tables* iq2 = nullptr;  // on the card; for IQ2_XXS

  __host__ __device__ std::int64_t row_tiles() const { return (out + kTileRows - 1) / kTileRows; }
  __host__ __device__ std::int64_t column_tiles() const { return in / kTileColumns; }
  __host__ __device__ const std::byte* tile(std::int64_t index, std::int64_t row_tile) const {
    return data + static_cast<std::uint64_t>(index) * matrix_bytes +
           static_cast<std::uint64_t>(row_tile * column_tiles()) * tile_bytes;
  }
  __host__ __device__ const std::byte* row(std::int64_t index, std::int64_t r) const {
    return data + static_cast<std::uint64_t>(index) * matrix_bytes + static_cast<std::uint64_t>(r) * row_bytes;
  }
};

/// How `weight` will lie on the card; `data` is not set. `exact` keeps everything in the file's layout.
Matrix plan_matrix(const HostWeight& weight, bool exact);
std::uint64_t matrix_bytes(const Matrix& matrix);

/// Packs `rows` file rows (of one tensor, in device memory) into tiles, beginning at row tile `tile`. `rows` is a
/// multiple of 16 except at the end of the matrix. `largest` collects the largest magnitude as float bits.
void pack_rows(const Matrix& matrix, const std::byte* file_rows, std::int64_t rows, std::byte* to,
               std::uint32_t* largest, cudaStream_t stream);

/// The power of two that brings the largest magnitude near 2^9 (MXFP4: 2^2; IQ2_XXS: what its tiles hold already).
float choose_pre(DType type, float largest);

}  // namespace ds4::cuda
