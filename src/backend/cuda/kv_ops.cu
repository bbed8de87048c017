#include "backend/cuda/kv_ops.h"

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/file_values.cuh"

namespace ds4::cuda {

namespace {

/// Norm, rotation of the last pairs; row in shared memory, one warp.
__device__ void finish_row(float* row, const float* weight, int width, float eps, const float* frequencies, int pairs,
                           std::int64_t position) {
  const int lane = threadIdx.x % 32;
  __syncwarp();
  float squares = 0;
  for (int i = lane; i < width; i += 32) squares += row[i] * row[i];
  const float r = rsqrtf(warp_sum(squares) / static_cast<float>(width) + eps);
  for (int i = lane; i < width; i += 32) row[i] *= r * weight[i];
  __syncwarp();
  for (int i = lane; i < pairs; i += 32) {
    float* pair = row + width - 2 * pairs + 2 * i;
    rotate_pair(pair[0], pair[1], position, frequencies[i]);
  }
  __syncwarp();
}

__device__ void copy_bytes(std::byte* to, const std::byte* from, std::uint32_t bytes) {
  for (std::uint32_t i = threadIdx.x % 32; i < bytes; i += 32) to[i] = from[i];
}

/// A warp a row.
__global__ void window_kernel(const Batch batch, const WindowRows p) {
  extern __shared__ float shared[];
  const int warp = threadIdx.x / 32;
  const int row = blockIdx.x * (blockDim.x / 32) + warp;
  if (row >= batch.rows) return;
  float* values = shared + warp * p.head_dim;
  for (int i = threadIdx.x % 32; i < p.head_dim; i += 32) values[i] = p.kv[static_cast<std::int64_t>(row) * p.head_dim + i];
  const std::int64_t position = batch.positions[row];
  finish_row(values, p.weight, p.head_dim, p.eps, p.frequencies, p.pairs, position);
  const RowPlace fresh = p.fresh_rows.at(p.fresh, row);
  encode_kv_row(p.format, values, p.head_dim, 2 * p.pairs, fresh);
  const SegmentView& segment = batch.segments[batch.segment_of[row]];
  if (segment.rows > kRewindSlack) return;
  __syncwarp();
  const RowPlace place = p.ring.at(batch.tail(segment), static_cast<int>(position % p.ring.rows));
  copy_bytes(place.main, fresh.main, p.ring.main_bytes);
  copy_bytes(place.scale, fresh.scale, p.ring.scale_bytes);
}

__global__ void store_window_kernel(const Batch batch, const WindowRows p) {
  const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= batch.rows) return;
  const SegmentView& segment = batch.segments[batch.segment_of[row]];
  const std::int64_t position = batch.positions[row];
  if (segment.rows <= kRewindSlack || position < segment.first_position + segment.rows - p.ring.rows) return;
  const RowPlace fresh = p.fresh_rows.at(p.fresh, row);
  const RowPlace place = p.ring.at(batch.tail(segment), static_cast<int>(position % p.ring.rows));
  copy_bytes(place.main, fresh.main, p.ring.main_bytes);
  copy_bytes(place.scale, fresh.scale, p.ring.scale_bytes);
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
           file_value(p.ape.type, p.ape.row(0, position % p.ratio), channel, p.ape.iq2);
  }
  __device__ void store(std::int64_t position, int channel) const {
    p.states.z(batch.tail(segment), position)[channel] = z(position, channel);
    p.states.g(batch.tail(segment), position)[channel] = g(position, channel);
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
__global__ void __launch_bounds__(256) compress_kernel(const Batch batch, const CompressRows p) {
  extern __shared__ float values[];
  const int row = blockIdx.x;
  const SegmentView& segment = batch.segments[batch.segment_of[row]];
  const std::int64_t position = batch.positions[row];
  const TokenState states{batch, p, segment};
  if (segment.rows <= kRewindSlack)
    for (int c = threadIdx.x; c < p.states.width; c += blockDim.x) states.store(position, c);
  if ((position + 1) % p.ratio != 0) return;
  const std::int64_t b = position / p.ratio;
  for (int n = threadIdx.x; n < p.row_width; n += blockDim.x) values[n] = pool(states, b, n);
  __syncthreads();
  if (threadIdx.x >= 32) return;
  finish_row(values, p.norm, p.row_width, p.eps, p.frequencies, p.pairs, b * p.ratio);
  const RowPlace place = batch.row_in_pages(segment, p.store, b);
  if (p.indexer) encode_index_row(p.format, values, p.row_width, place);
  else encode_kv_row(p.format, values, p.row_width, 2 * p.pairs, place);
}

__global__ void store_states_kernel(const Batch batch, const CompressRows p) {
  const int row = blockIdx.x;
  const SegmentView& segment = batch.segments[batch.segment_of[row]];
  const std::int64_t position = batch.positions[row];
  if (segment.rows <= kRewindSlack || position < segment.first_position + segment.rows - p.states.slots) return;
  const TokenState states{batch, p, segment};
  for (int c = threadIdx.x; c < p.states.width; c += blockDim.x) states.store(position, c);
}

}  // namespace

void make_window_rows(const Batch& batch, const WindowRows& p, cudaStream_t stream) {
  const int warps = batch.rows >= 64 ? 4 : 1;
  const auto shared = static_cast<std::size_t>(warps) * static_cast<std::size_t>(p.head_dim) * sizeof(float);
  window_kernel<<<static_cast<unsigned>((batch.rows + warps - 1) / warps), static_cast<unsigned>(warps * 32), shared, stream>>>(
      batch, p);
}

void store_window_rows(const Batch& batch, const WindowRows& p, cudaStream_t stream) {
  store_window_kernel<<<static_cast<unsigned>((batch.rows + 3) / 4), 128, 0, stream>>>(batch, p);
}

void compress_rows(const Batch& batch, const CompressRows& p, bool long_segments, cudaStream_t stream) {
  const auto shared = static_cast<std::size_t>(p.row_width) * sizeof(float);
  compress_kernel<<<static_cast<unsigned>(batch.rows), 256, shared, stream>>>(batch, p);
  if (long_segments) store_states_kernel<<<static_cast<unsigned>(batch.rows), 256, 0, stream>>>(batch, p);
}

}  // namespace ds4::cuda
