// The experts of up to kFewRows rows (§2.9): routed and shared ones as products of their own, which run side by side.
#include <algorithm>

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/products.h"
#include "backend/cuda/stream_tiles.cuh"

namespace ds4::cuda {

namespace {

constexpr int kMaxParts = 4;

/// One family of experts: all routed ones, or the shared one.
struct Gated {
  Matrix gate, up;
  const __half* x;              // [rows, d]
  const std::int32_t* experts;  // [rows * used]; null: the shared one, for all rows at once
  const float* weights;
  int rows;
  int used;
  float limit;
  __half* hidden;  // [job][ff]; shared: [row][ff]
};

/// Block (row of tiles, job): warps 0 .. parts - 1 share the columns of gate, the others those of up.
template <typename F, int N>
__global__ void __launch_bounds__(2 * kMaxParts * 32) gated_kernel(Gated p) {
  __shared__ uint2 table[F::kTable ? 256 : 1];
  __shared__ float sums[2 * kMaxParts][N * 8][16];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int parts = blockDim.x / 64;
  const int job = blockIdx.y;
  const bool routed = p.experts != nullptr;
  const Matrix& m = warp < parts ? p.gate : p.up;
  const std::int64_t tile = blockIdx.x;
  const int rows = routed ? 1 : p.rows;
  const __half* x = routed ? p.x + job / p.used * m.in : p.x;
  if constexpr (F::kTable) load_iq2_selectors(table, m.iq2->selectors);
  wait_for_previous();  // the choice of experts is the previous kernel's
  float sum[N][4] = {};
  accumulate<F, N, false>(m, m.tile(routed ? p.experts[job] : 0, tile), warp % parts, static_cast<int>(m.column_tiles()), parts, x,
                   m.in, rows, table, sum);
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[warp][n * 8 + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = sum[n][i];
  __syncthreads();
  for (int i = threadIdx.x; i < rows * 16; i += blockDim.x) {
    const int row = i / 16;
    float g = 0;
    float u = 0;
    for (int w = 0; w < parts; ++w) {
      g += sums[w][row][i % 16];
      u += sums[parts + w][row][i % 16];
    }
    g = fminf(g / p.gate.pre, p.limit);
    u = fminf(fmaxf(u / p.up.pre, -p.limit), p.limit);
    const std::int64_t o = tile * 16 + i % 16;
    if (o >= p.gate.out) continue;
    const float h = g * sigmoid(g) * u * (routed ? p.weights[job] : 1.0F);
    p.hidden[(routed ? job : row) * p.gate.out + o] = to_half(h);
  }
}

template <typename F>
void gated(const Gated& p, cudaStream_t stream) {
  const int jobs = p.experts != nullptr ? p.rows * p.used : 1;
  const std::int64_t tiles = p.gate.row_tiles();
  int parts = 1;
  while (parts < kMaxParts && tiles * jobs * parts * 4 <= 4096 && p.gate.column_tiles() >= 2 * parts) parts *= 2;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(jobs));
  const auto threads = static_cast<unsigned>(2 * parts * 32);
  if (p.experts != nullptr || p.rows <= 8) launch(gated_kernel<F, 1>, grid, threads, 0, stream, p);
  else launch(gated_kernel<F, 2>, grid, threads, 0, stream, p);
}

struct Down {
  Matrix m;
  const __half* hidden;         // [job, ff]
  const std::int32_t* experts;  // [jobs]
  int jobs;
  float* out;  // [job, d]
};

constexpr int kDownTiles = 2;
constexpr int kDownParts = 2;

/// kDownParts warps share the columns of each of kDownTiles rows of tiles of a job.
template <typename F>
__global__ void __launch_bounds__(kDownTiles * kDownParts * 32) down_kernel(Down p) {
  __shared__ uint2 table[F::kTable ? 256 : 1];
  __shared__ float sums[kDownTiles * kDownParts][16];
  if constexpr (F::kTable) load_iq2_selectors(table, p.m.iq2->selectors);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const std::int64_t job = blockIdx.y;
  const std::int64_t tile = static_cast<std::int64_t>(blockIdx.x) * kDownTiles + warp / kDownParts;
  wait_for_previous();
  float sum[1][4] = {};
  if (tile < p.m.row_tiles())
    accumulate<F, 1, false>(p.m, p.m.tile(p.experts[job], tile), warp % kDownParts, static_cast<int>(p.m.column_tiles()),
                            kDownParts, p.hidden + job * p.m.in, p.m.in, 1, table, sum);
  if (lane % 4 == 0) {
    sums[warp][lane / 4] = sum[0][0];
    sums[warp][lane / 4 + 8] = sum[0][2];
  }
  __syncthreads();
  if (threadIdx.x >= kDownTiles * 16) return;
  const std::int64_t o = static_cast<std::int64_t>(blockIdx.x) * kDownTiles * 16 + threadIdx.x;
  if (o >= p.m.out) return;
  float v = 0;
  for (int part = 0; part < kDownParts; ++part) v += sums[threadIdx.x / 16 * kDownParts + part][threadIdx.x % 16];
  p.out[job * p.m.out + o] = v / p.m.pre;
}

}  // namespace

void few_experts(const FewExperts& e, cudaStream_t stream, cudaStream_t beside) {
  const Gated routed{e.w.gate, e.w.up, e.x, e.experts, e.weights, e.rows, e.used, e.limit, e.hidden};
  with_fragment(e.w.gate.type, [&](auto f) { gated<decltype(f)>(routed, stream); });
  const Gated shared{e.w.shared_gate, e.w.shared_up, e.x, nullptr, nullptr, e.rows, e.used, e.shared_limit, e.shared_hidden};
  with_fragment(e.w.shared_gate.type, [&](auto f) { gated<decltype(f)>(shared, beside); });

  const Down down{e.w.down, e.hidden, e.experts, e.rows * e.used, e.pair_out};
  const dim3 grid(static_cast<unsigned>((e.w.down.row_tiles() + kDownTiles - 1) / kDownTiles), static_cast<unsigned>(down.jobs));
  with_fragment(e.w.down.type, [&](auto f) {
    launch(down_kernel<decltype(f)>, grid, kDownTiles * kDownParts * 32, 0, stream, down);
  });
  half_product({.m = e.w.shared_down, .outs = e.w.shared_down.out, .rows = e.rows, .x_stride = e.w.shared_down.in, .y = e.y,
                .y_stride = e.w.shared_down.out},
               e.shared_hidden, beside);
}

}  // namespace ds4::cuda
