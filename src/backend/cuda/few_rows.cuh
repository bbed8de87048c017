// Products of few rows, block by block, for kernels that run several side by side.
#pragma once

#include "backend/cuda/stream_tiles.cuh"

namespace ds4::cuda {

/// Where activations come from: memory; a ring in shared memory; shared memory, where the block brings all rows, as
/// they are or normed.
enum class From { kMemory, kRing, kStaged, kNormed };

/// Where warps leave their sums of a row of tiles.
template <int N>
using WarpSums = float[kWarps][N * 8][16];

/// One block of a product, of group `group`. `space`: shared memory for what kFrom says.
template <typename F, int N, From kFrom, typename Octets>
__device__ __forceinline__ void few_rows_block(const Product& p, const __half* x, int warps_per_tile, int block,
                                               std::int64_t group, const Octets& octets, WarpSums<N>& parts,
                                               std::byte* space) {
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int tiles_here = over(kWarps, warps_per_tile);
  const std::int64_t first_tile = static_cast<std::int64_t>(block) * tiles_here;
  const std::int64_t tile = min(first_tile + over(warp, warps_per_tile), (p.outs - 1) / 16);
  x += group * p.m.in;
  const std::byte* tiles = p.m.tile(0, group * (p.outs / 16) + tile);
  const ColumnShare share{within(warp, warps_per_tile), warps_per_tile, static_cast<int>(p.m.column_tiles())};
  const int rows = static_cast<int>(p.rows);
  float sum[N][4] = {};
  if constexpr (kFrom == From::kRing) {
    RowsThroughRing<N> source(x, p.x_stride, rows, share, space);
    accumulate<F, N>(p.m, tiles, share, source, octets, sum);
  } else if constexpr (kFrom == From::kStaged || kFrom == From::kNormed) {
    auto* near = reinterpret_cast<__half*>(space);
    const int pitch = static_cast<int>(p.m.in) + kPad;
    const auto stage = [&] {
      wait_for_previous();
      if constexpr (kFrom == From::kNormed)
        stage_normed(p.normed, rows, static_cast<int>(p.m.in), near, pitch, block == 0);
      else stage_rows(near, pitch, x, p.x_stride, rows, p.m.in);
    };
    RowsNear source(near, pitch, rows, share, stage);
    accumulate<F, N>(p.m, tiles, share, source, octets, sum);
  } else {
    RowsFromMemory<N> source(x, p.x_stride, rows, share);
    accumulate<F, N>(p.m, tiles, share, source, octets, sum);
  }
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) parts[warp][n * 8 + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = sum[n][i];
  __syncthreads();
  for (int i = threadIdx.x; i < tiles_here * 16 * rows; i += blockDim.x) {
    const int row = over(i, tiles_here * 16);
    const int t = within(i / 16, tiles_here);
    float v = 0;
    for (int w = 0; w < warps_per_tile; ++w) v += parts[t * warps_per_tile + w][row][i % 16];
    const std::int64_t o = (first_tile + t) * 16 + i % 16;
    if (o >= p.outs) continue;
    const std::int64_t at = row * p.y_stride + group * p.outs + o;
    if (p.y_half != nullptr) p.y_half[at] = to_half(v / p.m.pre);
    else p.y[at] = v / p.m.pre;
  }
}

inline std::int64_t row_tiles(const Product& p) { return (p.outs + 15) / 16 * p.groups; }

/// Warps on a row of tiles: as few as fill the card once (sixteen warps a multiprocessor), so that every warp streams
/// as long as it can and no second wave begins.
inline int choose_warps_per_tile(std::int64_t column_tiles, std::int64_t tiles) {
  constexpr std::int64_t kWarpsOfCard = 16 * 132;
  int warps = 1;
  while (warps < kWarps && tiles * warps * 2 <= kWarpsOfCard && column_tiles >= 2 * warps) warps *= 2;
  return warps;
}

}  // namespace ds4::cuda
