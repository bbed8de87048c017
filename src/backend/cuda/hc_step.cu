// Sums and mixing of few rows as one kernel: a cluster a row, whose blocks have a slice of the columns each and add up
// each other's sums. Weights are on their way before the streams are there.
#include <cooperative_groups.h>

#include <utility>

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/hyper_connection.h"
#include "backend/cuda/hyper_connection.cuh"
#include "backend/cuda/launch.cuh"

namespace ds4::cuda {

namespace {

constexpr int kStreams = 4;
constexpr int kWarps = 8;
constexpr int kEach = (kMaxHcSums + kWarps - 1) / kWarps;  // sums of a warp
constexpr int kMaxSlice = 512;
constexpr int kTurns = 4;                                  // of 64 columns, whose weights are asked for early

struct Sums {
  float quarter[4][64];
  float m[kMaxHcSums];
  float pre[kStreams];
  float norm;
};

/// Between them the blocks of a cluster have all columns of a row.
__global__ void __launch_bounds__(kWarps * 32, 1) step_kernel(const HcSums s, const HcMix p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  namespace cg = cooperative_groups;
  __shared__ float v[kStreams * kMaxSlice];  // [kStreams][slice]
  __shared__ float totals[kMaxHcSums];
  __shared__ int order[kMaxUsed];
  __shared__ Sums sums;
  const cg::cluster_group cluster = cg::this_cluster();
  const int row = blockIdx.x / kHcStepBlocks;
  const int part = blockIdx.x % kHcStepBlocks;
  const int slice = (s.hidden + 2 * kHcStepBlocks - 1) / (2 * kHcStepBlocks) * 2;
  const int first = part * slice;
  const int columns = max(0, min(slice, s.hidden - first));
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int count = s.controls + kStreams * (kStreams + 1) / 2;
  const auto weight = [&](int sum, int k, int c) {
    return __ldcs(reinterpret_cast<const __half2*>(s.fn.row(0, sum) + 2 * (static_cast<std::int64_t>(k) * s.hidden + first + c)));
  };
  __half2 ahead[kEach][kStreams][kTurns];
#pragma unroll
  for (int i = 0; i < kEach; ++i)
#pragma unroll
    for (int k = 0; k < kStreams; ++k)
#pragma unroll
      for (int t = 0; t < kTurns; ++t) {
        const int c = t * 64 + lane * 2;
        ahead[i][k][t] = warp + i * kWarps < s.controls && c < columns ? weight(warp + i * kWarps, k, c) : __half2{};
      }
  wait_for_previous();
  if (s.post.experts.out != nullptr) {
    if (warp == 0) order_experts_of_one(s.post.experts, row, order);
    __syncthreads();
  }
  for (int c = threadIdx.x; c < columns; c += kWarps * 32) {
    float* streams = s.streams + static_cast<std::int64_t>(row) * kStreams * s.hidden + first + c;
    float x[kMaxStreams];
#pragma unroll
    for (int k = 0; k < kStreams; ++k) x[k] = streams[static_cast<std::int64_t>(k) * s.hidden];
    if (s.post.o != nullptr) {
      float o = s.post.o[static_cast<std::int64_t>(row) * s.hidden + first + c];
      for (int j = 0; j < s.post.experts.used; ++j)
        o += s.post.experts.out[static_cast<std::int64_t>(order[j]) * s.hidden + first + c];
      mix_column(x, o, s.post.post + row * kStreams, s.post.comb + row * kStreams * kStreams, kStreams);
#pragma unroll
      for (int k = 0; k < kStreams; ++k) streams[static_cast<std::int64_t>(k) * s.hidden] = x[k];
    }
#pragma unroll
    for (int k = 0; k < kStreams; ++k) v[k * slice + c] = x[k];
  }
  __syncthreads();
  float sum[kEach] = {};
  const auto add = [&](int t, int c, bool early) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int own = warp + i * kWarps;
      if (own < s.controls) {
#pragma unroll
        for (int k = 0; k < kStreams; ++k) {
          const float2 w = __half22float2(early ? ahead[i][k][t] : weight(own, k, c));
          const float2 x = *reinterpret_cast<const float2*>(v + k * slice + c);
          sum[i] += w.x * x.x + w.y * x.y;
        }
      } else if (own < count) {
        int a = 0;
        int b = own - s.controls;  // pairs (0,0) (0,1) .. (0,3) (1,1) ..
        while (b >= kStreams - a) b -= kStreams - a, ++a;
        b += a;
        const float2 x = *reinterpret_cast<const float2*>(v + a * slice + c);
        const float2 y = *reinterpret_cast<const float2*>(v + b * slice + c);
        sum[i] += x.x * y.x + x.y * y.y;
      }
    }
  };
#pragma unroll
  for (int t = 0; t < kTurns; ++t)
    if (t * 64 + lane * 2 < columns) add(t, t * 64 + lane * 2, true);
  for (int c = kTurns * 64 + lane * 2; c < columns; c += 64) add(0, c, false);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int own = warp + i * kWarps;
    const float total = warp_sum(sum[i]);
    if (lane == 0 && own < count) {
      totals[own] = total;
      s.sums[(static_cast<std::int64_t>(row) * kHcStepBlocks + part) * kMaxHcSums + own] = total;  // for hc_controls()
    }
  }
  cluster.sync();
  {  // everybody adds up everybody's, in the same order
    const int own = threadIdx.x % 64;
    const int quarter = threadIdx.x / 64;
    float total = 0;
    if (own < count) {
#pragma unroll
      for (int i = 0; i < kHcStepBlocks / 4; ++i)
        total += *cluster.map_shared_rank(totals + own, quarter * (kHcStepBlocks / 4) + i);
    }
    sums.quarter[quarter][own] = total;
  }
  auto read = cluster.barrier_arrive();
  __syncthreads();
  if (threadIdx.x < count)
    sums.m[threadIdx.x] = sums.quarter[0][threadIdx.x] + sums.quarter[1][threadIdx.x] + sums.quarter[2][threadIdx.x] +
                          sums.quarter[3][threadIdx.x];
  __syncthreads();
  if (warp == 0) {
    const float* gram = sums.m + s.controls;
    float squares = 0;
    for (int a = 0, at = 0; a < kStreams; at += kStreams - a, ++a) squares += gram[at];
    const float factor = rsqrtf(squares / static_cast<float>(kStreams * p.hidden) + p.rms_eps);
    if (lane < kStreams) sums.pre[lane] = sigmoid(sums.m[lane] * factor * p.scale[0] + p.base[lane]) + p.hc_eps;
    __syncwarp();
    if (lane == 0) {  // |y|^2 from the products of the streams
      float y2 = 0;
      for (int a = 0, at = 0; a < kStreams; ++a)
        for (int b = a; b < kStreams; ++b, ++at) y2 += (a == b ? 1.0F : 2.0F) * sums.pre[a] * sums.pre[b] * gram[at];
      sums.norm = rsqrtf(fmaxf(y2, 0.0F) / static_cast<float>(p.hidden) + p.rms_eps);
    }
  }
  __syncthreads();
  for (int c = threadIdx.x; c < columns; c += kWarps * 32) {
    float y = 0;
#pragma unroll
    for (int k = 0; k < kStreams; ++k) y += sums.pre[k] * v[k * slice + c];
    if (p.norm_weight != nullptr) y = y * sums.norm * p.norm_weight[first + c];
    const std::int64_t at = static_cast<std::int64_t>(row) * p.hidden + first + c;
    p.y[at] = y;
    if (p.y_half == nullptr) continue;
    const __half high = to_half(y);
    p.y_half[at] = high;
    if (p.y_low != nullptr) p.y_low[at] = to_half((y - __half2float(high)) * kLowScale);
  }
  cluster.barrier_wait(std::move(read));  // nobody reads this block's sums any more
#endif
}

}  // namespace

bool hc_step_fits(const HcSums& p) {
  return early_launch && p.rows <= kHcStepRows && p.streams_count == kStreams && p.fn.type == DType::kF16 && p.hidden % 2 == 0 &&
         p.source_row == nullptr && p.hidden <= kMaxSlice * kHcStepBlocks;
}

void hc_step(const HcSums& sums, const HcMix& mix, cudaStream_t stream) {
  if (kHcStepBlocks > 8) cudaFuncSetAttribute(step_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  launch_cluster(step_kernel, dim3(static_cast<unsigned>(sums.rows * kHcStepBlocks)), kWarps * 32, kHcStepBlocks, stream,
                 sums, mix);
}

}  // namespace ds4::cuda
