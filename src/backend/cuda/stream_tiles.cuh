// Few rows on the tensor cores: every warp streams tiles of weights through its registers.
#pragma once

#include "backend/cuda/async_copy.cuh"
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/products.h"

namespace ds4::cuda {

inline constexpr int kWarps = 8;
inline constexpr int kPad = 8;  // halves between rows in shared memory, that keep them off the same banks

template <typename F>
struct RawTile {
  typename F::Piece piece[4];
  typename F::Head head;
  template <typename Bytes>
  __device__ void load(const LaneTile<Bytes>& tile) {
    load_pieces<F>(tile, piece);
    head = F::head(tile);
  }
};

/// How many tiles a warp keeps on their way: about 4 KiB, so that a card's memory stays busy.
template <typename F>
inline constexpr int kTilesAhead = F::kTileBytes > 2400   ? 1
                                   : F::kTileBytes > 1300 ? 2
                                   : F::kTileBytes > 710  ? 4
                                                          : 3;
/// And how many it holds. A small tile has a place beside the one in work, and is not moved; a large one would take too
/// many registers.
template <typename F>
inline constexpr int kTilesHeld = kTilesAhead<F> + (F::kTileBytes < 1300 ? 1 : 0);

/// i / p and i % p for a power of two: kernels of few rows are too short for a real division.
__device__ inline int over(int i, int power) { return i >> (31 - __clz(power)); }
__device__ inline int within(int i, int power) { return i & (power - 1); }

/// `parts`, a power of two, warps share the columns of a row of tiles: warp `part` takes the columns part, part +
/// parts, ...
struct ColumnShare {
  int part;
  int parts;
  int columns;
};

// Where a warp has the other operand from: rows 8 n .. 8 n + 7 of x, of which a lane reads row 8 n + lane / 4, columns
// 32 (lane % 4) + 8 u .. of a tile. begin() comes once, when the first tiles of weights are on their way; next(step)
// before a tile, by every warp of the block equally often; read(n, u) gives eight halves of the tile. Rows that are not
// there only reach outputs that nobody keeps.

/// Straight from memory, a tile ahead.
template <int N>
class RowsFromMemory {
 public:
  __device__ RowsFromMemory(const __half* x, std::int64_t stride, int rows, const ColumnShare& share) : share_(share) {
    const int row = threadIdx.x % 32 / 4;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      present_[n] = n * 8 + row < rows;
      own_[n] = x + (present_[n] ? n * 8 + row : 0) * stride + threadIdx.x % 4 * 32;
    }
  }
  __device__ void begin() {
    wait_for_previous();  // x is the previous kernel's
    if (share_.part < share_.columns) fetch(share_.part);
  }
  __device__ void next(int step) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int u = 0; u < 4; ++u) now_[n][u] = coming_[n][u];
    const int column = share_.part + (step + 1) * share_.parts;
    if (column < share_.columns) fetch(column);
  }
  __device__ uint4 read(int n, int u) const { return now_[n][u]; }

 private:
  __device__ void fetch(int column) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int u = 0; u < 4; ++u)
        coming_[n][u] =
            present_[n] ? *reinterpret_cast<const uint4*>(own_[n] + column * 128 + u * 8) : make_uint4(0, 0, 0, 0);
  }
  bool present_[N];
  const __half* own_[N];
  ColumnShare share_;
  uint4 coming_[N][4];
  uint4 now_[N][4];
};

/// Up to eight whole rows that lie in shared memory by the end of `stage`, `pitch` halves apart.
template <typename Stage>
class RowsNear {
 public:
  __device__ RowsNear(const __half* x, int pitch, int rows, const ColumnShare& share, const Stage& stage)
      : stage_(stage),
        present_(static_cast<int>(threadIdx.x % 32 / 4) < rows),
        own_(x + (present_ ? threadIdx.x % 32 / 4 : 0) * pitch + threadIdx.x % 4 * 32 + share.part * 128),
        step_(share.parts * 128) {}
  __device__ void begin() { stage_(); }
  __device__ void next(int step) { now_ = own_ + step * step_; }
  __device__ uint4 read(int, int u) {
    if (present_) held_ = *reinterpret_cast<const uint4*>(now_ + u * 8);
    return held_;
  }

 private:
  Stage stage_;
  bool present_;
  const __half* own_;
  const __half* now_ = nullptr;
  int step_;
  uint4 held_ = {};  // zeros of a lane that has no row
};

/// A row of x to shared memory, by the whole block.
__device__ inline void stage_row(__half* to, const __half* x, std::int64_t columns) {
#pragma unroll 2
  for (int i = threadIdx.x; i < columns / 8; i += blockDim.x)
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(x)[i];
}

/// Rows, `pitch` halves apart, complete for the block.
__device__ inline void stage_rows(__half* to, int pitch, const __half* x, std::int64_t stride, int rows,
                                  std::int64_t columns) {
  for (int row = 0; row < rows; ++row) stage_row(to + row * pitch, x + row * stride, columns);
  __syncthreads();
}

/// The same with the RMSNorm of rows of `width` values. `keep`: also to where the input says, if it does.
__device__ inline void stage_normed(const NormedInput& in, int rows, int width, __half* to, int pitch, bool keep) {
  __shared__ float space[33];
  for (int row = 0; row < rows; ++row) {
    const auto* x = reinterpret_cast<const float4*>(in.x + static_cast<std::int64_t>(row) * width);
    const auto* weight = reinterpret_cast<const float4*>(in.weight);
    float squares = 0;
#pragma unroll 2
    for (int i = threadIdx.x; i < width / 4; i += blockDim.x) {
      const float4 v = x[i];
      squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    const float r = rsqrtf(block_sum(squares, space) / static_cast<float>(width) + in.eps);
#pragma unroll 2
    for (int i = threadIdx.x; i < width / 4; i += blockDim.x) {
      const float4 v = x[i];
      const float4 w = weight[i];
      const float4 y = {v.x * r * w.x, v.y * r * w.y, v.z * r * w.z, v.w * r * w.w};
      const uint2 halves = {as_bits(__halves2half2(to_half(y.x), to_half(y.y))),
                            as_bits(__halves2half2(to_half(y.z), to_half(y.w)))};
      reinterpret_cast<uint2*>(to + row * pitch)[i] = halves;
      if (!keep || in.y == nullptr) continue;
      reinterpret_cast<float4*>(in.y + static_cast<std::int64_t>(row) * width)[i] = y;
      reinterpret_cast<uint2*>(in.y_half + static_cast<std::int64_t>(row) * width)[i] = halves;
    }
  }
  __syncthreads();
}

/// A few columns at a time, through a ring in shared memory that all warps of the block fill and read: a lane's own
/// pieces lie 64 bytes apart in memory, side by side in the ring.
template <int N>
class RowsThroughRing {
 public:
  static constexpr int kSlots = 3;
  static constexpr std::size_t bytes(int parts) { return static_cast<std::size_t>(kSlots * parts) * kColumnBytes; }

  /// share.parts is a power of two up to kWarps.
  __device__ RowsThroughRing(const __half* x, std::int64_t stride, int rows, const ColumnShare& share, std::byte* ring)
      : rows_(rows), share_(share), ring_(ring) {
    const int pieces = share.parts * 16;  // of a row: what a step takes of it, consecutive in memory
    const int piece = threadIdx.x % pieces;
    row_ = threadIdx.x / pieces;
    rows_at_once_ = kWarps * 32 / pieces;  // an even number
    column_ = piece / 16;
    from_ = x + row_ * stride + piece * 8;
    pass_ = rows_at_once_ * stride;
    to_ = shared_at(ring) + column_ * kColumnBytes + place(row_, piece % 4 * 4 + piece / 4 % 4);
  }
  __device__ void begin() {
    wait_for_previous();
    load(0);
    load(1);
  }
  __device__ void next(int step) {
    wait_async<1>();
    __syncthreads();  // the step's columns are there, and nobody reads those of the step before any more
    load(step + 2);
    now_ = ring_ + (step % kSlots * share_.parts + share_.part) * kColumnBytes;
  }
  __device__ uint4 read(int n, int u) const {
    const int lane = threadIdx.x % 32;
    return *reinterpret_cast<const uint4*>(now_ + place(n * 8 + lane / 4, u * 4 + lane % 4));
  }

 private:
  static constexpr int kColumnBytes = N * 8 * 256;
  /// Lanes of a quarter warp meet no bank twice.
  __device__ static int place(int row, int slot) { return row * 256 + (slot ^ row % 2 * 4) * 16; }
  __device__ void load(int step) {
    if (column_ + step * share_.parts < share_.columns) {
      const __half* from = from_ + step * share_.parts * 128;
      std::uint32_t to = to_ + step % kSlots * share_.parts * kColumnBytes;
      for (int row = row_; row < rows_; row += rows_at_once_) {
        copy_async<16>(to, from, 16);
        from += pass_;
        to += rows_at_once_ * 256;
      }
    }
    commit_async();
  }
  int rows_;
  ColumnShare share_;
  const std::byte* ring_;
  int row_, column_, rows_at_once_;
  const __half* from_;
  std::int64_t pass_;
  std::uint32_t to_;
  const std::byte* now_ = nullptr;
};

/// sum[n] += 16 rows of tiles times rows 8 n .. 8 n + 7 of x, for the warp's share of the columns.
template <typename F, int N, typename Rows, typename Octets>
__device__ __forceinline__ void accumulate(const Matrix& m, const std::byte* tiles, const ColumnShare& share, Rows& x,
                                           const Octets& table, float (&sum)[N][4]) {
  constexpr int kAhead = kTilesAhead<F>;
  constexpr int kHeld = kTilesHeld<F>;
  RawTile<F> raw[kHeld];
  LaneTile<ReadOnce> coming({tiles + static_cast<std::int64_t>(share.part) * F::kTileBytes},
                            threadIdx.x % 32);  // the next tile to load
  const std::int64_t stride = static_cast<std::int64_t>(share.parts) * F::kTileBytes;
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (share.part + i * share.parts < share.columns) raw[i].load(coming);
    coming += stride;
  }
  x.begin();
  float odd[N][4] = {};  // two chains of sums: a product waits for the one before it
  const int steps = over(share.columns + share.parts - 1, share.parts);
  for (int base = 0; base < steps; base += kHeld) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int step = base + i;
      if (step >= steps) break;
      x.next(step);
      const int column = share.part + step * share.parts;
      if (column >= share.columns) break;  // the last step of this warp
      const RawTile<F> now = raw[i];
      if (column + kAhead * share.parts < share.columns) raw[(i + kAhead) % kHeld].load(coming);
      coming += stride;
      const auto scales = F::scales(now.head, m.pre);
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        const StepPair pair = F::expand(now.piece[u], scales, u, table);
#pragma unroll
        for (int n = 0; n < N; ++n) {
          const uint4 own_x = x.read(n, u);
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
