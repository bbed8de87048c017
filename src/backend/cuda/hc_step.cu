// Sums and mixing of few rows as one kernel: a cluster a row, whose blocks have a slice of the columns each and add up
// each other's sums. Weights are on their way before the streams are there.
#include <cooperative_groups.h>

#include <utility>

#include "backend/cuda/async_copy.cuh"
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/hyper_connection.cuh"
#include "backend/cuda/hyper_connection.h"
#include "backend/cuda/launch.cuh"

namespace ds4::cuda {

namespace {

constexpr int kStreams = 4;
constexpr int kControls = (2 + kStreams) * kStreams;
constexpr int kPairs = kStreams * (kStreams + 1) / 2;
constexpr int kCount = kControls + kPairs;
constexpr int kWarps = 8;
[[maybe_unused]] constexpr int kEach = kControls / kWarps;  // controls of a warp
constexpr int kMaxSlice = 512;
constexpr int kMostUsed = 8;  // experts of a row

struct Sums {
  float quarter[4][64];
  float m[kCount];
  float pre[kStreams];
  float norm;
};

/// Columns of a block: whole pieces of 16 bytes of weights.
[[maybe_unused]] __device__ inline int slice_of(int hidden) {
  return (hidden + 8 * kHcStepBlocks - 1) / (8 * kHcStepBlocks) * 8;
}

/// Eight weights times eight values.
[[maybe_unused]] __device__ inline float dot(const uint4& weights, const float4 (&x)[2]) {
  const float2 w0 = __half22float2(as_half2(weights.x));
  const float2 w1 = __half22float2(as_half2(weights.y));
  const float2 w2 = __half22float2(as_half2(weights.z));
  const float2 w3 = __half22float2(as_half2(weights.w));
  return w0.x * x[0].x + w0.y * x[0].y + w1.x * x[0].z + w1.y * x[0].w + w2.x * x[1].x + w2.y * x[1].y + w3.x * x[1].z +
         w3.y * x[1].w;
}

/// Between them the blocks of a cluster have all columns of a row. What runs once a step comes from far away: little
/// code, and every load that depends on no other before the first wait for one.
__global__ void __launch_bounds__(kWarps * 32, 1) step_kernel(const HcSums s, const HcMix p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  namespace cg = cooperative_groups;
  __shared__ __align__(16) float v[kStreams * kMaxSlice];  // [kStreams][slice]
  __shared__ float parts[kMostUsed][kMaxSlice];            // the experts' outputs
  __shared__ float totals[kCount];
  __shared__ float post[kStreams];
  __shared__ float comb[kStreams * kStreams];
  __shared__ int order[kMostUsed];
  __shared__ Sums sums;
  const cg::cluster_group cluster = cg::this_cluster();
  const int row = blockIdx.x / kHcStepBlocks;
  const int part = blockIdx.x % kHcStepBlocks;
  const int slice = slice_of(s.hidden);
  const int first = part * slice;
  const int columns = max(0, min(slice, s.hidden - first));
  const int thread = threadIdx.x;
  const int warp = thread / 32;
  const int lane = thread % 32;
  const std::int64_t weights_stride = std::int64_t{2} * kStreams * s.hidden;
  const std::byte* weights = s.fn.row(0, warp) + 2 * (first + lane * 8);
  uint4 ahead[kEach][kStreams];  // 256 columns
  const auto fetch_weights = [&] {
#pragma unroll
    for (int i = 0; i < kEach; ++i)
#pragma unroll
      for (int k = 0; k < kStreams; ++k)
        ahead[i][k] = __ldcs(reinterpret_cast<const uint4*>(weights + i * kWarps * weights_stride + 2 * k * s.hidden));
    weights += 2 * 256;
  };
  if (lane * 8 < columns) fetch_weights();
  const float base = lane < kStreams ? p.base[lane] : 0.0F;
  const float scale = p.scale[0];
  float norm_weight = p.norm_weight != nullptr && thread < columns ? p.norm_weight[first + thread] : 1.0F;
  wait_for_previous();
  const bool mixes = s.post.o != nullptr;
  const int used = s.post.experts.out == nullptr ? 0 : s.post.experts.used;
#pragma unroll 1
  for (int j = 0; j < used; ++j) {
    const float* from = s.post.experts.out + (static_cast<std::int64_t>(row) * used + j) * s.hidden + first;
#pragma unroll 1
    for (int c = thread; c < columns; c += kWarps * 32) copy_async<4>(shared_at(&parts[j][c]), from + c, 4);
  }
  commit_async();
  float* streams = s.streams + static_cast<std::int64_t>(row) * kStreams * s.hidden + first;
  float x[kStreams];
  float o = 0;
  const auto fetch_column = [&](int c) {
#pragma unroll
    for (int k = 0; k < kStreams; ++k) x[k] = streams[static_cast<std::int64_t>(k) * s.hidden + c];
    if (mixes) o = s.post.o[static_cast<std::int64_t>(row) * s.hidden + first + c];
  };
  if (thread < columns) fetch_column(thread);
  if (mixes && thread < kStreams * kStreams) comb[thread] = s.post.comb[row * kStreams * kStreams + thread];
  if (mixes && thread < kStreams) post[thread] = s.post.post[row * kStreams + thread];
  if (used > 0 && warp == kWarps - 1) order_experts_of_one(s.post.experts, row, order);
  wait_async<0>();
  __syncthreads();
#pragma unroll 1
  for (int c = thread; c < columns;) {
    if (mixes) {
#pragma unroll 1
      for (int j = 0; j < used; ++j) o += parts[order[j] - row * used][c];
      mix_column(x, o, post, comb, kStreams);
#pragma unroll
      for (int k = 0; k < kStreams; ++k) streams[static_cast<std::int64_t>(k) * s.hidden + c] = x[k];
    }
#pragma unroll
    for (int k = 0; k < kStreams; ++k) v[k * slice + c] = x[k];
    c += kWarps * 32;
    if (c < columns) fetch_column(c);
  }
  __syncthreads();
  float sum[kEach] = {};
#pragma unroll 1
  for (int c = lane * 8; c < columns;) {
#pragma unroll
    for (int k = 0; k < kStreams; ++k) {
      const auto* at = reinterpret_cast<const float4*>(v + k * slice + c);
      const float4 own[2] = {at[0], at[1]};
#pragma unroll
      for (int i = 0; i < kEach; ++i) sum[i] += dot(ahead[i][k], own);
    }
    c += 256;
    if (c < columns) fetch_weights();
  }
  const auto leave = [&](int own, float value) {
    const float total = warp_sum(value);
    if (lane != 0) return;
    totals[own] = total;
    s.sums[(static_cast<std::int64_t>(row) * kHcStepBlocks + part) * kMaxHcSums + own] = total;  // for hc_controls()
  };
#pragma unroll
  for (int i = 0; i < kEach; ++i) leave(warp + i * kWarps, sum[i]);
#pragma unroll 1
  for (int own = warp; own < kPairs; own += kWarps) {
    int a = 0;
    int b = own;  // pairs (0,0) (0,1) .. (0,3) (1,1) ..
#pragma unroll 1
    while (b >= kStreams - a) b -= kStreams - a, ++a;
    b += a;
    float product = 0;
#pragma unroll 1
    for (int c = lane * 4; c < columns; c += 128) {
      const float4 left = *reinterpret_cast<const float4*>(v + a * slice + c);
      const float4 right = *reinterpret_cast<const float4*>(v + b * slice + c);
      product += left.x * right.x + left.y * right.y + left.z * right.z + left.w * right.w;
    }
    leave(kControls + own, product);
  }
  cluster.sync();
  {  // everybody adds up everybody's, in the same order
    const int own = threadIdx.x % 64;
    const int quarter = threadIdx.x / 64;
    float total = 0;
    if (own < kCount) {
#pragma unroll
      for (int i = 0; i < kHcStepBlocks / 4; ++i)
        total += *cluster.map_shared_rank(totals + own, quarter * (kHcStepBlocks / 4) + i);
    }
    sums.quarter[quarter][own] = total;
  }
  auto read = cluster.barrier_arrive();
  __syncthreads();
  if (threadIdx.x < kCount)
    sums.m[threadIdx.x] = sums.quarter[0][threadIdx.x] + sums.quarter[1][threadIdx.x] + sums.quarter[2][threadIdx.x] +
                          sums.quarter[3][threadIdx.x];
  __syncthreads();
  if (warp == 0) {
    const float* gram = sums.m + kControls;
    float squares = 0;
    for (int a = 0, at = 0; a < kStreams; at += kStreams - a, ++a) squares += gram[at];
    const float factor = rsqrtf(squares / static_cast<float>(kStreams * p.hidden) + p.rms_eps);
    if (lane < kStreams) sums.pre[lane] = sigmoid(sums.m[lane] * factor * scale + base) + p.hc_eps;
    __syncwarp();
    if (lane == 0) {  // |y|^2 from the products of the streams
      float y2 = 0;
      for (int a = 0, at = 0; a < kStreams; ++a)
        for (int b = a; b < kStreams; ++b, ++at) y2 += (a == b ? 1.0F : 2.0F) * sums.pre[a] * sums.pre[b] * gram[at];
      sums.norm = rsqrtf(fmaxf(y2, 0.0F) / static_cast<float>(p.hidden) + p.rms_eps);
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int c = thread; c < columns; c += kWarps * 32) {
    float y = 0;
#pragma unroll
    for (int k = 0; k < kStreams; ++k) y += sums.pre[k] * v[k * slice + c];
    if (p.norm_weight != nullptr) {
      if (c != thread) norm_weight = p.norm_weight[first + c];
      y = y * sums.norm * norm_weight;
    }
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
  return cluster_blocks >= kHcStepBlocks && p.rows <= kHcStepRows && p.streams_count == kStreams &&
         p.controls == kControls && p.fn.type == DType::kF16 && reinterpret_cast<std::uintptr_t>(p.fn.data) % 16 == 0 &&
         p.hidden % 8 == 0 && p.hidden <= kMaxSlice * kHcStepBlocks && p.source_row == nullptr &&
         p.post.experts.used <= kMostUsed && p.post.experts.place == nullptr;
}

void hc_step(const HcSums& sums, const HcMix& mix, cudaStream_t stream) {
  launch_cluster(step_kernel, dim3(static_cast<unsigned>(sums.rows * kHcStepBlocks)), kWarps * 32, kHcStepBlocks, 0,
                 stream, sums, mix);
}

}  // namespace ds4::cuda
