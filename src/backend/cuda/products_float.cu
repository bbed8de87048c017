// Products against f32 activations: straight from the file's blocks, or from tiles.
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/file_values.cuh"
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

constexpr int kFloatRows = 4;

/// Eight warps share the columns of one row of tiles.
template <typename F>
__global__ void __launch_bounds__(256) float_kernel(Product p, const float* x) {
  __shared__ uint2 table[F::kTable ? 256 : 1];
  if constexpr (F::kTable) load_iq2_selectors(table, p.m.iq2->selectors);
  __shared__ float parts[8][kFloatRows][16];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const std::int64_t tile = blockIdx.x;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * kFloatRows;
  const int rows = static_cast<int>(min(static_cast<std::int64_t>(kFloatRows), p.rows - first));
  const std::byte* tiles = p.m.tile(0, tile);
  float sum[kFloatRows][2] = {};
  for (std::int64_t column = warp; column < p.m.column_tiles(); column += 8) {
    const std::byte* at = tiles + static_cast<std::uint64_t>(column) * F::kTileBytes;
    const auto scales = F::scales(F::head(at, lane), p.m.pre);
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      const StepPair pair = F::expand(F::piece(at, lane, u), scales, u, table);
#pragma unroll
      for (int r = 0; r < kFloatRows; ++r) {
        if (r >= rows) continue;
        const auto* v = reinterpret_cast<const float4*>(x + (first + r) * p.x_stride + column * 128 + lane % 4 * 32 + u * 8);
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          const float4 xs = v[s];
#pragma unroll
          for (int g = 0; g < 2; ++g) {
            const float2 low = __half22float2(as_half2(pair.a[s][g]));
            const float2 high = __half22float2(as_half2(pair.a[s][2 + g]));
            sum[r][g] += low.x * xs.x + low.y * xs.y + high.x * xs.z + high.y * xs.w;
          }
        }
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kFloatRows; ++r)
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      float v = sum[r][g];
      v += __shfl_xor_sync(~0u, v, 1);
      v += __shfl_xor_sync(~0u, v, 2);
      if (lane % 4 == 0) parts[warp][r][lane / 4 + 8 * g] = v;
    }
  __syncthreads();
  for (int i = threadIdx.x; i < 16 * rows; i += blockDim.x) {
    float v = 0;
    for (int w = 0; w < 8; ++w) v += parts[w][i / 16][i % 16];
    const std::int64_t o = static_cast<std::int64_t>(blockIdx.x) * 16 + i % 16;
    if (o < p.outs) p.y[(first + i / 16) * p.y_stride + o] = v / p.m.pre;
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

}  // namespace

void file_product(const Product& p, const float* x, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.outs + 3) / 4), static_cast<unsigned>((p.rows + kRowsAtOnce - 1) / kRowsAtOnce),
                  static_cast<unsigned>(p.groups));
  file_kernel<<<grid, 128, 0, stream>>>(p, x);
}

void float_product(const Product& p, const float* x, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.outs + 15) / 16), static_cast<unsigned>((p.rows + kFloatRows - 1) / kFloatRows));
  with_fragment(p.m.type, [&](auto fragment) { float_kernel<decltype(fragment)><<<grid, 256, 0, stream>>>(p, x); });
}

void convert_to_half(const float* x, std::int64_t rows, std::int64_t columns, __half* to, cudaStream_t stream) {
  const std::int64_t quads = rows * columns / 4;  // tiled matrices have columns in multiples of 128
  convert_kernel<<<static_cast<unsigned>((quads + 255) / 256), 256, 0, stream>>>(reinterpret_cast<const float4*>(x), quads,
                                                                                 reinterpret_cast<uint2*>(to));
}

}  // namespace ds4::cuda
