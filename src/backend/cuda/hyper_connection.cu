#include "backend/cuda/hyper_connection.h"

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/file_values.cuh"

namespace ds4::cuda {

namespace {

/// Mixes one column of all streams; `x` in and out.
__device__ void mix_column(float (&x)[kMaxStreams], float o, const float* post, const float* comb, int n) {
  float mixed[kMaxStreams];
  for (int k = 0; k < kMaxStreams; ++k) {
    if (k >= n) continue;
    float sum = post[k] * o;
    for (int j = 0; j < kMaxStreams; ++j)
      if (j < n) sum += comb[j * n + k] * x[j];
    mixed[k] = sum;
  }
  for (int k = 0; k < kMaxStreams; ++k)
    if (k < n) x[k] = mixed[k];
}

__device__ float fn_value(const Matrix& fn, int control, std::int64_t at) {
  const std::byte* row = fn.row(0, control);
  if (fn.type == DType::kF16) return __half2float(reinterpret_cast<const __half*>(row)[at]);
  return file_value(fn.type, row, at, fn.iq2);
}

constexpr int kSumWarps = 8;

/// Block (slice of columns, kRows rows). Warps take the sums in turn; lanes the columns.
template <int kRows>
__global__ void __launch_bounds__(kSumWarps * 32) sums_kernel(const HcSums p) {
  extern __shared__ float v[];  // [kRows][streams][columns of the slice]
  const int n = p.streams_count;
  const int slice_columns = (p.hidden + kHcSlices - 1) / kHcSlices;
  const int first = blockIdx.x * slice_columns;
  const int columns = max(0, min(slice_columns, p.hidden - first));
  const int first_row = blockIdx.y * kRows;
  const int rows = min(kRows, p.rows - first_row);
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
    const int r = i / columns;
    const int c = i % columns;
    const std::int64_t row = p.source_row == nullptr ? first_row + r : p.source_row[first_row + r];
    float* streams = p.streams + row * n * p.hidden + first + c;
    float x[kMaxStreams];
    for (int k = 0; k < kMaxStreams; ++k)
      if (k < n) x[k] = streams[static_cast<std::int64_t>(k) * p.hidden];
    if (p.post.o != nullptr) {
      mix_column(x, p.post.o[row * p.hidden + first + c], p.post.post + row * n, p.post.comb + row * n * n, n);
      for (int k = 0; k < kMaxStreams; ++k)
        if (k < n) streams[static_cast<std::int64_t>(k) * p.hidden] = x[k];
    }
    for (int k = 0; k < kMaxStreams; ++k)
      if (k < n) v[(r * n + k) * slice_columns + c] = x[k];
  }
  __syncthreads();
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int pairs = n * (n + 1) / 2;
  for (int s = warp; s < p.controls + pairs; s += kSumWarps) {
    float sum[kRows] = {};
    if (s < p.controls) {
      for (int k = 0; k < n; ++k)
        for (int c = lane; c < columns; c += 32) {
          const float w = fn_value(p.fn, s, static_cast<std::int64_t>(k) * p.hidden + first + c);
#pragma unroll
          for (int r = 0; r < kRows; ++r)
            if (r < rows) sum[r] += w * v[(r * n + k) * slice_columns + c];
        }
    } else {
      int a = 0;
      int b = s - p.controls;  // pairs (0,0) (0,1) .. (0,n-1) (1,1) ..
      while (b >= n - a) b -= n - a, ++a;
      b += a;
      for (int c = lane; c < columns; c += 32)
#pragma unroll
        for (int r = 0; r < kRows; ++r)
          if (r < rows) sum[r] += v[(r * n + a) * slice_columns + c] * v[(r * n + b) * slice_columns + c];
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float total = warp_sum(sum[r]);
      if (lane == 0 && r < rows)
        p.sums[(static_cast<std::int64_t>(first_row + r) * kHcSlices + blockIdx.x) * kMaxHcSums + s] = total;
    }
  }
}

/// Row soft-max, then columns and rows in turn, ending on columns. Lane (j, k) of 16 holds an entry when n is 4.
__device__ void sinkhorn4(float* c, int iterations, float eps) {
  const unsigned mask = 0xffffu;
  const int lane = threadIdx.x;
  float v = c[lane];
  float largest = fmaxf(v, __shfl_xor_sync(mask, v, 1));
  largest = fmaxf(largest, __shfl_xor_sync(mask, largest, 2));
  v = expf(v - largest);
  const auto row_sum = [&](float x) {
    x += __shfl_xor_sync(mask, x, 1);
    return x + __shfl_xor_sync(mask, x, 2);
  };
  const auto column_sum = [&](float x) {
    x += __shfl_xor_sync(mask, x, 4);
    return x + __shfl_xor_sync(mask, x, 8);
  };
  v = v / row_sum(v) + eps;
  v = __fdividef(v, column_sum(v) + eps);
  for (int i = 1; i < iterations; ++i) {
    v = __fdividef(v, row_sum(v) + eps);
    v = __fdividef(v, column_sum(v) + eps);
  }
  c[lane] = v;
}

__device__ void sinkhorn(float* c, int n, int iterations, float eps) {
  for (int j = 0; j < n; ++j) {
    float largest = c[j * n];
    for (int k = 1; k < n; ++k) largest = fmaxf(largest, c[j * n + k]);
    float sum = 0;
    for (int k = 0; k < n; ++k) sum += c[j * n + k] = expf(c[j * n + k] - largest);
    for (int k = 0; k < n; ++k) c[j * n + k] = c[j * n + k] / sum + eps;
  }
  for (int i = 0; i < 2 * iterations - 1; ++i) {  // columns, rows, columns, ...
    const int across = i % 2 == 0 ? 1 : n;
    const int along = i % 2 == 0 ? n : 1;
    for (int a = 0; a < n; ++a) {
      float sum = eps;
      for (int b = 0; b < n; ++b) sum += c[a * across + b * along];
      for (int b = 0; b < n; ++b) c[a * across + b * along] /= sum;
    }
  }
}

/// Block (256 columns, row). Every block works out the row's controls for itself: cheaper than another kernel.
__global__ void __launch_bounds__(256) mix_kernel(const HcMix p) {
  __shared__ float m[kMaxHcSums];
  __shared__ float pre[kMaxStreams];
  __shared__ float comb[kMaxStreams * kMaxStreams];
  __shared__ float norm;
  const int n = p.streams_count;
  const int row = blockIdx.y;
  const int sums = p.controls + n * (n + 1) / 2;
  if (threadIdx.x < sums) {
    const float* part = p.sums + static_cast<std::int64_t>(row) * kHcSlices * kMaxHcSums + threadIdx.x;
    float v = 0;
#pragma unroll
    for (int s = 0; s < kHcSlices; ++s) v += part[s * kMaxHcSums];
    m[threadIdx.x] = v;
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const float* gram = m + p.controls;
    float squares = 0;
    for (int a = 0, at = 0; a < n; at += n - a, ++a) squares += gram[at];
    const float r = rsqrtf(squares / static_cast<float>(n * p.hidden) + p.rms_eps);
    const int i = threadIdx.x;
    if (i < n) pre[i] = sigmoid(m[i] * r * p.scale[0] + p.base[i]) + p.hc_eps;
    if (!p.head) {
      if (i < n * n) comb[i] = m[2 * n + i] * r * p.scale[2] + p.base[2 * n + i];
      __syncwarp();
      if (n == 4) {
        if (i < 16) sinkhorn4(comb, p.iterations, p.hc_eps);
      } else if (i == 0) {
        sinkhorn(comb, n, p.iterations, p.hc_eps);
      }
      __syncwarp();
      if (blockIdx.x == 0) {
        if (i < n) p.post[row * n + i] = 2.0F * sigmoid(m[n + i] * r * p.scale[1] + p.base[n + i]);
        if (i < n * n) p.comb[row * n * n + i] = comb[i];
      }
    }
    __syncwarp();
    if (i == 0) {  // |y|^2 from the products of the streams
      float y2 = 0;
      for (int a = 0, at = 0; a < n; ++a)
        for (int b = a; b < n; ++b, ++at) y2 += (a == b ? 1.0F : 2.0F) * pre[a] * pre[b] * gram[at];
      norm = rsqrtf(fmaxf(y2, 0.0F) / static_cast<float>(p.hidden) + p.rms_eps);
    }
  }
  __syncthreads();
  const int c = blockIdx.x * 256 + threadIdx.x;
  if (c >= p.hidden) return;
  const std::int64_t source = p.source_row == nullptr ? row : p.source_row[row];
  const float* streams = p.streams + source * n * p.hidden + c;
  float y = 0;
  for (int k = 0; k < n; ++k) y += pre[k] * streams[static_cast<std::int64_t>(k) * p.hidden];
  if (p.norm_weight != nullptr) y = y * norm * p.norm_weight[c];
  p.y[static_cast<std::int64_t>(row) * p.hidden + c] = y;
  if (p.y_half != nullptr) p.y_half[static_cast<std::int64_t>(row) * p.hidden + c] = to_half(y);
}

__global__ void post_kernel(float* streams, HcPost p, int n, int hidden) {
  const int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= hidden) return;
  const std::int64_t row = blockIdx.y;
  float x[kMaxStreams];
  float* at = streams + row * n * hidden + c;
  for (int k = 0; k < kMaxStreams; ++k)
    if (k < n) x[k] = at[static_cast<std::int64_t>(k) * hidden];
  mix_column(x, p.o[row * hidden + c], p.post + row * n, p.comb + row * n * n, n);
  for (int k = 0; k < kMaxStreams; ++k)
    if (k < n) at[static_cast<std::int64_t>(k) * hidden] = x[k];
}

}  // namespace

void hc_sums(const HcSums& p, cudaStream_t stream) {
  const auto row_bytes =
      static_cast<std::size_t>(p.streams_count) * static_cast<std::size_t>((p.hidden + kHcSlices - 1) / kHcSlices) * sizeof(float);
  if (p.rows < 64) {
    sums_kernel<1><<<dim3(kHcSlices, static_cast<unsigned>(p.rows)), kSumWarps * 32, row_bytes, stream>>>(p);
  } else {
    sums_kernel<8><<<dim3(kHcSlices, static_cast<unsigned>((p.rows + 7) / 8)), kSumWarps * 32, 8 * row_bytes, stream>>>(p);
  }
}

void hc_mix(const HcMix& p, cudaStream_t stream) {
  mix_kernel<<<dim3(static_cast<unsigned>((p.hidden + 255) / 256), static_cast<unsigned>(p.rows)), 256, 0, stream>>>(p);
}

void hc_post(float* streams, const HcPost& post, int streams_count, int hidden, int rows, cudaStream_t stream) {
  post_kernel<<<dim3(static_cast<unsigned>((hidden + 255) / 256), static_cast<unsigned>(rows)), 256, 0, stream>>>(
      streams, post, streams_count, hidden);
}

}  // namespace ds4::cuda
