#include "backend/cuda/kv_ops.h"

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/file_values.cuh"
#include "backend/cuda/launch.cuh"

namespace ds4::cuda {

namespace {

constexpr int kThreads = 256;

/// Norm, rotation of the last pairs, by the whole block; row in shared memory, space as in block_sum().
__device__ void finish_row(float* row, const float* weight, int width, float eps, const float* frequencies, int pairs,
                           std::int64_t position, float* space) {
  float squares = 0;
  for (int i = threadIdx.x; i < width; i += kThreads) squares += row[i] * row[i];
  const float r = rsqrtf(block_sum(squares, space) / static_cast<float>(width) + eps);
  const int plain = width - 2 * pairs;
  for (int i = threadIdx.x; i < plain; i += kThreads) row[i] *= r * weight[i];
  for (int i = threadIdx.x; i < pairs; i += kThreads) {
    const int at = plain + 2 * i;
    float a = row[at] * (r * weight[at]);
    float b = row[at + 1] * (r * weight[at + 1]);
    rotate_pair(a, b, position, frequencies[i]);
    row[at] = a;
    row[at + 1] = b;
  }
  __syncthreads();
}

__device__ void copy_bytes(std::byte* to, const std::byte* from, std::uint32_t bytes) {
  for (std::uint32_t i = threadIdx.x; i < bytes; i += kThreads) to[i] = from[i];
}

__device__ void copy_row(const Rows& layout, RowPlace to, RowPlace from) {
  copy_bytes(to.main, from.main, layout.main_bytes);
  copy_bytes(to.scale, from.scale, layout.scale_bytes);
}

/// A block a row.
__global__ void __launch_bounds__(kThreads) window_kernel(const Batch batch, const WindowRows p) {
  extern __shared__ __align__(16) float values[];
  __shared__ float space[33];
  const int row = blockIdx.x;
  wait_for_previous();
  for (int i = threadIdx.x; i < p.head_dim; i += kThreads)
    values[i] = p.kv[static_cast<std::int64_t>(row) * p.head_dim + i];
  const std::int64_t position = batch.positions[row];
  const SegmentView segment = batch.segments[batch.segment_of[row]];
  finish_row(values, p.weight, p.head_dim, p.eps, p.frequencies, p.pairs, position, space);
  const RowPlace fresh = p.fresh_rows.at(p.fresh, row);
  encode_kv_row(p.format, values, p.head_dim, 2 * p.pairs, fresh);
  if (segment.rows > kRewindSlack) return;
  // Encoded again rather than copied: every thread of the block would have to wait for the first copy.
  encode_kv_row(p.format, values, p.head_dim, 2 * p.pairs,
                p.ring.at(batch.tail(segment),
                          static_cast<int>(static_cast<unsigned>(position) % static_cast<unsigned>(p.ring.rows))));
}

__global__ void __launch_bounds__(kThreads) store_window_kernel(const Batch batch, const WindowRows p) {
  const int row = blockIdx.x;
  const SegmentView& segment = batch.segments[batch.segment_of[row]];
  const std::int64_t position = batch.positions[row];
  if (segment.rows <= kRewindSlack || position < segment.first_position + segment.rows - p.ring.rows) return;
  copy_row(p.ring,
           p.ring.at(batch.tail(segment),
                     static_cast<int>(static_cast<unsigned>(position) % static_cast<unsigned>(p.ring.rows))),
           p.fresh_rows.at(p.fresh, row));
}

/// Kept out of the way: its formats would be there for every value that a block pools, and code is read from far away.
__device__ __noinline__ float table_value(const Matrix& table, std::int64_t row, int column) {
  return file_value(table.type, table.row(0, row), column, table.iq2);
}

struct TokenState {
  const Batch& batch;
  const CompressRows& p;
  const SegmentView& segment;
  __device__ float z(std::int64_t position, int channel) const {
    if (position < segment.first_position) return p.states.z(batch.tail(segment), position)[channel];
    return p.z[(segment.first_row + position - segment.first_position) * p.states.width + channel];
  }
  __device__ float g(std::int64_t position, int channel) const {
    if (position < segment.first_position) return p.states.g(batch.tail(segment), position)[channel];
    return p.g[(segment.first_row + position - segment.first_position) * p.states.width + channel] +
           ape(static_cast<unsigned>(position) % static_cast<unsigned>(p.ratio), channel);
  }
  __device__ float ape(unsigned row, int channel) const {
    if (p.ape.type == DType::kF16) return __half2float(reinterpret_cast<const __half*>(p.ape.row(0, row))[channel]);
    return table_value(p.ape, row, channel);
  }
  /// All channels, by the whole block; several are on their way before the first is stored.
  __device__ void store(std::int64_t position) const {
    constexpr int kTogether = 4;
    float* to_z = p.states.z(batch.tail(segment), position);
    float* to_g = p.states.g(batch.tail(segment), position);
    for (int first = threadIdx.x; first < p.states.width; first += kTogether * kThreads) {
      float zs[kTogether];
      float gs[kTogether];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int channel = min(first + i * kThreads, p.states.width - 1);
        zs[i] = z(position, channel);
        gs[i] = g(position, channel);
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int channel = first + i * kThreads;
        if (channel < p.states.width) to_z[channel] = zs[i], to_g[channel] = gs[i];
      }
    }
  }
};

/// Soft-max weighted sum over the tokens of block b, channel n; with overlap the previous block's tokens enter with the
/// first half of the channels.
__device__ float pool(const TokenState& states, std::int64_t b, int n) {
  const CompressRows& p = states.p;
  const bool overlaps = p.states.width == 2 * p.row_width;
  const std::int64_t current = b * p.ratio;
  const int channel = overlaps ? p.row_width + n : n;
  float largest = -INFINITY;
  if (overlaps && b > 0)
    for (int i = 0; i < p.ratio; ++i) largest = fmaxf(largest, states.g(current - p.ratio + i, n));
  for (int i = 0; i < p.ratio; ++i) largest = fmaxf(largest, states.g(current + i, channel));
  float sum = 0;
  float weights = 0;
  const auto add = [&](std::int64_t position, int c) {
    const float w = expf(states.g(position, c) - largest);
    sum += w * states.z(position, c);
    weights += w;
  };
  if (overlaps && b > 0)
    for (int i = 0; i < p.ratio; ++i) add(current - p.ratio + i, n);
  for (int i = 0; i < p.ratio; ++i) add(current + i, channel);
  return sum / weights;
}

/// A block a row of the batch: it keeps the token's state and, when the token completes a block, makes the row.
__global__ void __launch_bounds__(kThreads) compress_kernel(const Batch batch, const CompressRows p) {
  extern __shared__ __align__(16) float values[];
  __shared__ float space[33];
  const int row = blockIdx.x;
  wait_for_previous();
  const SegmentView& segment = batch.segments[batch.segment_of[row]];
  const std::int64_t position = batch.positions[row];
  const TokenState states{batch, p, segment};
  if (segment.rows <= kRewindSlack) states.store(position);
  const auto ratio = static_cast<unsigned>(p.ratio);  // 64-bit division is slow
  const unsigned b = static_cast<unsigned>(position) / ratio;
  if (static_cast<unsigned>(position) - b * ratio != ratio - 1) return;
  for (int n = threadIdx.x; n < p.row_width; n += blockDim.x) values[n] = pool(states, b, n);
  const RowPlace place = batch.row_in_pages(segment, p.store, b);
  finish_row(values, p.norm, p.row_width, p.eps, p.frequencies, p.pairs, std::int64_t{b} * p.ratio, space);
  if (!p.indexer) encode_kv_row(p.format, values, p.row_width, 2 * p.pairs, place);
  else if (threadIdx.x < 32) encode_index_row(p.format, values, p.row_width, place);
}

__global__ void __launch_bounds__(kThreads) store_states_kernel(const Batch batch, const CompressRows p) {
  const int row = blockIdx.x;
  const SegmentView& segment = batch.segments[batch.segment_of[row]];
  const std::int64_t position = batch.positions[row];
  if (segment.rows <= kRewindSlack || position < segment.first_position + segment.rows - p.states.slots) return;
  TokenState{batch, p, segment}.store(position);
}

}  // namespace

void make_window_rows(const Batch& batch, const WindowRows& p, cudaStream_t stream) {
  const auto shared = static_cast<std::size_t>(p.head_dim) * sizeof(float);
  launch(window_kernel, dim3(static_cast<unsigned>(batch.rows)), kThreads, shared, stream, batch, p);
}

void store_window_rows(const Batch& batch, const WindowRows& p, cudaStream_t stream) {
  store_window_kernel<<<static_cast<unsigned>(batch.rows), kThreads, 0, stream>>>(batch, p);
}

void compress_rows(const Batch& batch, const CompressRows& p, bool long_segments, cudaStream_t stream) {
  const auto shared = static_cast<std::size_t>(p.row_width) * sizeof(float);
  launch(compress_kernel, dim3(static_cast<unsigned>(batch.rows)), kThreads, shared, stream, batch, p);
  if (long_segments) store_states_kernel<<<static_cast<unsigned>(batch.rows), kThreads, 0, stream>>>(batch, p);
}

}  // namespace ds4::cuda
