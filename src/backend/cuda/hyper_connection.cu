#include "backend/cuda/hyper_connection.h"

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/file_values.cuh"
#include "backend/cuda/hyper_connection.cuh"
#include "backend/cuda/launch.cuh"

namespace ds4::cuda {

namespace {

/// Two neighbouring values of a control's row; the second one only where there is one. kHalf: the rows are f16 and `at`
/// is even.
template <bool kHalf>
__device__ float2 fn_pair(const Matrix& fn, int control, std::int64_t at, bool second) {
  const std::byte* row = fn.row(0, control);
  if constexpr (kHalf) {
    return __half22float2(__ldcs(reinterpret_cast<const __half2*>(row + 2 * at)));
  } else {
    return {file_value(fn.type, row, at, fn.iq2), second ? file_value(fn.type, row, at + 1, fn.iq2) : 0.0F};
  }
}

constexpr int kSumWarps = 8;
constexpr int kSumsPerWarp = (kMaxHcSums + kSumWarps - 1) / kSumWarps;

/// Block (slice of columns, kRows rows). A warp takes every eighth sum; lanes take two columns at a time of all
/// streams. kStreams is 4, or 0 for any number. kHalf: fn is f16 and columns come in pairs.
template <int kRows, int kStreams, bool kHalf>
__global__ void __launch_bounds__(kSumWarps * 32) sums_kernel(const HcSums p) {
  extern __shared__ float v[];  // [kRows][streams][slice_columns]
  __shared__ int order[kRows][kMaxUsed];
  const int n = kStreams == 0 ? p.streams_count : kStreams;
  const int slice_columns = (p.hidden + 2 * kHcSlices - 1) / (2 * kHcSlices) * 2;
  const int first = blockIdx.x * slice_columns;
  const int columns = max(0, min(slice_columns, p.hidden - first));
  const int first_row = blockIdx.y * kRows;
  const int rows = min(kRows, p.rows - first_row);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int pairs = n * (n + 1) / 2;
  // With one row the weights of the first columns are on their way while the streams are read.
  constexpr bool kEarly = kHalf && kRows == 1;
  float2 ahead[kEarly ? kSumsPerWarp : 1][kMaxStreams];
  if constexpr (kEarly) {
#pragma unroll
    for (int i = 0; i < kSumsPerWarp; ++i)
#pragma unroll
      for (int k = 0; k < kMaxStreams; ++k) {
        ahead[i][k] = make_float2(0, 0);
        if (k < n && warp + i * kSumWarps < p.controls && lane * 2 < columns)
          ahead[i][k] = fn_pair<true>(p.fn, warp + i * kSumWarps,
                                      static_cast<std::int64_t>(k) * p.hidden + first + lane * 2, true);
      }
  }
  wait_for_previous();
  if (p.post.experts.out != nullptr) {
    if (kRows == 1 && warp == 0) order_experts_of_one(p.post.experts, first_row, order[0]);
    else if (kRows > 1 && threadIdx.x < rows)
      order_experts(p.post.experts, first_row + threadIdx.x, order[threadIdx.x]);
    __syncthreads();
  }
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
    const int r = i / columns;
    const int c = i % columns;
    const std::int64_t row = p.source_row == nullptr ? first_row + r : p.source_row[first_row + r];
    float* streams = p.streams + row * n * p.hidden + first + c;
    float x[kMaxStreams];
#pragma unroll
    for (int k = 0; k < kMaxStreams; ++k)
      if (k < n) x[k] = streams[static_cast<std::int64_t>(k) * p.hidden];
    if (p.post.o != nullptr) {
      float o = p.post.o[row * p.hidden + first + c];
      for (int j = 0; j < p.post.experts.used; ++j)
        o += p.post.experts.out[static_cast<std::int64_t>(order[r][j]) * p.hidden + first + c];
      mix_column(x, o, p.post.post + row * n, p.post.comb + row * n * n, n);
#pragma unroll
      for (int k = 0; k < kMaxStreams; ++k)
        if (k < n) streams[static_cast<std::int64_t>(k) * p.hidden] = x[k];
    }
#pragma unroll
    for (int k = 0; k < kMaxStreams; ++k)
      if (k < n) v[(r * n + k) * slice_columns + c] = x[k];
  }
  __syncthreads();
  float sum[kSumsPerWarp][kRows] = {};
  for (int c = lane * 2; c < columns; c += 64) {
    const bool second = c + 1 < columns;
#pragma unroll
    for (int i = 0; i < kSumsPerWarp; ++i) {
      const int s = warp + i * kSumWarps;
      if (s < p.controls) {
#pragma unroll
        for (int k = 0; k < kMaxStreams; ++k) {
          if (k >= n) continue;
          float2 w;
          if (kEarly && c < 64) w = ahead[kEarly ? i : 0][k];
          else w = fn_pair<kHalf>(p.fn, s, static_cast<std::int64_t>(k) * p.hidden + first + c, second);
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            if (r >= rows) continue;
            const float2 x = *reinterpret_cast<const float2*>(v + (r * n + k) * slice_columns + c);
            sum[i][r] += w.x * x.x + (second ? w.y * x.y : 0.0F);
          }
        }
      } else if (s < p.controls + pairs) {
        int a = 0;
        int b = s - p.controls;  // pairs (0,0) (0,1) .. (0,n-1) (1,1) ..
        while (b >= n - a) b -= n - a, ++a;
        b += a;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (r >= rows) continue;
          const float2 x = *reinterpret_cast<const float2*>(v + (r * n + a) * slice_columns + c);
          const float2 y = *reinterpret_cast<const float2*>(v + (r * n + b) * slice_columns + c);
          sum[i][r] += x.x * y.x + (second ? x.y * y.y : 0.0F);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kSumsPerWarp; ++i)
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int s = warp + i * kSumWarps;
      const float total = warp_sum(sum[i][r]);
      if (lane == 0 && r < rows && s < p.controls + pairs)
        p.sums[(static_cast<std::int64_t>(first_row + r) * kHcSlices + blockIdx.x) * kMaxHcSums + s] = total;
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

/// What a row's sums say, in shared memory of a block of 256 threads.
struct RowSums {
  float m[kMaxHcSums];  // controls before the norm, then the products of the streams
  float quarter[4][64];
  float factor;  // of the norm
};

__device__ void read_row_sums(const HcMix& p, int row, RowSums& r) {
  static_assert(kMaxHcSums <= 64 && kHcSlices % 4 == 0 && kManyHcSlices % 4 == 0);
  const int n = p.streams_count;
  const int sums = p.controls + n * (n + 1) / 2;
  const int s = threadIdx.x % 64;
  const int q = threadIdx.x / 64;
  const int each = p.slices / 4;
  const float* part = p.sums + (static_cast<std::int64_t>(row) * p.slices + q * each) * kMaxHcSums + s;
  float v = 0;
  if (s < sums) {
    if (each == kHcSlices / 4) {
#pragma unroll
      for (int i = 0; i < kHcSlices / 4; ++i) v += part[i * kMaxHcSums];
    } else {
      for (int i = 0; i < each; ++i) v += part[i * kMaxHcSums];
    }
  }
  r.quarter[q][s] = v;
  __syncthreads();
  if (threadIdx.x < sums)
    r.m[threadIdx.x] =
        r.quarter[0][threadIdx.x] + r.quarter[1][threadIdx.x] + r.quarter[2][threadIdx.x] + r.quarter[3][threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) {
    float squares = 0;
    for (int a = 0, at = p.controls; a < n; at += n - a, ++a) squares += r.m[at];
    r.factor = rsqrtf(squares / static_cast<float>(n * p.hidden) + p.rms_eps);
  }
}

/// post and comb of a row, by one warp.
__device__ void finish_controls(const HcMix& p, int row, const RowSums& r, float* comb) {
  const int n = p.streams_count;
  const int i = threadIdx.x;
  if (i < n * n) comb[i] = r.m[2 * n + i] * r.factor * p.scale[2] + p.base[2 * n + i];
  __syncwarp();
  if (n == 4) {
    if (i < 16) sinkhorn4(comb, p.iterations, p.hc_eps);
  } else if (i == 0) {
    sinkhorn(comb, n, p.iterations, p.hc_eps);
  }
  __syncwarp();
  if (i < n) p.post[row * n + i] = 2.0F * sigmoid(r.m[n + i] * r.factor * p.scale[1] + p.base[n + i]);
  if (i < n * n) p.comb[row * n * n + i] = comb[i];
}

__global__ void __launch_bounds__(256) controls_kernel(const HcMix p) {
  __shared__ RowSums sums;
  __shared__ float comb[kMaxStreams * kMaxStreams];
  read_row_sums(p, blockIdx.x, sums);
  if (threadIdx.x < 32) {
    __syncwarp();
    finish_controls(p, blockIdx.x, sums, comb);
  }
}

/// Block (columns, row). Every block works out the row's controls for itself: cheaper than another kernel. With few
/// rows a block has 256 columns; with many it has them all.
__global__ void __launch_bounds__(256) mix_kernel(const HcMix p) {
  __shared__ RowSums sums;
  __shared__ float pre[kMaxStreams];
  __shared__ float comb[kMaxStreams * kMaxStreams];
  __shared__ float norm;
  const int n = p.streams_count;
  const int row = blockIdx.y;
  // Weights come from far away: they are asked for before the wait.
  const int c = blockIdx.x * 256 + threadIdx.x;
  float weight = p.norm_weight != nullptr && c < p.hidden ? p.norm_weight[c] : 1.0F;
  const float base = threadIdx.x < n ? p.base[threadIdx.x] : 0.0F;
  const float scale = p.scale[0];
  wait_for_previous();
  // The streams are on their way while the controls are worked out.
  const std::int64_t source = p.source_row == nullptr ? row : p.source_row[row];
  float x[kMaxStreams] = {};
  if (c < p.hidden) {
#pragma unroll
    for (int k = 0; k < kMaxStreams; ++k)
      if (k < n) x[k] = p.streams[(source * n + k) * p.hidden + c];
  }
  read_row_sums(p, row, sums);
  if (threadIdx.x < 32) {
    __syncwarp();
    const float* gram = sums.m + p.controls;
    const int i = threadIdx.x;
    if (i < n) pre[i] = sigmoid(sums.m[i] * sums.factor * scale + base) + p.hc_eps;
    __syncwarp();
    if (i == 0) {  // |y|^2 from the products of the streams
      float y2 = 0;
      for (int a = 0, at = 0; a < n; ++a)
        for (int b = a; b < n; ++b, ++at) y2 += (a == b ? 1.0F : 2.0F) * pre[a] * pre[b] * gram[at];
      norm = rsqrtf(fmaxf(y2, 0.0F) / static_cast<float>(p.hidden) + p.rms_eps);
    }
  }
  __syncthreads();
  if (!p.head && !p.leaves_controls && blockIdx.x == 0 && threadIdx.x < 32) finish_controls(p, row, sums, comb);
  for (int column = c; column < p.hidden; column += gridDim.x * 256) {
    if (column != c) {
#pragma unroll
      for (int k = 0; k < kMaxStreams; ++k)
        if (k < n) x[k] = p.streams[(source * n + k) * p.hidden + column];
      if (p.norm_weight != nullptr) weight = p.norm_weight[column];
    }
    float y = 0;
#pragma unroll
    for (int k = 0; k < kMaxStreams; ++k)
      if (k < n) y += pre[k] * x[k];
    if (p.norm_weight != nullptr) y = y * norm * weight;
    const std::int64_t at = static_cast<std::int64_t>(row) * p.hidden + column;
    p.y[at] = y;
    if (p.y_half == nullptr) continue;
    const __half high = to_half(y);
    p.y_half[at] = high;
    if (p.y_low != nullptr) p.y_low[at] = to_half((y - __half2float(high)) * kLowScale);
  }
}

__global__ void post_kernel(float* streams, HcPost p, int n, int hidden) {
  wait_for_previous();
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

int hc_sums(const HcSums& p, cudaStream_t stream) {
  if (hc_sums_of_many(p, stream)) return kManyHcSlices;
  const std::size_t row_bytes = static_cast<std::size_t>(p.streams_count) *
                                static_cast<std::size_t>((p.hidden + 2 * kHcSlices - 1) / (2 * kHcSlices) * 2) *
                                sizeof(float);
  const bool half = p.fn.type == DType::kF16 && p.hidden % 2 == 0;
  const auto launch_rows = [&](auto kernel, int rows) {
    launch(kernel, dim3(kHcSlices, static_cast<unsigned>((p.rows + rows - 1) / rows)), kSumWarps * 32,
           static_cast<std::size_t>(rows) * row_bytes, stream, p);
  };
  if (p.streams_count != 4) launch_rows(sums_kernel<1, 0, false>, 1);
  else if (p.rows < 8) half ? launch_rows(sums_kernel<1, 4, true>, 1) : launch_rows(sums_kernel<1, 4, false>, 1);
  else if (p.rows < 64) half ? launch_rows(sums_kernel<4, 4, true>, 4) : launch_rows(sums_kernel<1, 4, false>, 1);
  else half ? launch_rows(sums_kernel<8, 4, true>, 8) : launch_rows(sums_kernel<8, 4, false>, 8);
  return kHcSlices;
}

void hc_mix(const HcMix& p, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(p.rows < 64 ? (p.hidden + 255) / 256 : 1);
  launch(mix_kernel, dim3(blocks, static_cast<unsigned>(p.rows)), 256, 0, stream, p);
}

void hc_controls(const HcMix& p, cudaStream_t stream) {
  controls_kernel<<<static_cast<unsigned>(p.rows), 256, 0, stream>>>(p);
}

void hc_post(float* streams, const HcPost& post, int streams_count, int hidden, int rows, cudaStream_t stream) {
  launch(post_kernel, dim3(static_cast<unsigned>((hidden + 255) / 256), static_cast<unsigned>(rows)), 256, 0, stream,
         streams, post, streams_count, hidden);
}

}  // namespace ds4::cuda
