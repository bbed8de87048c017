// Products against f32 activations, straight from the file's blocks; activations to f16.
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/file_values.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/products.h"

namespace ds4::cuda {

namespace {

constexpr int kRowsAtOnce = 8;

/// One warp an output, kRowsAtOnce rows of x.
__global__ void file_kernel(Product p, const float* x) {
  const std::int64_t group = blockIdx.z;
  x += group * p.m.in;
  p.y += group * p.outs;
  const std::int64_t o = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (o >= p.outs) return;
  const int lane = threadIdx.x % 32;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kRowsAtOnce;
  const int rows = static_cast<int>(min(static_cast<std::int64_t>(kRowsAtOnce), p.rows - first));
  const std::byte* row = p.m.row(0, group * p.outs + o);
  float sum[kRowsAtOnce] = {};
#pragma unroll 4
  for (std::int64_t k = lane; k < p.m.in; k += 32) {
    const float w = file_value(p.m.type, row, k, p.m.iq2);
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r)
      if (r < rows) sum[r] += w * x[(first + r) * p.x_stride + k];
  }
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    const float total = warp_sum(sum[r]);
    if (lane == 0 && r < rows) p.y[(first + r) * p.y_stride + o] = total;
  }
}

__global__ void convert_kernel(const float4* x, std::int64_t quads, uint2* to) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= quads) return;
  const float4 v = x[i];
  const __half2 low = __halves2half2(to_half(v.x), to_half(v.y));
  const __half2 high = __halves2half2(to_half(v.z), to_half(v.w));
  to[i] = make_uint2(as_bits(low), as_bits(high));
}

__global__ void split_kernel(const float* x, std::int64_t count, __half* high, __half* low) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const __half h = to_half(x[i]);
  high[i] = h;
  low[i] = to_half((x[i] - __half2float(h)) * kLowScale);
}

}  // namespace

void file_product(const Product& p, const float* x, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.outs + 3) / 4),
                  static_cast<unsigned>((p.rows + kRowsAtOnce - 1) / kRowsAtOnce), static_cast<unsigned>(p.groups));
  file_kernel<<<grid, 128, 0, stream>>>(p, x);
}

void convert_to_half(const float* x, std::int64_t rows, std::int64_t columns, __half* to, cudaStream_t stream) {
  const std::int64_t quads = rows * columns / 4;  // tiled matrices have columns in multiples of 128
  convert_kernel<<<static_cast<unsigned>((quads + 255) / 256), 256, 0, stream>>>(reinterpret_cast<const float4*>(x),
                                                                                 quads, reinterpret_cast<uint2*>(to));
}

void split_to_halves(const float* x, std::int64_t rows, std::int64_t columns, __half* to, cudaStream_t stream) {
  const std::int64_t count = rows * columns;
  split_kernel<<<static_cast<unsigned>((count + 255) / 256), 256, 0, stream>>>(x, count, to, to + count);
}

}  // namespace ds4::cuda
