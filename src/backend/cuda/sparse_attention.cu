#include "backend/cuda/sparse_attention.h"

#include "backend/cuda/attention_keys.cuh"
#include "backend/cuda/launch.cuh"

namespace ds4::cuda {

namespace {

// --- any shape, f32 --------------------------------------------------------------------------------------------------

constexpr int kFloatThreads = 128;
constexpr int kFloatKeys = 16;
constexpr int kMaxDimsPerThread = 8;

/// A block a (head, row); keys in groups, running soft-max.
__global__ void __launch_bounds__(kFloatThreads) float_kernel(const Batch batch, const Attention p) {
  extern __shared__ float shared[];  // q [head_dim], keys [kFloatKeys][head_dim]
  __shared__ float weight[kFloatKeys];
  const int row = blockIdx.y;
  const int head = blockIdx.x;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  Keys keys(batch, p, row);
  keys.count_selected();
  float* q = shared;
  float* k = shared + p.head_dim;
  const std::int64_t at = (static_cast<std::int64_t>(row) * p.heads + head) * p.head_dim;
  for (int i = threadIdx.x; i < p.head_dim; i += kFloatThreads) q[i] = p.q[at + i];
  const float scale = static_cast<float>(1.0 / sqrt(static_cast<double>(p.head_dim)));
  float largest = p.sinks[head];
  float denominator = 1.0F;  // of the sink
  float sum[kMaxDimsPerThread] = {};
  for (int first = 0; first < keys.total; first += kFloatKeys) {
    const int group = min(kFloatKeys, keys.total - first);
    __syncthreads();
    for (int n = warp; n < group; n += kFloatThreads / 32) {
      const RowPlace place = keys.at(first + n);
      for (int i = lane; i < p.head_dim; i += 32)
        k[n * p.head_dim + i] = kv_value(p.format, place, p.head_dim, 2 * p.pairs, i);
    }
    __syncthreads();
    for (int n = warp; n < group; n += kFloatThreads / 32) {
      float dot = 0;
      for (int i = lane; i < p.head_dim; i += 32) dot += q[i] * k[n * p.head_dim + i];
      dot = warp_sum(dot);
      if (lane == 0) weight[n] = dot * scale;
    }
    __syncthreads();
    float group_largest = largest;
    for (int n = 0; n < group; ++n) group_largest = fmaxf(group_largest, weight[n]);
    const float shrink = expf(largest - group_largest);
    largest = group_largest;
    denominator *= shrink;
#pragma unroll
    for (int d = 0; d < kMaxDimsPerThread; ++d) sum[d] *= shrink;
    for (int n = 0; n < group; ++n) {
      const float w = expf(weight[n] - largest);
      denominator += w;
#pragma unroll
      for (int d = 0; d < kMaxDimsPerThread; ++d) {
        const int i = threadIdx.x + d * kFloatThreads;
        if (i < p.head_dim) sum[d] += w * k[n * p.head_dim + i];
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int d = 0; d < kMaxDimsPerThread; ++d) {
    const int i = threadIdx.x + d * kFloatThreads;
    if (i < p.head_dim) q[i] = sum[d] / denominator;
  }
  __syncthreads();
  const int plain = p.head_dim - 2 * p.pairs;
  for (int i = threadIdx.x; i < p.pairs; i += kFloatThreads)
    rotate_pair(q[plain + 2 * i], q[plain + 2 * i + 1], batch.positions[row], p.frequencies[i], /*inverse=*/true);
  __syncthreads();
  for (int i = threadIdx.x; i < p.head_dim; i += kFloatThreads) p.o[at + i] = q[i];
}

// --- head_dim 512, groups of 64 heads, f16 or packed rows: tensor cores ----------------------------------------------

struct Space {
  __half q[kTensorHeads][kKeyPitch];
  __half keys[kKeysAtOnce][kKeyPitch];
  __half weights[kTensorHeads][kKeysAtOnce + 8];
  float scores[kTensorHeads][kKeysAtOnce + 1];
  float shrink[kTensorHeads];
  float largest[kTensorHeads];
  float denominator[kTensorHeads];
};

/// Many rows: block (group of 64 heads, row). Warp w: heads 16 (w % 4) .., and for the scores keys 16 (w / 4) ..,
/// for the sums dims 256 (w / 4) ...
__global__ void __launch_bounds__(kAttentionThreads, 1) tensor_kernel(const Batch batch, const Attention p) {
  extern __shared__ __align__(16) std::byte memory[];
  Space& space = *reinterpret_cast<Space*>(memory);
  const int row = blockIdx.y;
  const int thread = threadIdx.x;
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int head_tile = warp % 4 * 16;
  const int half = warp / 4;
  const int first_head = blockIdx.x * kTensorHeads;
  Keys keys(batch, p, row);
  keys.count_selected();
  const int groups = (keys.total + kKeysAtOnce - 1) / kKeysAtOnce;

  const auto* q = reinterpret_cast<const uint4*>(p.q_half + (static_cast<std::int64_t>(row) * p.heads + first_head) *
                                                                kTensorHeadDim);
#pragma unroll 8
  for (int i = thread; i < kTensorHeads * kTensorHeadDim / 8; i += kAttentionThreads)
    *reinterpret_cast<uint4*>(&space.q[i / 64][i % 64 * 8]) = q[i];
  if (thread < kTensorHeads) {
    space.largest[thread] = -INFINITY;
    space.denominator[thread] = 0;
  }
  const int own_key = thread / 8;
  const int eighth = thread % 8;
  KeyPiece piece;
  fetch(piece, keys, own_key, eighth, p.format);

  float sum[32][4] = {};
  for (int group = 0; group < groups; ++group) {
    store(piece, space.keys[own_key], eighth, p.format);
    __syncthreads();
    if (group + 1 < groups) fetch(piece, keys, (group + 1) * kKeysAtOnce + own_key, eighth, p.format);

    float dots[2][4] = {};
#pragma unroll 8
    for (int s = 0; s < kTensorHeadDim / 16; ++s) {
      std::uint32_t a[4];
      std::uint32_t b[4];
      load_matrices(a, &space.q[head_tile + lane % 16][s * 16 + lane / 16 * 8]);
      load_matrices(b, &space.keys[half * 16 + lane / 16 * 8 + lane % 8][s * 16 + lane / 8 % 2 * 8]);
      mma(dots[0], a, b[0], b[1]);
      mma(dots[1], a, b[2], b[3]);
    }
    const float scale = 0.04419417382415922F;  // 512^-0.5
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        space.scores[head_tile + lane / 4 + e / 2 * 8][half * 16 + n * 8 + lane % 4 * 2 + e % 2] = dots[n][e] * scale;
    __syncthreads();
    {  // four threads a head
      const int head = thread / 4;
      const int first_key = thread % 4 * 8;
      float score[8];
      float largest = -INFINITY;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const bool valid = group * kKeysAtOnce + first_key + i < keys.total;
        score[i] = valid ? space.scores[head][first_key + i] : -INFINITY;
        largest = fmaxf(largest, score[i]);
      }
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
      const float before = space.largest[head];
      const float now = fmaxf(before, largest);
      float denominator = 0;
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        const float w0 = expf(score[i] - now);
        const float w1 = expf(score[i + 1] - now);
        denominator += w0 + w1;
        *reinterpret_cast<__half2*>(&space.weights[head][first_key + i]) = __floats2half2_rn(w0, w1);
      }
      denominator += __shfl_xor_sync(~0u, denominator, 1);
      denominator += __shfl_xor_sync(~0u, denominator, 2);
      __syncwarp();
      if (thread % 4 == 0) {
        const float shrink = expf(before - now);  // 0 at first
        space.shrink[head] = shrink;
        space.largest[head] = now;
        space.denominator[head] = space.denominator[head] * shrink + denominator;
      }
    }
    __syncthreads();
    const float low = space.shrink[head_tile + lane / 4];
    const float high = space.shrink[head_tile + lane / 4 + 8];
    if (group != 0 && !__all_sync(~0u, low == 1.0F && high == 1.0F)) {
#pragma unroll
      for (int n = 0; n < 32; ++n) {
        sum[n][0] *= low;
        sum[n][1] *= low;
        sum[n][2] *= high;
        sum[n][3] *= high;
      }
    }
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      std::uint32_t a[4];
      load_matrices(a, &space.weights[head_tile + lane % 16][s * 16 + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        std::uint32_t b[4];
        load_matrices_transposed(b, &space.keys[s * 16 + lane % 16][half * 256 + n * 16 + lane / 16 * 8]);
        mma(sum[2 * n], a, b[0], b[1]);
        mma(sum[2 * n + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();
  }
  __syncthreads();

  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int head = head_tile + lane / 4 + 8 * r;
    const float sink = p.sinks[first_head + head];
    const float largest = fmaxf(space.largest[head], sink);
    const float shrink = expf(space.largest[head] - largest);
    factor[r] = shrink / (space.denominator[head] * shrink + expf(sink - largest));
  }
  const std::int64_t position = batch.positions[row];
#pragma unroll
  for (int n = 0; n < 32; ++n) {
    const int dim = half * 256 + n * 8 + lane % 4 * 2;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float a = sum[n][2 * r] * factor[r];
      float b = sum[n][2 * r + 1] * factor[r];
      const int pair = (dim - (kTensorHeadDim - 2 * p.pairs)) / 2;
      if (dim >= kTensorHeadDim - 2 * p.pairs) rotate_pair(a, b, position, p.frequencies[pair], /*inverse=*/true);
      float* o =
          p.o +
          (static_cast<std::int64_t>(row) * p.heads + first_head + head_tile + lane / 4 + 8 * r) * kTensorHeadDim + dim;
      *reinterpret_cast<float2*>(o) = make_float2(a, b);
      *reinterpret_cast<__half2*>(p.o_half + (o - p.o)) = __halves2half2(to_half(a), to_half(b));
    }
  }
}

bool fits_tensor_cores(const Attention& p) {
  return !p.exact && p.head_dim == kTensorHeadDim && p.heads % kTensorHeads == 0 && p.pairs == 32 &&
         p.format != KvFormat::kF32;
}

}  // namespace

bool finishes_queries(const Attention& p, int rows) { return rows <= kSplitRows && fits_tensor_cores(p); }

bool sparse_attention(const Batch& batch, const Attention& p, cudaStream_t stream) {
  if (!fits_tensor_cores(p)) {
    const auto shared = static_cast<std::size_t>((1 + kFloatKeys) * p.head_dim) * sizeof(float);
    allow_shared(float_kernel, 96 * 1024);
    float_kernel<<<dim3(static_cast<unsigned>(p.heads), static_cast<unsigned>(batch.rows)), kFloatThreads, shared,
                   stream>>>(batch, p);
    return false;
  }
  const auto rows = static_cast<unsigned>(batch.rows);
  if (batch.rows > kSplitRows) {
    allow_shared(tensor_kernel, sizeof(Space));
    tensor_kernel<<<dim3(static_cast<unsigned>(p.heads / kTensorHeads), rows), kAttentionThreads, sizeof(Space),
                    stream>>>(batch, p);
    return true;
  }
  few_attention(batch, p, stream);
  return true;
}

}  // namespace ds4::cuda
