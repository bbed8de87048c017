// Small pieces of arithmetic that kernels share: sums over a warp or a block in a fixed order, rotation, conversion.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace ds4::cuda {

__device__ inline float warp_sum(float v) {
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}
__device__ inline float warp_max(float v) {
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, step));
  return v;
}

/// Sum over the block, to every thread. `space` holds 33 floats; blocks have whole warps.
__device__ inline float block_sum(float v, float* space) {
  v = warp_sum(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) space[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x < 32) {
    const float part = threadIdx.x < blockDim.x / 32 ? space[threadIdx.x] : 0.0F;
    const float sum = warp_sum(part);
    if (threadIdx.x == 0) space[32] = sum;
  }
  __syncthreads();
  return space[32];
}

/// The pair (a, b) turned by position * frequency. The angle is the FP32 product of the official table and can reach
/// 10^6 radians: sincosf reduces it exactly, the fast versions do not.
__device__ inline void rotate_pair(float& a, float& b, std::int64_t position, float frequency, bool inverse = false) {
  float sine;
  float cosine;
  sincosf(__fmul_rn(static_cast<float>(position), frequency), &sine, &cosine);
  if (inverse) sine = -sine;
  const float x = a * cosine - b * sine;
  b = a * sine + b * cosine;
  a = x;
}

/// To half. A finite value beyond the range saturates; NaN and infinity stay what they are, so that they reach the
/// logits and fail the request.
__device__ inline __half to_half(float v) {
  const float a = fabsf(v);
  return __float2half_rn(a > 65504.0F && a < INFINITY ? copysignf(65504.0F, v) : v);
}

/// The rows of `parts.out` that make up row `row`, in the order of summation, by one thread. `order` holds kMaxUsed.
inline constexpr int kMaxUsed = 32;
template <typename Parts>
__device__ inline void order_experts(const Parts& parts, std::int64_t row, int* order) {
  int key[kMaxUsed];
  for (int i = 0; i < parts.used; ++i) {
    const int k = parts.order[row * parts.used + i];
    const int place =
        parts.place == nullptr ? static_cast<int>(row) * parts.used + i : parts.place[row * parts.used + i];
    int at = i;
    for (; at > 0 && key[at - 1] > k; --at) {
      key[at] = key[at - 1];
      order[at] = order[at - 1];
    }
    key[at] = k;
    order[at] = place;
  }
}

/// The same by a warp, all lanes at once.
template <typename Parts>
__device__ inline void order_experts_of_one(const Parts& parts, std::int64_t row, int* order) {
  const int lane = threadIdx.x % 32;
  const bool own = lane < parts.used;
  const int key = own ? parts.order[row * parts.used + lane] : 0;
  const int place =
      own && parts.place != nullptr ? parts.place[row * parts.used + lane] : static_cast<int>(row) * parts.used + lane;
  int rank = 0;
  for (int i = 0; i < parts.used; ++i) {
    const int other = __shfl_sync(~0u, key, i);
    rank += other < key || (other == key && i < lane);
  }
  if (own) order[rank] = place;
}

/// Order of floats as order of unsigned numbers, never 0.
__device__ inline std::uint32_t sortable(float v) {
  const std::uint32_t bits = __float_as_uint(v + 0.0F);  // -0 is 0
  return (bits & 0x80000000u) != 0 ? max(~bits, 1u) : bits | 0x80000000u;
}

__device__ inline float sigmoid(float x) { return 1.0F / (1.0F + expf(-x)); }

}  // namespace ds4::cuda
