// The experts of up to kFewRows rows (§2.9): routed and shared ones as products of their own, which run side by side.
#include <algorithm>

#include "backend/cuda/choose.cuh"
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/few_rows.cuh"
#include "backend/cuda/products.h"

namespace ds4::cuda {

namespace {

/// (row, expert) pairs of one expert that share a block, and so its weights.
constexpr int kPairsTogether = 4;

/// One family of experts: all routed ones, or the shared one.
struct Gated {
  Matrix gate, up;
  const __half* x;                        // [rows, d]
  const std::int32_t* experts = nullptr;  // [rows * used]; null: the shared one, for all rows at once
  const float* weights = nullptr;
  int rows;
  int used;
  int together;  // pairs of one expert that share a block; 1: they do not
  float limit;
  __half* hidden;        // [pair][ff]; shared: [row][ff]
  bool chooses = false;  // `choice` is still to be made, by every block for its row
  RouteChoice choice = {};
  Product route = {};  // shared: what the first blocks compute
  int route_blocks = 0;
};

/// Formats of few bytes a tile need many warps on a multiprocessor to hide what expanding them waits for.
template <typename F, int N>
inline constexpr int kCloseBlocks = N == 1 && F::kTileBytes < 800 ? 3 : 1;
/// The shared expert's blocks leave room for those of the routed ones, which come while they run. Formats of 4 bits
/// need more registers than a third of them.
template <typename F, int N>
inline constexpr int kBlocksBeside = N > 1                                         ? 1
                                     : F::kTileBytes > 800 && F::kTileBytes < 2000 ? 2
                                                                                   : 3;

/// Shared memory for the rows of the shared expert: beside a block's own, every card has as much.
constexpr std::size_t kNearBytes = 58 * 1024;
std::size_t near_bytes(std::int64_t rows, std::int64_t columns) {
  return static_cast<std::size_t>(rows * (columns + kPad)) * sizeof(__half);
}

/// By one warp: pair `first` and the next ones of the same expert, up to `together` of `jobs` in all, to `pairs`.
/// Returns how many; 0 when an earlier pair has taken `first` along.
__device__ inline int gather_pairs(const std::int32_t* experts, int jobs, int first, int together,
                                   std::int32_t* pairs) {
  if (together == 1) {
    if (threadIdx.x % 32 == 0) pairs[0] = first;
    __syncwarp();
    return 1;
  }
  const int lane = threadIdx.x % 32;
  const std::int32_t expert = experts[first];
  int before = 0;
  int found = 0;
  for (int base = 0; base < jobs; base += 32) {
    const int pair = base + lane;
    const bool same = pair < jobs && experts[pair] == expert;
    before += __popc(__ballot_sync(~0u, same && pair < first));
    const unsigned own = __ballot_sync(~0u, same && pair >= first);
    const int place = found + __popc(own & ((1u << lane) - 1));
    if (same && pair >= first && place < together) pairs[place] = pair;
    found += __popc(own);
  }
  __syncwarp();
  return before % together != 0 ? 0 : min(found, together);
}

/// Block (rows of tiles, job): `parts` warps share the columns of a row of tiles of gate, the next ones those of up,
/// and so on. A routed job is a pair and the others that it takes along; their rows of x lie in shared memory.
template <typename F, int N, bool kRouted>
__global__ void __launch_bounds__(kWarps * 32, kRouted ? kCloseBlocks<F, N> : (kBlocksBeside<F, N>))
    gated_kernel(Gated p, int parts) {
  extern __shared__ __align__(16) __half near_x[];
  __shared__ uint4 table[kOctetEntries<F>];
  __shared__ float sums[kWarps][N * 8][16];
  __shared__ std::int32_t chosen[kMaxUsed];
  __shared__ float chosen_weights[kMaxUsed];
  __shared__ std::int32_t pairs[kPairsTogether];
  __shared__ int pair_count;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int slot = over(warp, parts);
  const int tiles_here = over(kWarps, 2 * parts);
  const int job = blockIdx.y;
  if constexpr (!kRouted && N == 1) {
    if (static_cast<int>(blockIdx.x) < p.route_blocks) {
      few_rows_block<FragmentF16, 1, From::kStaged>(p.route, p.x, kWarps, blockIdx.x, 0, SharedOctets{}, sums,
                                                    reinterpret_cast<std::byte*>(near_x));
      return;
    }
  }
  const Matrix& m = slot % 2 == 0 ? p.gate : p.up;
  const std::int64_t first_tile =
      static_cast<std::int64_t>(static_cast<int>(blockIdx.x) - (kRouted ? 0 : p.route_blocks)) * tiles_here;
  const std::int64_t tile = min(first_tile + slot / 2, p.gate.row_tiles() - 1);
  const ColumnShare share{within(warp, parts), parts, static_cast<int>(m.column_tiles())};
  int rows = p.rows;
  load_octets(table, m);
  float sum[N][4] = {};
  if constexpr (kRouted) {
    const int pitch = static_cast<int>(m.in) + kPad;
    const ChoiceSpace choice_space(reinterpret_cast<float*>(near_x + p.together * pitch), p.choice.experts);
    if (p.chooses) begin_choice(p.choice, choice_space, threadIdx.x, kWarps * 32);
    wait_for_previous();  // the choice of experts, or the router's logits, are the previous kernel's
    const int slot_of_row = job % p.used;
    if (p.chooses) {  // pairs are alone: what is to be staged is known before
      const int row = job / p.used;
      score_row(p.choice, row, choice_space, threadIdx.x, kWarps * 32);
      stage_row(near_x, p.x + row * m.in, m.in);
      __syncthreads();
      if (warp == 0) {
        choose_scored(p.choice, row, choice_space, chosen, chosen_weights);
        if (blockIdx.x == 0 && slot_of_row == 0 && lane < p.used) {
          p.choice.chosen[row * p.used + lane] = chosen[lane];
          p.choice.weights[row * p.used + lane] = chosen_weights[lane];
        }
        if (lane == 0) pairs[0] = job;
      }
      __syncthreads();
      rows = 1;
    } else {
      if (warp == 0) {
        const int count = gather_pairs(p.experts, p.rows * p.used, job, p.together, pairs);
        if (lane == 0) pair_count = count;
      }
      __syncthreads();
      rows = pair_count;
      if (rows == 0) return;
    }
    const std::int32_t expert = p.chooses ? chosen[slot_of_row] : p.experts[job];
    const auto stage = [&] {
      if (p.chooses) return;
      for (int i = 0; i < rows; ++i) stage_row(near_x + i * pitch, p.x + pairs[i] / p.used * m.in, m.in);
      __syncthreads();
    };
    RowsNear source(near_x, pitch, rows, share, stage);
    accumulate<F, N>(m, m.tile(expert, tile), share, source, octets_of(table), sum);
  } else if constexpr (N == 1) {
    const int pitch = static_cast<int>(m.in) + kPad;
    const auto stage = [&] {
      wait_for_previous();
      stage_rows(near_x, pitch, p.x, m.in, rows, m.in);
    };
    RowsNear source(near_x, pitch, rows, share, stage);
    accumulate<F, N>(m, m.tile(0, tile), share, source, octets_of(table), sum);
  } else {
    RowsFromMemory<N> source(p.x, m.in, rows, share);
    accumulate<F, N>(m, m.tile(0, tile), share, source, octets_of(table), sum);
  }
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[warp][n * 8 + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = sum[n][i];
  __syncthreads();
  for (int i = threadIdx.x; i < tiles_here * rows * 16; i += blockDim.x) {
    const int row = over(i, tiles_here * 16);
    const int t = within(i / 16, tiles_here);
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
    float weight = 1.0F;
    if constexpr (kRouted) weight = p.chooses ? chosen_weights[job % p.used] : p.weights[pairs[row]];
    const float h = g * sigmoid(g) * u * weight;
    p.hidden[(kRouted ? pairs[row] : row) * p.gate.out + o] = to_half(h);
  }
}

template <typename F>
void gated(const Gated& p, cudaStream_t stream) {
  const bool routed = p.experts != nullptr;
  const int jobs = routed ? p.rows * p.used : 1;
  const std::int64_t tiles = p.gate.row_tiles();
  int parts = 1;
  while (parts < kWarps / 2 && tiles * jobs * parts * 4 <= 4096 && p.gate.column_tiles() >= 2 * parts) parts *= 2;
  const int tiles_here = kWarps / (2 * parts);
  const dim3 grid(static_cast<unsigned>((tiles + tiles_here - 1) / tiles_here + p.route_blocks),
                  static_cast<unsigned>(jobs));
  const auto start = [&](auto* kernel, std::size_t shared) {
    allow_shared(kernel, shared);
    launch(kernel, grid, kWarps * 32, shared, stream, p, parts);
  };
  if (routed) {
    start(gated_kernel<F, 1, true>, near_bytes(p.together, p.gate.in) +
                                        static_cast<std::size_t>(p.chooses ? p.choice.experts : 0) * 2 * sizeof(float));
  } else if (near_bytes(p.rows, p.gate.in) <= kNearBytes && p.rows <= 8) {
    start(gated_kernel<F, 1, false>, near_bytes(p.route_blocks > 0 ? p.route.rows : p.rows, p.gate.in));
  } else {
    start(gated_kernel<F, 2, false>, 0);
  }
}

struct Down {
  Matrix m;
  const __half* hidden;         // [pair, ff]
  const std::int32_t* experts;  // [pairs]
  int jobs;
  int together;
  float* out;  // [pair, d]
};

/// `parts` warps share the columns of a row of tiles of a job, as in gated_kernel.
template <typename F>
__global__ void __launch_bounds__(kWarps * 32, kCloseBlocks<F, 1>) down_kernel(Down p, int parts) {
  extern __shared__ __align__(16) __half near_x[];
  __shared__ uint4 table[kOctetEntries<F>];
  __shared__ float sums[kWarps][8][16];
  __shared__ std::int32_t pairs[kPairsTogether];
  __shared__ int pair_count;
  load_octets(table, p.m);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int job = blockIdx.y;
  const int tiles_here = over(kWarps, parts);
  const std::int64_t first_tile = static_cast<std::int64_t>(blockIdx.x) * tiles_here;
  const std::int64_t tile = min(first_tile + over(warp, parts), p.m.row_tiles() - 1);
  const ColumnShare share{within(warp, parts), parts, static_cast<int>(p.m.column_tiles())};
  const int pitch = static_cast<int>(p.m.in) + kPad;
  wait_for_previous();
  if (warp == 0) {
    const int count = gather_pairs(p.experts, p.jobs, job, p.together, pairs);
    if (lane == 0) pair_count = count;
  }
  __syncthreads();
  const int rows = pair_count;
  if (rows == 0) return;
  const auto stage = [&] {
    for (int i = 0; i < rows; ++i) stage_row(near_x + i * pitch, p.hidden + pairs[i] * p.m.in, p.m.in);
    __syncthreads();
  };
  float sum[1][4] = {};
  RowsNear source(near_x, pitch, rows, share, stage);
  accumulate<F, 1>(p.m, p.m.tile(p.experts[job], tile), share, source, octets_of(table), sum);
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[warp][lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = sum[0][i];
  __syncthreads();
  for (int i = threadIdx.x; i < tiles_here * rows * 16; i += blockDim.x) {
    const int row = over(i, tiles_here * 16);
    const int t = within(i / 16, tiles_here);
    const std::int64_t o = (first_tile + t) * 16 + i % 16;
    if (o >= p.m.out) continue;
    float v = 0;
    for (int part = 0; part < parts; ++part) v += sums[t * parts + part][row][i % 16];
    p.out[pairs[row] * p.m.out + o] = v / p.m.pre;
  }
}

}  // namespace

bool routes_beside_shared(const Product& route) {
  return route.rows <= 8 && route.m.type == DType::kF16 && near_bytes(route.rows, route.m.in) <= kNearBytes;
}

void shared_gated(const FewExperts& e, const Product* route, cudaStream_t stream) {
  Gated shared{.gate = e.w.shared_gate,
               .up = e.w.shared_up,
               .x = e.x,
               .rows = e.rows,
               .used = e.used,
               .together = 1,
               .limit = e.shared_limit,
               .hidden = e.shared_hidden};
  if (route != nullptr) {
    shared.route = *route;
    shared.route_blocks = static_cast<int>(row_tiles(*route));
  }
  with_fragment(e.w.shared_gate.type, [&](auto f) { gated<decltype(f)>(shared, stream); });
}

void shared_down(const FewExperts& e, cudaStream_t stream) {
  half_product({.m = e.w.shared_down,
                .outs = e.w.shared_down.out,
                .rows = e.rows,
                .x_stride = e.w.shared_down.in,
                .y = e.y,
                .y_stride = e.w.shared_down.out},
               e.shared_hidden, stream);
}

void routed_experts(const FewExperts& e, cudaStream_t stream) {
  const int jobs = e.rows * e.used;
  const int together = e.choice != nullptr ? 1 : std::min(e.rows, kPairsTogether);
  Gated routed{.gate = e.w.gate,
               .up = e.w.up,
               .x = e.x,
               .experts = e.experts,
               .weights = e.weights,
               .rows = e.rows,
               .used = e.used,
               .together = together,
               .limit = e.limit,
               .hidden = e.hidden};
  routed.chooses = e.choice != nullptr;
  if (routed.chooses) routed.choice = *e.choice;
  with_fragment(e.w.gate.type, [&](auto f) { gated<decltype(f)>(routed, stream); });

  const Down down{e.w.down, e.hidden, e.experts, jobs, together, e.pair_out};
  const int parts = jobs > 32 ? 1 : 2;  // with many jobs every warp has longer rows, with few there are more warps
  const int tiles_here = kWarps / parts;
  const dim3 grid(static_cast<unsigned>((e.w.down.row_tiles() + tiles_here - 1) / tiles_here),
                  static_cast<unsigned>(jobs));
  const std::size_t near = near_bytes(together, down.m.in);
  with_fragment(e.w.down.type, [&](auto f) {
    allow_shared(down_kernel<decltype(f)>, near);
    launch(down_kernel<decltype(f)>, grid, kWarps * 32, near, stream, down, parts);
  });
}

}  // namespace ds4::cuda
