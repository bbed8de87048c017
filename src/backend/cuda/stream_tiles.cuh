// Few rows on the tensor cores: every warp streams tiles of weights through its registers.
#pragma once

#include "backend/cuda/fragments.cuh"
#include "backend/cuda/launch.cuh"

namespace ds4::cuda {

inline constexpr int kWarps = 8;

template <typename F>
struct RawTile {
  typename F::Piece piece[4];
  typename F::Head head;
  __device__ void load(const LaneTile& tile) {
#pragma unroll
    for (int u = 0; u < 4; ++u) piece[u] = F::piece(tile, u);
    head = F::head(tile);
  }
};

/// How many tiles a warp keeps on their way: about 4 KiB, so that a card's memory stays busy.
template <typename F>
inline constexpr int kTilesAhead = F::kTileBytes > 2400 ? 1 : F::kTileBytes > 1300 ? 2 : F::kTileBytes > 640 ? 4 : 3;

/// sum[n] += 16 rows of tiles times rows 8 n .. 8 n + 7 of x, for the columns first, first + step, ... of the row of
/// tiles. Rows of x at and beyond `rows` count as zero.
/// kWait: x comes from the previous kernel, the weights' address does not. kNear: x lies in shared memory and is read when
/// it is needed, not a column earlier.
template <typename F, int N, bool kWait, bool kNear = false, typename Octets>
__device__ __forceinline__ void accumulate(const Matrix& m, const std::byte* tiles, int first, int last, int step,
                                           const __half* x, std::int64_t x_stride, int rows, const Octets& table,
                                           float (&sum)[N][4]) {
  constexpr int kAhead = kTilesAhead<F>;
  const int lane = threadIdx.x % 32;
  RawTile<F> raw[kAhead];
  LaneTile coming(tiles + static_cast<std::int64_t>(first) * F::kTileBytes, lane);  // the next tile to load
  const std::int64_t stride = static_cast<std::int64_t>(step) * F::kTileBytes;
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (first + i * step < last) raw[i].load(coming);
    coming += stride;
  }
  if constexpr (kWait) wait_for_previous();  // x is the previous kernel's
  float odd[N][4] = {};  // two chains of sums: a product waits for the one before it
  // What the lane reads of x: columns 32 (lane % 4) .. of row lane / 4, and of row lane / 4 + 8.
  const __half* own[N];
  bool present[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    present[n] = n * 8 + lane / 4 < rows;
    own[n] = x + (present[n] ? n * 8 + lane / 4 : 0) * x_stride + lane % 4 * 32;
  }
  const auto read_x = [&](int n, int column, int u) {
    return present[n] ? *reinterpret_cast<const uint4*>(own[n] + column * 128 + u * 8) : make_uint4(0, 0, 0, 0);
  };
  uint4 next_x[N][4];
  const auto fetch_x = [&](int column) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int u = 0; u < 4; ++u) next_x[n][u] = read_x(n, column, u);
  };
  if (!kNear && first < last) fetch_x(first);
  for (int base = first; base < last; base += kAhead * step) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int column = base + i * step;
      if (column >= last) break;
      const RawTile<F> now = raw[i];
      if (column + kAhead * step < last) raw[i].load(coming);
      coming += stride;
      const auto scales = F::scales(now.head, m.pre);
      uint4 now_x[N][4];
      if constexpr (!kNear) {
#pragma unroll
        for (int n = 0; n < N; ++n)
#pragma unroll
          for (int u = 0; u < 4; ++u) now_x[n][u] = next_x[n][u];
        if (column + step < last) fetch_x(column + step);
      }
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const StepPair pair = F::expand(now.piece[u], scales, u, table);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const uint4 own_x = kNear ? read_x(n, column, u) : now_x[n][u];
          mma(sum[n], pair.a[0], own_x.x, own_x.y);
          mma(odd[n], pair.a[1], own_x.z, own_x.w);
        }
      }
    }
  }
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[n][i] += odd[n][i];
}

}  // namespace ds4::cuda
