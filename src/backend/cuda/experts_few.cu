// The experts of up to kFewRows rows (§2.9).
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/products.h"
#include "backend/cuda/stream_tiles.cuh"

namespace ds4::cuda {

namespace {

/// gate and up of one row of tiles, side by side, so that twice as many bytes are on their way.
template <typename F, int N>
__device__ void gate_and_up(const Matrix& gate, const Matrix& up, std::int64_t index, std::int64_t tile, int warp,
                            const __half* x, int rows, const uint2* table, float (&parts)[2][kWarps][kFewRows][16]) {
  const int lane = threadIdx.x % 32;
  float sum[2][N][4] = {};
  accumulate<F, N>(gate, gate.tile(index, tile), warp, static_cast<int>(gate.column_tiles()), kWarps, x, gate.in, rows, table,
                   sum[0]);
  accumulate<F, N>(up, up.tile(index, tile), warp, static_cast<int>(up.column_tiles()), kWarps, x, up.in, rows, table, sum[1]);
#pragma unroll
  for (int which = 0; which < 2; ++which)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) parts[which][warp][n * 8 + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = sum[which][n][i];
}

/// grid (row tiles, rows * used + 1): the last job is the shared expert for all rows.
__global__ void __launch_bounds__(kWarps * 32, 2) few_gate_up_kernel(FewExperts e) {
  __shared__ uint2 table[256];
  __shared__ float parts[2][kWarps][kFewRows][16];
  const int warp = threadIdx.x / 32;
  const int job = blockIdx.y;
  const bool routed = job < e.rows * e.used;
  const Matrix& gate = routed ? e.w.gate : e.w.shared_gate;
  const Matrix& up = routed ? e.w.up : e.w.shared_up;
  const std::int64_t tile = blockIdx.x;
  if (tile * 16 >= gate.out) return;
  if (gate.type == DType::kIQ2_XXS) load_iq2_selectors(table, gate.iq2->selectors);
  const int rows = routed ? 1 : e.rows;
  const std::int64_t index = routed ? e.experts[job] : 0;
  const __half* x = routed ? e.x + job / e.used * gate.in : e.x;
  with_fragment_on_device(gate.type, [&](auto fragment) {
    using F = decltype(fragment);
    if (rows <= 8) gate_and_up<F, 1>(gate, up, index, tile, warp, x, rows, table, parts);
    else gate_and_up<F, 2>(gate, up, index, tile, warp, x, rows, table, parts);
  });
  __syncthreads();
  const float limit = routed ? e.limit : e.shared_limit;
  for (int i = threadIdx.x; i < rows * 16; i += blockDim.x) {
    const int row = i / 16;
    float sums[2] = {0, 0};
#pragma unroll
    for (int which = 0; which < 2; ++which)
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sums[which] += parts[which][w][row][i % 16];
    const float g = fminf(sums[0] / gate.pre, limit);
    const float u = fminf(fmaxf(sums[1] / up.pre, -limit), limit);
    const std::int64_t o = tile * 16 + i % 16;
    if (o >= gate.out) continue;
    const float h = g * sigmoid(g) * u;
    if (routed) e.hidden[job * gate.out + o] = to_half(h * e.weights[job]);
    else e.shared_hidden[row * gate.out + o] = to_half(h);
  }
}

/// Where the sum over a row of tiles of `down` is cut: every expert into kExpertParts ranges of columns, the shared one
/// into twice as many. Each is a warp's.
constexpr int kExpertParts = 2;
constexpr int kSharedParts = 4;
constexpr int kDownWarps = 16;
constexpr int kMaxUnits = 64;

/// grid (row tiles of d, rows). Parts are added in ascending order of expert, the shared one last.
__global__ void __launch_bounds__(kDownWarps * 32, 1) few_down_kernel(FewExperts e) {
  __shared__ uint2 table[256];
  __shared__ float parts[kMaxUnits][16];
  if (e.w.down.type == DType::kIQ2_XXS || e.w.shared_down.type == DType::kIQ2_XXS)
    load_iq2_selectors(table, e.w.down.iq2->selectors);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const std::int64_t tile = blockIdx.x;
  const int row = blockIdx.y;
  const int routed_units = e.used * kExpertParts;
  for (int unit = warp; unit < routed_units + kSharedParts; unit += kDownWarps) {
    const bool routed = unit < routed_units;
    const Matrix& m = routed ? e.w.down : e.w.shared_down;
    const std::int64_t job = static_cast<std::int64_t>(row) * e.used + unit / kExpertParts;
    const std::int64_t index = routed ? e.experts[job] : 0;
    const __half* x = routed ? e.hidden + job * m.in : e.shared_hidden + row * m.in;
    const int first = routed ? unit % kExpertParts : unit - routed_units;
    const int step = routed ? kExpertParts : kSharedParts;
    with_fragment_on_device(m.type, [&](auto fragment) {
      float sum[1][4] = {};
      accumulate<decltype(fragment), 1>(m, m.tile(index, tile), first, static_cast<int>(m.column_tiles()), step, x, m.in, 1,
                                        table, sum);
      if (lane % 4 == 0) {
        parts[unit][lane / 4] = sum[0][0] / m.pre;
        parts[unit][lane / 4 + 8] = sum[0][2] / m.pre;
      }
    });
  }
  __syncthreads();
  if (threadIdx.x >= 16) return;
  const std::int64_t o = tile * 16 + threadIdx.x;
  if (o >= e.w.down.out) return;
  const std::int32_t* experts = e.experts + static_cast<std::int64_t>(row) * e.used;
  float v = 0;
  std::int32_t last = -1;
  for (int i = 0; i < e.used; ++i) {  // the next larger expert each time
    int best = -1;
    for (int j = 0; j < e.used; ++j)
      if (experts[j] > last && (best < 0 || experts[j] < experts[best])) best = j;
    if (best < 0) break;
    last = experts[best];
    for (int j = 0; j < e.used; ++j)  // a hash table may name an expert twice
      for (int part = 0; experts[j] == last && part < kExpertParts; ++part) v += parts[j * kExpertParts + part][threadIdx.x];
  }
  for (int part = 0; part < kSharedParts; ++part) v += parts[routed_units + part][threadIdx.x];
  e.y[static_cast<std::int64_t>(row) * e.w.down.out + o] = v;
}

}  // namespace

void few_experts(const FewExperts& e, cudaStream_t stream) {
  const std::int64_t widest = max(e.w.gate.out, e.w.shared_gate.out);
  const dim3 first(static_cast<unsigned>((widest + 15) / 16), static_cast<unsigned>(e.rows * e.used + 1));
  few_gate_up_kernel<<<first, kWarps * 32, 0, stream>>>(e);
  const dim3 second(static_cast<unsigned>((e.w.down.out + 15) / 16), static_cast<unsigned>(e.rows));
  few_down_kernel<<<second, kDownWarps * 32, 0, stream>>>(e);
}

}  // namespace ds4::cuda
