// KV and indexer rows in device code: the formats of quant/kv_row.h, byte for byte. A row is written by one warp.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "backend/cuda/device_math.cuh"
#include "backend/kv_layout.h"
#include "quant/kv_row.h"

namespace ds4::cuda {

struct RowPlace {
  std::byte* main;
  std::byte* scale;
};

/// A RowStore of backend/kv_layout.h, for kernels.
struct Rows {
  std::uint64_t offset;
  int rows;
  std::uint32_t main_bytes;
  std::uint32_t scale_bytes;

  __host__ __device__ RowPlace at(std::byte* base, int row) const {
    std::byte* start = base + offset;
    return {start + static_cast<std::uint64_t>(row) * main_bytes,
            start + static_cast<std::uint64_t>(rows) * main_bytes + static_cast<std::uint64_t>(row) * scale_bytes};
  }
};

inline Rows rows_of(const RowStore& store) {
  return {store.offset, store.rows, store.row.main_bytes, store.row.scale_bytes};
}

/// The scale code of a block with this largest magnitude, as scale_code() of quant/kv_row.cpp.
__device__ inline std::uint8_t block_scale(float amax, float floor, float reciprocal) {
  if (!(amax < INFINITY)) return 255;  // also NaN
  const std::uint32_t bits = __float_as_uint(__fmul_rn(fmaxf(amax, floor), reciprocal));
  const std::uint32_t exponent = (bits >> 23) & 0xff;
  return static_cast<std::uint8_t>(min(exponent + ((bits & 0x7fffffu) != 0 ? 1u : 0u), 255u));
}

/// 2^(code - 127); the NaN code gives NaN.
__device__ inline float e8m0(std::uint32_t code) {
  if (code == 255) return __uint_as_float(0x7fc00000u);
  return code == 0 ? __uint_as_float(0x00400000u) : __uint_as_float(code << 23);
}

/// Largest magnitude in the warp, NaN and infinity sticky.
__device__ inline float warp_amax(float v) {
  std::uint32_t bits = __float_as_uint(v) & 0x7fffffffu;  // order of magnitudes is order of bits, NaN above all
  for (int step = 16; step > 0; step /= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, step));
  return __uint_as_float(bits);
}

/// Nearest bf16, ties to even. In integers: the conversion instruction followed by two byte stores came out of the
/// compiler (13.0, sm_90) with a wrong low byte.
__device__ inline std::uint32_t to_bf16(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  if (value != value) return bits >> 16 | 0x40;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/// Nearest e4m3 code, ties to even, clamped to 448.
__device__ inline std::uint8_t to_e4m3(float value) {
  const std::uint8_t sign = (__float_as_uint(value) >> 24) & 0x80;
  if (value != value) return sign | 0x7f;
  const float a = fminf(fabsf(value), 448.0F);
  int exponent = static_cast<int>(__float_as_uint(a) >> 23) - 127;
  if (exponent < -6) exponent = -6;
  // One step of this exponent is 2^(exponent - 3); rint gives ties to even.
  const int steps = __float2int_rn(a * __uint_as_float(static_cast<std::uint32_t>(127 + 3 - exponent) << 23));
  return sign | static_cast<std::uint8_t>(steps + ((exponent + 6) << 3));
}

__device__ inline float from_e4m3(std::uint32_t code) {
  const std::uint32_t magnitude = code & 0x7f;
  if (magnitude == 0x7f) return __uint_as_float(0x7fc00000u);
  // The bits of a half with the same exponent field are 2^-8 of the value, subnormals included.
  const float v = __half2float(__ushort_as_half(static_cast<unsigned short>(magnitude << 7))) * 256.0F;
  return (code & 0x80) != 0 ? -v : v;
}

__device__ inline std::uint32_t to_e2m1(float value) {
  const std::uint32_t sign = (__float_as_uint(value) >> 28) & 8;
  if (value != value) return sign | 7;
  const float a = fminf(fabsf(value), 6.0F);
  const int exponent = a >= 4.0F ? 2 : a >= 2.0F ? 1 : 0;
  const int steps = __float2int_rn(a * (exponent == 2 ? 0.5F : exponent == 1 ? 1.0F : 2.0F));
  return sign | static_cast<std::uint32_t>(steps + (exponent << 1));
}

__device__ inline float from_e2m1(std::uint32_t code) {
  const float v = __half2float(__ushort_as_half(static_cast<unsigned short>((code & 7) << 9))) * 16384.0F;
  return (code & 8) != 0 ? -v : v;
}

/// The block encodes row[0..head_dim) (shared memory) in any format; a warp a block of FP8.
__device__ inline void encode_kv_row(KvFormat format, const float* row, int head_dim, int rope_dim, RowPlace to) {
  const int thread = threadIdx.x;
  const int threads = blockDim.x;
  if (format == KvFormat::kF32) {
    for (int i = thread; i < head_dim; i += threads) reinterpret_cast<float*>(to.main)[i] = row[i];
    return;
  }
  if (format == KvFormat::kF16) {
    for (int i = thread; i < head_dim; i += threads) reinterpret_cast<__half*>(to.main)[i] = __float2half_rn(row[i]);
    return;
  }
  const int lane = thread % 32;
  const int rounded = head_dim - rope_dim;
  auto* codes = reinterpret_cast<std::uint8_t*>(to.main);
  for (int block = thread / 32; block * 64 < rounded; block += threads / 32) {
    const int a = block * 64 + lane;
    const int b = a + 32;
    const float va = a < rounded ? row[a] : 0.0F;
    const float vb = b < rounded ? row[b] : 0.0F;
    const float magnitude = __uint_as_float(max(__float_as_uint(fabsf(va)), __float_as_uint(fabsf(vb))));
    const std::uint8_t code = block_scale(warp_amax(magnitude), 1e-4F, 1.0F / 448.0F);
    const float scale = e8m0(code);
    if (a < rounded) codes[a] = to_e4m3(__fdiv_rn(va, scale));
    if (b < rounded) codes[b] = to_e4m3(__fdiv_rn(vb, scale));
    if (lane == 0) reinterpret_cast<std::uint8_t*>(to.scale)[block] = code;
  }
  auto* tail = codes + rounded;  // may be at an odd address
  for (int i = thread; i < rope_dim; i += threads) {
    const std::uint32_t bits = to_bf16(row[rounded + i]);
    tail[2 * i] = static_cast<std::uint8_t>(bits);
    tail[2 * i + 1] = static_cast<std::uint8_t>(bits >> 8);
  }
}

/// Value i of a stored row.
__device__ inline float kv_value(KvFormat format, RowPlace at, int head_dim, int rope_dim, int i) {
  if (format == KvFormat::kF32) return reinterpret_cast<const float*>(at.main)[i];
  if (format == KvFormat::kF16) return __half2float(reinterpret_cast<const __half*>(at.main)[i]);
  const int rounded = head_dim - rope_dim;
  const auto* main = reinterpret_cast<const std::uint8_t*>(at.main);
  if (i < rounded) return from_e4m3(main[i]) * e8m0(reinterpret_cast<const std::uint8_t*>(at.scale)[i / 64]);
  const auto* tail = main + rounded + 2 * (i - rounded);
  return __uint_as_float(static_cast<std::uint32_t>(tail[0] | tail[1] << 8) << 16);
}

/// Walsh-Hadamard transform of dim values in shared memory, at a multiple of 16 bytes, by one warp, times dim^-0.5.
__device__ inline void warp_hadamard(float* values, int dim) {
  const int lane = threadIdx.x % 32;
  if (dim == 128) {  // four values a lane: the same sums without shared memory
    __syncwarp();
    float4 v = reinterpret_cast<float4*>(values)[lane];
    v = {v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w};
    v = {v.x + v.z, v.y + v.w, v.x - v.z, v.y - v.w};
    for (int step = 1; step < 32; step *= 2) {
      const float4 other = {__shfl_xor_sync(~0u, v.x, step), __shfl_xor_sync(~0u, v.y, step),
                            __shfl_xor_sync(~0u, v.z, step), __shfl_xor_sync(~0u, v.w, step)};
      const bool upper = (lane & step) != 0;
      v = {upper ? other.x - v.x : v.x + other.x, upper ? other.y - v.y : v.y + other.y,
           upper ? other.z - v.z : v.z + other.z, upper ? other.w - v.w : v.w + other.w};
    }
    constexpr float kScale = 0.08838834764831845F;  // 128^-0.5
    reinterpret_cast<float4*>(values)[lane] = {v.x * kScale, v.y * kScale, v.z * kScale, v.w * kScale};
    __syncwarp();
    return;
  }
  for (int stride = 1; stride < dim; stride *= 2) {
    __syncwarp();
    for (int pair = lane; pair < dim / 2; pair += 32) {
      const int i = (pair / stride) * 2 * stride + pair % stride;
      const float a = values[i];
      const float b = values[i + stride];
      values[i] = a + b;
      values[i + stride] = a - b;
    }
  }
  __syncwarp();
  const float scale = static_cast<float>(1.0 / sqrt(static_cast<double>(dim)));
  for (int i = lane; i < dim; i += 32) values[i] *= scale;
  __syncwarp();
}

/// Rounds values (shared memory, at a multiple of 16 bytes, one warp) through FP4 in blocks of 32; nibbles, at an even
/// address, and scales may be null.
__device__ inline void warp_round_fp4(float* values, int dim, std::uint8_t* nibbles, std::uint8_t* scales) {
  const int lane = threadIdx.x % 32;
  if (dim == 128) {  // four values a lane, all blocks at once
    const float4 v = reinterpret_cast<const float4*>(values)[lane];
    std::uint32_t bits = max(max(__float_as_uint(fabsf(v.x)), __float_as_uint(fabsf(v.y))),
                             max(__float_as_uint(fabsf(v.z)), __float_as_uint(fabsf(v.w))));
    for (int step = 1; step < 8; step *= 2) bits = max(bits, __shfl_xor_sync(~0u, bits, step));
    const std::uint8_t code = block_scale(__uint_as_float(bits), 6.0F * 0x1p-126F, 1.0F / 6.0F);
    const float scale = e8m0(code);
    std::uint32_t all = 0;
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
      float& value = values[lane * 4 + i];
      const std::uint32_t nibble = to_e2m1(__fdiv_rn(value, scale));
      value = from_e2m1(nibble) * scale;
      all |= nibble << (4 * i);
    }
    if (nibbles != nullptr) reinterpret_cast<std::uint16_t*>(nibbles)[lane] = static_cast<std::uint16_t>(all);
    if (scales != nullptr && lane % 8 == 0) scales[lane / 8] = code;
    __syncwarp();
    return;
  }
  for (int block = 0; block * 32 < dim; ++block) {
    const int i = block * 32 + lane;
    const float v = i < dim ? values[i] : 0.0F;
    const std::uint8_t code = block_scale(warp_amax(fabsf(v)), 6.0F * 0x1p-126F, 1.0F / 6.0F);
    const float scale = e8m0(code);
    const std::uint32_t nibble = i < dim ? to_e2m1(__fdiv_rn(v, scale)) : 0;
    if (i < dim) values[i] = from_e2m1(nibble) * scale;
    const std::uint32_t high = __shfl_down_sync(~0u, nibble, 1);
    if (nibbles != nullptr && lane % 2 == 0 && i < dim) nibbles[i / 2] = static_cast<std::uint8_t>(nibble | high << 4);
    if (scales != nullptr && lane == 0) scales[block] = code;
  }
  __syncwarp();
}

/// One warp encodes an indexer row; `row` in shared memory is changed.
__device__ inline void encode_index_row(KvFormat format, float* row, int dim, RowPlace to) {
  const int lane = threadIdx.x % 32;
  if (format == KvFormat::kPacked) {
    warp_hadamard(row, dim);
    warp_round_fp4(row, dim, reinterpret_cast<std::uint8_t*>(to.main), reinterpret_cast<std::uint8_t*>(to.scale));
    return;
  }
  for (int i = lane; i < dim; i += 32) {
    if (format == KvFormat::kF32) reinterpret_cast<float*>(to.main)[i] = row[i];
    else reinterpret_cast<__half*>(to.main)[i] = __float2half_rn(row[i]);
  }
}

__device__ inline float index_value(KvFormat format, RowPlace at, int i) {
  if (format == KvFormat::kF32) return reinterpret_cast<const float*>(at.main)[i];
  if (format == KvFormat::kF16) return __half2float(reinterpret_cast<const __half*>(at.main)[i]);
  const std::uint32_t byte = reinterpret_cast<const std::uint8_t*>(at.main)[i / 2];
  return from_e2m1(byte >> (i % 2 * 4) & 15) * e8m0(reinterpret_cast<const std::uint8_t*>(at.scale)[i / 32]);
}

}  // namespace ds4::cuda
