// The experts of up to kFewRows rows (§2.9): routed and shared ones as products of their own, which run side by side.
#include <algorithm>


#include "backend/cuda/ahead.cuh"
#include "backend/cuda/choose.cuh"
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/products.h"
#include "backend/cuda/stream_tiles.cuh"

namespace ds4::cuda {

namespace {

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
  Matrix down;     // of the same experts: asked for while gate and up compute
  bool chooses;    // `choice` is still to be made, by every block for its row
  RouteChoice choice;
};

/// Formats of few bytes a tile need many warps on a multiprocessor to hide what expanding them waits for.
template <typename F, int N>
inline constexpr int kCloseBlocks = N == 1 && F::kTileBytes < 800 ? 3 : 1;

/// A row of x to shared memory.
__device__ inline void stage_row(__half* to, const __half* x, std::int64_t columns) {
  for (int i = threadIdx.x; i < columns / 8; i += blockDim.x) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(x)[i];
}

/// Block (rows of tiles, job): `parts` warps share the columns of a row of tiles of gate, the next ones those of up, and so
/// on. A routed job has one row of x, which lies in shared memory.
template <typename F, int N, bool kRouted>
__global__ void __launch_bounds__(kWarps * 32, kRouted ? kCloseBlocks<F, N> : 1) gated_kernel(Gated p, int parts) {
  extern __shared__ __align__(16) __half near_x[];
  __shared__ uint4 table[kOctetEntries<F>];
  __shared__ float sums[kWarps][N * 8][16];
  __shared__ std::int32_t chosen[kMaxUsed];
  __shared__ float chosen_weights[kMaxUsed];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int slot = warp / parts;
  const int tiles_here = kWarps / (2 * parts);
  const int job = blockIdx.y;
  const Matrix& m = slot % 2 == 0 ? p.gate : p.up;
  const std::int64_t first_tile = static_cast<std::int64_t>(blockIdx.x) * tiles_here;
  const std::int64_t tile = min(first_tile + slot / 2, p.gate.row_tiles() - 1);
  const int rows = kRouted ? 1 : p.rows;
  load_octets(table, m);
  const ChoiceSpace space(reinterpret_cast<float*>(near_x + m.in), p.choice.experts);
  if (kRouted && p.chooses && warp == 0) begin_choice(p.choice, space);
  wait_for_previous();  // the choice of experts, or the router's logits, are the previous kernel's
  std::int32_t expert = 0;
  float weight = 1.0F;
  if constexpr (kRouted) {
    const int row = job / p.used;
    const int slot_of_row = job % p.used;
    if (p.chooses && warp == 0) {
      choose_row(p.choice, row, space, chosen, chosen_weights);
      if (blockIdx.x == 0 && slot_of_row == 0 && lane < p.used) {
        p.choice.chosen[row * p.used + lane] = chosen[lane];
        p.choice.weights[row * p.used + lane] = chosen_weights[lane];
      }
    }
    stage_row(near_x, p.x + row * m.in, m.in);
    __syncthreads();
    expert = p.chooses ? chosen[slot_of_row] : p.experts[job];
    weight = p.chooses ? chosen_weights[slot_of_row] : p.weights[job];
    const std::uint64_t share = p.down.matrix_bytes / gridDim.x / 16 * 16;
    if (threadIdx.x == 0 && share != 0) fetch_ahead(p.down.tile(expert, 0) + blockIdx.x * share, static_cast<std::uint32_t>(share));
  }
  float sum[N][4] = {};
  accumulate<F, N, false, kRouted>(m, m.tile(expert, tile), warp % parts, static_cast<int>(m.column_tiles()), parts,
                                   kRouted ? near_x : p.x, m.in, rows, octets_of(table), sum);
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[warp][n * 8 + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = sum[n][i];
  __syncthreads();
  for (int i = threadIdx.x; i < tiles_here * rows * 16; i += blockDim.x) {
    const int t = i / (rows * 16);
    const int row = i / 16 % rows;
    float g = 0;
    float u = 0;
    for (int w = 0; w < parts; ++w) {
      g += sums[2 * t * parts + w][row][i % 16];
      u += sums[(2 * t + 1) * parts + w][row][i % 16];
    }
    g = fminf(g / p.gate.pre, p.limit);
    u = fminf(fmaxf(u / p.up.pre, -p.limit), p.limit);
    const std::int64_t o = (first_tile + t) * 16 + i % 16;
    if (o >= p.gate.out) continue;
    const float h = g * sigmoid(g) * u * weight;
    p.hidden[(kRouted ? job : row) * p.gate.out + o] = to_half(h);
  }
}

/// More shared memory than what every kernel has.
template <auto kKernel>
void allow_shared() {
  static const cudaError_t allowed = cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * 1024);
  (void)allowed;  // a card that cannot grant it fails the launch
}

template <typename F>
void gated(const Gated& p, cudaStream_t stream) {
  const bool routed = p.experts != nullptr;
  const int jobs = routed ? p.rows * p.used : 1;
  const std::int64_t tiles = p.gate.row_tiles();
  int parts = 1;
  while (parts < kWarps / 2 && tiles * jobs * parts * 4 <= 4096 && p.gate.column_tiles() >= 2 * parts) parts *= 2;
  const int tiles_here = kWarps / (2 * parts);
  const dim3 grid(static_cast<unsigned>((tiles + tiles_here - 1) / tiles_here), static_cast<unsigned>(jobs));
  if (routed) {
    allow_shared<gated_kernel<F, 1, true>>();
    const std::size_t shared = static_cast<std::size_t>(p.gate.in) * sizeof(__half) +
                               static_cast<std::size_t>(p.chooses ? p.choice.experts : 0) * 2 * sizeof(float);
    launch(gated_kernel<F, 1, true>, grid, kWarps * 32, shared, stream, p, parts);
  } else if (p.rows <= 8) {
    launch(gated_kernel<F, 1, false>, grid, kWarps * 32, 0, stream, p, parts);
  } else {
    launch(gated_kernel<F, 2, false>, grid, kWarps * 32, 0, stream, p, parts);
  }
}

struct Down {
  Matrix m;
  const __half* hidden;         // [job, ff]
  const std::int32_t* experts;  // [jobs]
  int jobs;
  float* out;  // [job, d]
};

/// `parts` warps share the columns of a row of tiles of a job.
template <typename F>
__global__ void __launch_bounds__(kWarps * 32, kCloseBlocks<F, 1>) down_kernel(Down p, int parts) {
  extern __shared__ __align__(16) __half near_x[];
  __shared__ uint4 table[kOctetEntries<F>];
  __shared__ float sums[kWarps][16];
  load_octets(table, p.m);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const std::int64_t job = blockIdx.y;
  const int tiles_here = kWarps / parts;
  const std::int64_t tile = min(static_cast<std::int64_t>(blockIdx.x) * tiles_here + warp / parts, p.m.row_tiles() - 1);
  wait_for_previous();
  stage_row(near_x, p.hidden + job * p.m.in, p.m.in);
  __syncthreads();
  float sum[1][4] = {};
  accumulate<F, 1, false, true>(p.m, p.m.tile(p.experts[job], tile), warp % parts, static_cast<int>(p.m.column_tiles()), parts,
                                near_x, p.m.in, 1, octets_of(table), sum);
  if (lane % 4 == 0) {
    sums[warp][lane / 4] = sum[0][0];
    sums[warp][lane / 4 + 8] = sum[0][2];
  }
  __syncthreads();
  if (threadIdx.x >= tiles_here * 16) return;
  const std::int64_t o = static_cast<std::int64_t>(blockIdx.x) * tiles_here * 16 + threadIdx.x;
  if (o >= p.m.out) return;
  float v = 0;
  for (int part = 0; part < parts; ++part) v += sums[threadIdx.x / 16 * parts + part][threadIdx.x % 16];
  p.out[job * p.m.out + o] = v / p.m.pre;
}

}  // namespace

void few_experts(const FewExperts& e, cudaStream_t stream, cudaStream_t beside) {
  const Gated routed{e.w.gate, e.w.up, e.x, e.experts, e.weights, e.rows, e.used, e.limit, e.hidden, e.w.down,
                     e.choice != nullptr, e.choice != nullptr ? *e.choice : RouteChoice{}};
  with_fragment(e.w.gate.type, [&](auto f) { gated<decltype(f)>(routed, stream); });
  const Gated shared{e.w.shared_gate, e.w.shared_up, e.x, nullptr, nullptr, e.rows, e.used, e.shared_limit, e.shared_hidden, {},
                     false, {}};
  with_fragment(e.w.shared_gate.type, [&](auto f) { gated<decltype(f)>(shared, beside); });

  const Down down{e.w.down, e.hidden, e.experts, e.rows * e.used, e.pair_out};
  constexpr int parts = 2;  // whatever the number of jobs: the order of a sum does not depend on the other rows
  const int tiles_here = kWarps / parts;
  const dim3 grid(static_cast<unsigned>((e.w.down.row_tiles() + tiles_here - 1) / tiles_here), static_cast<unsigned>(down.jobs));
  with_fragment(e.w.down.type, [&](auto f) {
    allow_shared<down_kernel<decltype(f)>>();
    launch(down_kernel<decltype(f)>, grid, kWarps * 32, static_cast<std::size_t>(down.m.in) * sizeof(__half), stream, down, parts);
  });
  half_product({.m = e.w.shared_down, .outs = e.w.shared_down.out, .rows = e.rows, .x_stride = e.w.shared_down.in, .y = e.y,
                .y_stride = e.w.shared_down.out},
               e.shared_hidden, beside);
}

}  // namespace ds4::cuda
