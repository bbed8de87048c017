// Few rows on the tensor cores: every warp streams tiles of weights through its registers.
#pragma once

#include "backend/cuda/fragments.cuh"

namespace ds4::cuda {

inline constexpr int kWarps = 8;

template <typename F>
struct RawTile {
  typename F::Piece piece[4];
  typename F::Head head;
  __device__ void load(const std::byte* tile, int lane) {
#pragma unroll
    for (int u = 0; u < 4; ++u) piece[u] = F::piece(tile, lane, u);
    head = F::head(tile, lane);
  }
};

/// How many tiles a warp keeps on their way: about 4 KiB, so that a card's memory stays busy.
template <typename F>
inline constexpr int kTilesAhead = F::kTileBytes > 2400 ? 1 : F::kTileBytes > 1300 ? 2 : 4;

/// sum[n] += 16 rows of tiles times rows 8 n .. 8 n + 7 of x, for the columns first, first + step, ... of the row of
/// tiles. Rows of x at and beyond `rows` count as zero.
template <typename F, int N>
__device__ void accumulate(const Matrix& m, const std::byte* tiles, int first, int last, int step, const __half* x,
                           std::int64_t x_stride, int rows, const uint2* table, float (&sum)[N][4]) {
  constexpr int kAhead = kTilesAhead<F>;
  const int lane = threadIdx.x % 32;
  RawTile<F> raw[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i)
    if (first + i * step < last) raw[i].load(tiles + static_cast<std::uint64_t>(first + i * step) * F::kTileBytes, lane);
  for (int base = first; base < last; base += kAhead * step) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int column = base + i * step;
      if (column >= last) break;
      const RawTile<F> now = raw[i];
      const int next = column + kAhead * step;
      if (next < last) raw[i].load(tiles + static_cast<std::uint64_t>(next) * F::kTileBytes, lane);
      const auto scales = F::scales(now.head, m.pre);
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        uint4 b[N];
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const int row = n * 8 + lane / 4;
          b[n] = make_uint4(0, 0, 0, 0);
          if (row < rows)
            b[n] = *reinterpret_cast<const uint4*>(x + row * x_stride + column * 128 + lane % 4 * 32 + u * 8);
        }
        const StepPair pair = F::expand(now.piece[u], scales, u, table);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          mma(sum[n], pair.a[0], b[n].x, b[n].y);
          mma(sum[n], pair.a[1], b[n].z, b[n].w);
        }
      }
    }
  }
}

}  // namespace ds4::cuda
