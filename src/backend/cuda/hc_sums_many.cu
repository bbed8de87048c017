// hc_sums of many rows: a warp takes eight rows, reads their streams once, mixes the last sub-layer's output into them,
// and multiplies with the controls' weights on the tensor cores. The streams count as two TF32 terms (22 bits), the
// weights (f16) are exact in one, so that the sums keep what FP32 gives (§2.2).
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/hyper_connection.h"

namespace ds4::cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kRows = 8 * kWarps;  // of a block
constexpr int kStreams = 4;
constexpr int kControlTiles = 2;  // of 16 controls
constexpr int kPairs = kStreams * (kStreams + 1) / 2;

__device__ inline void mma_tf32(float (&d)[4], const float (&a)[4], float b0, float b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

/// What TF32 keeps of a float.
__device__ inline float tf32(float v) { return __uint_as_float(__float_as_uint(v) & 0xffffe000u); }

__device__ inline float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

/// Block (64 rows, slice of columns). Lane (g, t): row g of the warp's, columns 4 t .. 4 t + 3 of every 16.
__global__ void __launch_bounds__(kWarps * 32, 2) many_sums_kernel(const HcSums p) {
  __shared__ int order[kRows][kMaxUsed];
  const int lane = threadIdx.x % 32;
  const int t = lane % 4;
  const int in_block = threadIdx.x / 32 * 8 + lane / 4;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const bool mixes = p.post.o != nullptr;
  const int used = p.post.experts.out == nullptr ? 0 : p.post.experts.used;
  if (used != 0) {
    if (threadIdx.x < kRows)  // rows that are not there read as the first one
      order_experts(p.post.experts, first_row + threadIdx.x < p.rows ? first_row + threadIdx.x : 0, order[threadIdx.x]);
    __syncthreads();
  }
  const bool present = first_row + in_block < p.rows;
  const std::int64_t row = present ? first_row + in_block : 0;
  const std::int64_t source = p.source_row == nullptr ? row : p.source_row[row];
  float* streams = p.streams + source * kStreams * p.hidden;
  float post[kStreams] = {};
  float comb[kStreams][kStreams] = {};
  if (mixes) {
#pragma unroll
    for (int j = 0; j < kStreams; ++j) {
      post[j] = p.post.post[row * kStreams + j];
#pragma unroll
      for (int k = 0; k < kStreams; ++k) comb[j][k] = p.post.comb[(row * kStreams + j) * kStreams + k];
    }
  }
  float sum[kControlTiles][4] = {};
  float gram[kPairs] = {};
  const int groups = p.hidden / 16;
  const int slices = gridDim.y;
  const int first = groups * static_cast<int>(blockIdx.y) / slices;
  const int last = groups * (static_cast<int>(blockIdx.y) + 1) / slices;
  for (int group = first; group < last; ++group) {
    const int c = group * 16 + t * 4;
    float4 x[kStreams];
#pragma unroll
    for (int k = 0; k < kStreams; ++k)
      x[k] = *reinterpret_cast<const float4*>(streams + static_cast<std::int64_t>(k) * p.hidden + c);
    if (mixes) {
      float4 o = *reinterpret_cast<const float4*>(p.post.o + source * p.hidden + c);
#pragma unroll 6
      for (int i = 0; i < used; ++i)
        o = o + *reinterpret_cast<const float4*>(p.post.experts.out +
                                                 static_cast<std::int64_t>(order[in_block][i]) * p.hidden + c);
      float4 mixed[kStreams];
#pragma unroll
      for (int k = 0; k < kStreams; ++k) {
        mixed[k] = {post[k] * o.x, post[k] * o.y, post[k] * o.z, post[k] * o.w};
#pragma unroll
        for (int j = 0; j < kStreams; ++j) {
          mixed[k].x += comb[j][k] * x[j].x;
          mixed[k].y += comb[j][k] * x[j].y;
          mixed[k].z += comb[j][k] * x[j].z;
          mixed[k].w += comb[j][k] * x[j].w;
        }
      }
#pragma unroll
      for (int k = 0; k < kStreams; ++k) {
        x[k] = mixed[k];
        if (present) *reinterpret_cast<float4*>(streams + static_cast<std::int64_t>(k) * p.hidden + c) = x[k];
      }
    }
    int at = 0;
#pragma unroll
    for (int a = 0; a < kStreams; ++a)
#pragma unroll
      for (int b = a; b < kStreams; ++b, ++at)
        gram[at] += x[a].x * x[b].x + x[a].y * x[b].y + x[a].z * x[b].z + x[a].w * x[b].w;
#pragma unroll
    for (int k = 0; k < kStreams; ++k) {
      // Weights of controls g, g + 8, .. at the lane's columns.
      float2 w[2 * kControlTiles][2];
#pragma unroll
      for (int i = 0; i < 2 * kControlTiles; ++i) {
        const int control = i * 8 + lane / 4;
        uint2 four = make_uint2(0, 0);
        if (control < p.controls)
          four =
              *reinterpret_cast<const uint2*>(p.fn.row(0, control) + 2 * (static_cast<std::int64_t>(k) * p.hidden + c));
        w[i][0] = __half22float2(*reinterpret_cast<const __half2*>(&four.x));
        w[i][1] = __half22float2(*reinterpret_cast<const __half2*>(&four.y));
      }
      const float4 high = {tf32(x[k].x), tf32(x[k].y), tf32(x[k].z), tf32(x[k].w)};
      const float4 low = {x[k].x - high.x, x[k].y - high.y, x[k].z - high.z, x[k].w - high.w};
#pragma unroll
      for (int i = 0; i < kControlTiles; ++i) {
        const float a[4] = {w[2 * i][0].x, w[2 * i + 1][0].x, w[2 * i][0].y, w[2 * i + 1][0].y};
        const float b[4] = {w[2 * i][1].x, w[2 * i + 1][1].x, w[2 * i][1].y, w[2 * i + 1][1].y};
        mma_tf32(sum[i], a, high.x, high.y);
        mma_tf32(sum[i], a, low.x, low.y);
        mma_tf32(sum[i], b, high.z, high.w);
        mma_tf32(sum[i], b, low.z, low.w);
      }
    }
  }
  const auto out = [&](std::int64_t r) { return p.sums + (r * slices + blockIdx.y) * kMaxHcSums; };
  // A lane holds the sums of rows 2 t and 2 t + 1 of the warp's.
#pragma unroll
  for (int i = 0; i < kControlTiles; ++i)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int control = i * 16 + e / 2 * 8 + lane / 4;
      const std::int64_t r = first_row + threadIdx.x / 32 * 8 + 2 * t + e % 2;
      if (control < p.controls && r < p.rows) out(r)[control] = sum[i][e];
    }
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    float v = gram[i];
    v += __shfl_xor_sync(~0u, v, 1);
    v += __shfl_xor_sync(~0u, v, 2);
    if (t == 0 && present) out(row)[p.controls + i] = v;
  }
}

}  // namespace

bool hc_sums_of_many(const HcSums& p, cudaStream_t stream) {
  if (p.rows < kManyHcRows || p.streams_count != kStreams || p.controls > 16 * kControlTiles || p.hidden % 16 != 0 ||
      p.fn.type != DType::kF16)
    return false;
  many_sums_kernel<<<dim3(static_cast<unsigned>((p.rows + kRows - 1) / kRows), kManyHcSlices), kWarps * 32, 0,
                     stream>>>(p);
  return true;
}

}  // namespace ds4::cuda
