#include "backend/cuda/sparse_attention.h"

#include <cuda_fp8.h>

#include <algorithm>

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/launch.cuh"

namespace ds4::cuda {

namespace {

/// The keys of one row: compressed rows first, then the window, ascending.
struct Keys {
  const Batch& batch;
  const Attention& p;
  SegmentView segment;
  int row;
  std::int64_t first_window;
  int compressed;
  int total;

  __device__ Keys(const Batch& b, const Attention& a, int r)
      : batch(b), p(a), segment(b.segments[b.segment_of[r]]), row(r) {
    const std::int64_t position = b.positions[r];
    first_window = max(static_cast<std::int64_t>(0), position - a.window + 1);
    // 64-bit division is slow
    compressed =
        a.ratio == 0 ? 0 : static_cast<int>((static_cast<unsigned>(position) + 1) / static_cast<unsigned>(a.ratio));
    total = static_cast<int>(position - first_window + 1);
  }
  /// What the step itself made: after wait_for_previous(), before anything else.
  __device__ void count_selected() {
    if (p.selected != nullptr) compressed = p.count[row];
    total += compressed;
  }
  __device__ RowPlace at(int i) const {
    if (i < compressed) {
      const std::int64_t b = p.selected != nullptr ? p.selected[static_cast<std::int64_t>(row) * p.topk + i] : i;
      return batch.row_in_pages(segment, p.compressed, b);
    }
    const std::int64_t position = first_window + i - compressed;
    if (position >= segment.first_position)
      return p.fresh_rows.at(p.fresh, static_cast<int>(segment.first_row + position - segment.first_position));
    return p.ring.at(batch.tail(segment),
                     static_cast<int>(static_cast<unsigned>(position) % static_cast<unsigned>(p.ring.rows)));
  }
};

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

constexpr int kKeysAtOnce = 32;
constexpr int kThreads = 256;
constexpr int kKeyPitch = kTensorHeadDim + 8;  // halves: rows 16 bytes apart modulo the banks
constexpr int kWeightPitch = kKeysAtOnce + 8;
constexpr int kPartFloats = kTensorHeadDim + 2;  // sums, largest score, denominator

struct Space {
  __half q[kTensorHeads][kKeyPitch];
  __half keys[kKeysAtOnce][kKeyPitch];
  __half weights[kTensorHeads][kWeightPitch];
  float scores[kTensorHeads][kKeysAtOnce + 1];
  float shrink[kTensorHeads];
  float largest[kTensorHeads];
  float denominator[kTensorHeads];
};

/// What a thread carries of the next keys: an eighth of one row, in pieces of 16 bytes, every eighth one, so that the
/// eight threads of a row read and write whole lines.
struct KeyPiece {
  uint4 raw[8];            // f16: all; packed: up to four of FP8 values, then [4] of BF16 values
  std::uint8_t scales[4];  // of the FP8 pieces
};
constexpr int kFp8Pieces = (kTensorHeadDim - 64) / 16;

/// Thread (key, eighth).
__device__ inline void fetch(KeyPiece& piece, const Keys& keys, int i, int eighth, KvFormat format) {
  if (i >= keys.total) {
#pragma unroll
    for (int j = 0; j < 8; ++j) piece.raw[j] = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int j = 0; j < 4; ++j) piece.scales[j] = 0;  // the smallest
    return;
  }
  const RowPlace place = keys.at(i);
  const auto* from = reinterpret_cast<const uint4*>(place.main) + eighth;
  if (format == KvFormat::kF16) {
#pragma unroll
    for (int j = 0; j < 8; ++j) piece.raw[j] = from[j * 8];
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j * 8 + eighth >= kFp8Pieces) continue;
    piece.raw[j] = from[j * 8];
    piece.scales[j] = reinterpret_cast<const std::uint8_t*>(place.scale)[j * 2 + eighth / 4];
  }
  piece.raw[4] = from[kFp8Pieces];
}

__device__ inline std::uint32_t fp8_pair(std::uint32_t two, __half2 scale) {
  const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two & 0xffff), __NV_E4M3);
  return as_bits(__hmul2(*reinterpret_cast<const __half2*>(&h), scale));
}
__device__ inline std::uint32_t bf16_pair(std::uint32_t two) {
  return as_bits(__halves2half2(to_half(__uint_as_float(two << 16)), to_half(__uint_as_float(two & 0xffff0000u))));
}

__device__ inline void store(const KeyPiece& piece, __half* to, int eighth, KvFormat format) {
  auto* out = reinterpret_cast<uint4*>(to);
  if (format == KvFormat::kF16) {
#pragma unroll
    for (int j = 0; j < 8; ++j) out[j * 8 + eighth] = piece.raw[j];
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int number = j * 8 + eighth;
    if (number >= kFp8Pieces) continue;
    const __half2 scale = __float2half2_rn(e8m0(piece.scales[j]));
    const uint4 v = piece.raw[j];
    out[2 * number] =
        make_uint4(fp8_pair(v.x, scale), fp8_pair(v.x >> 16, scale), fp8_pair(v.y, scale), fp8_pair(v.y >> 16, scale));
    out[2 * number + 1] =
        make_uint4(fp8_pair(v.z, scale), fp8_pair(v.z >> 16, scale), fp8_pair(v.w, scale), fp8_pair(v.w >> 16, scale));
  }
  const uint4 v = piece.raw[4];
  out[2 * kFp8Pieces + eighth] = make_uint4(bf16_pair(v.x), bf16_pair(v.y), bf16_pair(v.z), bf16_pair(v.w));
}

/// Many rows: block (group of 64 heads, row). Warp w: heads 16 (w % 4) .., and for the scores keys 16 (w / 4) ..,
/// for the sums dims 256 (w / 4) ...
__global__ void __launch_bounds__(kThreads, 1) tensor_kernel(const Batch batch, const Attention p) {
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
  const int first_group = 0;
  const int last_group = groups;

  const auto* q = reinterpret_cast<const uint4*>(p.q_half + (static_cast<std::int64_t>(row) * p.heads + first_head) *
                                                                kTensorHeadDim);
#pragma unroll 8
  for (int i = thread; i < kTensorHeads * kTensorHeadDim / 8; i += kThreads)
    *reinterpret_cast<uint4*>(&space.q[i / 64][i % 64 * 8]) = q[i];
  if (thread < kTensorHeads) {
    space.largest[thread] = -INFINITY;
    space.denominator[thread] = 0;
  }
  const int own_key = thread / 8;
  const int eighth = thread % 8;
  KeyPiece piece;
  if (first_group < last_group) fetch(piece, keys, first_group * kKeysAtOnce + own_key, eighth, p.format);

  float sum[32][4] = {};
  for (int group = first_group; group < last_group; ++group) {
    store(piece, space.keys[own_key], eighth, p.format);
    __syncthreads();
    if (group + 1 < last_group) fetch(piece, keys, (group + 1) * kKeysAtOnce + own_key, eighth, p.format);

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
    if (group != first_group && !__all_sync(~0u, low == 1.0F && high == 1.0F)) {
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

constexpr int kFewHeads = 16;

struct FewSpace {
  __half q[kFewHeads][kKeyPitch];
  __half keys[kKeysAtOnce][kKeyPitch];
  __half weights[kFewHeads][kWeightPitch];
  float scores[2][kFewHeads][kKeysAtOnce + 1];
  float shrink[kFewHeads];
  float largest[kFewHeads];
  float denominator[kFewHeads];
};

/// The norm of every head and the rotation of its last 64 values. Sixteen threads a head, 32 values each: four of
/// every 64.
__device__ void finish_queries(const float* q, std::int64_t position, const Attention& p,
                               __half (&to)[kFewHeads][kKeyPitch]) {
  const int head = threadIdx.x / 16;
  const int own = threadIdx.x % 16 * 4;
  float4 v[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) v[j] = *reinterpret_cast<const float4*>(q + head * kTensorHeadDim + j * 64 + own);
  float squares = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) squares += v[j].x * v[j].x + v[j].y * v[j].y + v[j].z * v[j].z + v[j].w * v[j].w;
  for (int step = 8; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
  const float r = rsqrtf(squares / static_cast<float>(kTensorHeadDim) + p.eps);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    v[j] = {v[j].x * r, v[j].y * r, v[j].z * r, v[j].w * r};
    if (j == 7) {
      rotate_pair(v[j].x, v[j].y, position, p.frequencies[own / 2]);
      rotate_pair(v[j].z, v[j].w, position, p.frequencies[own / 2 + 1]);
    }
    const __half2 low = __halves2half2(to_half(v[j].x), to_half(v[j].y));
    const __half2 high = __halves2half2(to_half(v[j].z), to_half(v[j].w));
    *reinterpret_cast<uint2*>(&to[head][j * 64 + own]) = make_uint2(as_bits(low), as_bits(high));
  }
}

/// Few rows: block (16 heads, row, split of the keys), so that many blocks share the work of one token. Warp w: for the
/// scores keys 8 (w % 4) .. and dims 256 (w / 4) .., for the sums dims 64 w ... Leaves parts.
__global__ void __launch_bounds__(kThreads) few_tensor_kernel(const Batch batch, const Attention p, int splits) {
  extern __shared__ __align__(16) std::byte memory[];
  FewSpace& space = *reinterpret_cast<FewSpace*>(memory);
  const int row = blockIdx.y;
  const int thread = threadIdx.x;
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int first_head = blockIdx.x * kFewHeads;
  const int own_key = thread / 8;
  const int eighth = thread % 8;
  Keys keys(batch, p, row);
  wait_for_previous();
  keys.count_selected();
  const int groups = (keys.total + kKeysAtOnce - 1) / kKeysAtOnce;
  const int first_group = groups * static_cast<int>(blockIdx.z) / splits;
  const int last_group = groups * (static_cast<int>(blockIdx.z) + 1) / splits;
  KeyPiece piece;
  if (first_group < last_group) fetch(piece, keys, first_group * kKeysAtOnce + own_key, eighth, p.format);
  const std::int64_t first_q = (static_cast<std::int64_t>(row) * p.heads + first_head) * kTensorHeadDim;
  if (p.q_half == nullptr) {
    finish_queries(p.q + first_q, batch.positions[row], p, space.q);
  } else {
    const auto* q = reinterpret_cast<const uint4*>(p.q_half + first_q);
#pragma unroll
    for (int i = thread; i < kFewHeads * kTensorHeadDim / 8; i += kThreads)
      *reinterpret_cast<uint4*>(&space.q[i / 64][i % 64 * 8]) = q[i];
  }
  if (thread < kFewHeads) {
    space.largest[thread] = -INFINITY;
    space.denominator[thread] = 0;
  }
  float sum[8][4] = {};
  for (int group = first_group; group < last_group; ++group) {
    store(piece, space.keys[own_key], eighth, p.format);
    __syncthreads();
    if (group + 1 < last_group) fetch(piece, keys, (group + 1) * kKeysAtOnce + own_key, eighth, p.format);
    float dots[4] = {};
#pragma unroll 2
    for (int s = 0; s < 8; ++s) {  // 32 dims each
      const int dim = warp / 4 * 256 + s * 32;
      std::uint32_t b[4];
      load_matrices(b, &space.keys[warp % 4 * 8 + lane % 8][dim + lane / 8 * 8]);
      std::uint32_t a[4];
      load_matrices(a, &space.q[lane % 16][dim + lane / 16 * 8]);
      mma(dots, a, b[0], b[1]);
      load_matrices(a, &space.q[lane % 16][dim + 16 + lane / 16 * 8]);
      mma(dots, a, b[2], b[3]);
    }
#pragma unroll
    for (int e = 0; e < 4; ++e)
      space.scores[warp / 4][lane / 4 + e / 2 * 8][warp % 4 * 8 + lane % 4 * 2 + e % 2] = dots[e];
    __syncthreads();
    {                                                 // sixteen threads a head, two keys each
      constexpr float kScale = 0.04419417382415922F;  // 512^-0.5
      const int head = thread / 16;
      const int key = thread % 16 * 2;
      const int left = keys.total - group * kKeysAtOnce;
      const float s0 = key < left ? (space.scores[0][head][key] + space.scores[1][head][key]) * kScale : -INFINITY;
      const float s1 =
          key + 1 < left ? (space.scores[0][head][key + 1] + space.scores[1][head][key + 1]) * kScale : -INFINITY;
      float now = fmaxf(s0, s1);
      for (int step = 8; step > 0; step /= 2) now = fmaxf(now, __shfl_xor_sync(~0u, now, step));
      const float before = space.largest[head];
      now = fmaxf(now, before);
      const float w0 = expf(s0 - now);
      const float w1 = expf(s1 - now);
      *reinterpret_cast<__half2*>(&space.weights[head][key]) = __floats2half2_rn(w0, w1);
      float denominator = w0 + w1;
      for (int step = 8; step > 0; step /= 2) denominator += __shfl_xor_sync(~0u, denominator, step);
      __syncwarp();
      if (thread % 16 == 0) {
        const float shrink = expf(before - now);
        space.shrink[head] = shrink;
        space.largest[head] = now;
        space.denominator[head] = space.denominator[head] * shrink + denominator;
      }
    }
    __syncthreads();
    if (group != first_group) {
      const float low = space.shrink[lane / 4];
      const float high = space.shrink[lane / 4 + 8];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        sum[n][0] *= low;
        sum[n][1] *= low;
        sum[n][2] *= high;
        sum[n][3] *= high;
      }
    }
#pragma unroll 1
    for (int s = 0; s < 2; ++s) {
      std::uint32_t a[4];
      load_matrices(a, &space.weights[lane % 16][s * 16 + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        std::uint32_t b[4];
        load_matrices_transposed(b, &space.keys[s * 16 + lane % 16][warp * 64 + n * 16 + lane / 16 * 8]);
        mma(sum[2 * n], a, b[0], b[1]);
        mma(sum[2 * n + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();
  }
  __syncthreads();
  float* part = p.parts + ((static_cast<std::int64_t>(row) * p.heads + first_head) * splits + blockIdx.z) * kPartFloats;
  const std::int64_t pitch = static_cast<std::int64_t>(splits) * kPartFloats;
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int r = 0; r < 2; ++r)
      *reinterpret_cast<float2*>(part + (lane / 4 + 8 * r) * pitch + warp * 64 + n * 8 + lane % 4 * 2) =
          make_float2(sum[n][2 * r], sum[n][2 * r + 1]);
  if (thread < kFewHeads) {
    float* end = part + thread * pitch + kTensorHeadDim;
    end[0] = space.largest[thread];
    end[1] = space.denominator[thread];
  }
}

constexpr int kCombineGroups = 4;
constexpr int kCombineThreads = kCombineGroups * kTensorHeadDim / 4;
constexpr int kEarlyParts = 5;  // of a group

/// Puts the splits of a head together: block (head, row), a group of threads every fourth split.
__global__ void __launch_bounds__(kCombineThreads) combine_kernel(const Batch batch, const Attention p, int splits) {
  static_assert(kMaxSplits <= 64);
  __shared__ float4 sums[kCombineGroups][kTensorHeadDim / 4];
  const int head = blockIdx.x;
  const int row = blockIdx.y;
  const int lane = threadIdx.x % 32;
  const int group = threadIdx.x / (kTensorHeadDim / 4);
  const int own = threadIdx.x % (kTensorHeadDim / 4);
  const float sink = p.sinks[head];
  wait_for_previous();
  const float* parts = p.parts + (static_cast<std::int64_t>(row) * p.heads + head) * splits * kPartFloats;
  const auto part = [&](int split) {  // rows lie at multiples of 8 bytes
    const auto* from = reinterpret_cast<const float2*>(parts + split * kPartFloats) + 2 * own;
    const float2 low = from[0];
    const float2 high = from[1];
    return float4{low.x, low.y, high.x, high.y};
  };
  float4 early[kEarlyParts];
#pragma unroll
  for (int i = 0; i < kEarlyParts; ++i)
    if (group + i * kCombineGroups < splits) early[i] = part(group + i * kCombineGroups);
  const auto end = [&](int split) {
    return split < splits ? *reinterpret_cast<const float2*>(parts + split * kPartFloats + kTensorHeadDim)
                          : float2{-INFINITY, 0.0F};
  };
  const float2 first = end(lane);  // largest score, denominator
  const float2 second = end(lane + 32);
  const float largest = warp_max(fmaxf(fmaxf(first.x, second.x), sink));
  const float weights[2] = {expf(first.x - largest), expf(second.x - largest)};  // 0 for a split without keys
  const float denominator = warp_sum(weights[0] * first.y + weights[1] * second.y) + expf(sink - largest);
  float4 sum = {};
  const auto add = [&](int split, const float4& v) {
    const float w = __shfl_sync(~0u, split < 32 ? weights[0] : weights[1], split % 32);
    sum = {sum.x + w * v.x, sum.y + w * v.y, sum.z + w * v.z, sum.w + w * v.w};
  };
#pragma unroll
  for (int i = 0; i < kEarlyParts; ++i)
    if (group + i * kCombineGroups < splits) add(group + i * kCombineGroups, early[i]);
#pragma unroll 4
  for (int split = group + kEarlyParts * kCombineGroups; split < splits; split += kCombineGroups)
    add(split, part(split));
  sums[group][own] = sum;
  __syncthreads();
  if (threadIdx.x >= kTensorHeadDim / 2) return;
  const int dim = threadIdx.x * 2;
  float a = 0;
  float b = 0;
#pragma unroll
  for (int g = 0; g < kCombineGroups; ++g) {
    const float2 v = reinterpret_cast<const float2*>(sums[g])[threadIdx.x];
    a += v.x;
    b += v.y;
  }
  a /= denominator;
  b /= denominator;
  const int plain = kTensorHeadDim - 2 * p.pairs;
  if (dim >= plain) rotate_pair(a, b, batch.positions[row], p.frequencies[(dim - plain) / 2], /*inverse=*/true);
  const std::int64_t at = (static_cast<std::int64_t>(row) * p.heads + head) * kTensorHeadDim + dim;
  *reinterpret_cast<float2*>(p.o + at) = make_float2(a, b);
  *reinterpret_cast<__half2*>(p.o_half + at) = __halves2half2(to_half(a), to_half(b));
}

bool fits_tensor_cores(const Attention& p) {
  return !p.exact && p.head_dim == kTensorHeadDim && p.heads % kTensorHeads == 0 && p.pairs == 32 &&
         p.format != KvFormat::kF32;
}

}  // namespace

std::size_t attention_scratch_floats(int heads, int head_dim, int multiprocessors) {
  if (head_dim != kTensorHeadDim) return 0;
  // Splits are only made while all blocks fit on the card at once; a block leaves kTensorHeads parts.
  return static_cast<std::size_t>(std::max(multiprocessors, kSplitRows * heads / kTensorHeads)) * kTensorHeads *
         kPartFloats;
}

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
    tensor_kernel<<<dim3(static_cast<unsigned>(p.heads / kTensorHeads), rows), kThreads, sizeof(Space), stream>>>(batch,
                                                                                                                  p);
    return true;
  }
  const int head_groups = p.heads / kFewHeads;
  const auto groups = static_cast<int>((p.max_keys + kKeysAtOnce - 1) / kKeysAtOnce);
  const int splits = std::clamp(2 * p.multiprocessors / (batch.rows * head_groups), 1, std::min(groups, kMaxSplits));
  const dim3 grid(static_cast<unsigned>(head_groups), rows, static_cast<unsigned>(splits));
  // While a multiprocessor for each is there they ask for more than half of its memory: blocks that come early, beside
  // the last ones of another kernel, would pair up where there is room first.
  const std::size_t alone = std::max(sizeof(FewSpace), p.shared_of_multiprocessor / 2 + 1024);
  const bool apart = grid.x * grid.y * grid.z <= static_cast<unsigned>(p.multiprocessors);
  const std::size_t bytes = apart ? alone : sizeof(FewSpace);
  allow_shared(few_tensor_kernel, alone);  // the same in every step that is recorded
  launch(few_tensor_kernel, grid, kThreads, bytes, stream, batch, p, splits);
  launch(combine_kernel, dim3(static_cast<unsigned>(p.heads), rows), kCombineThreads, 0, stream, batch, p, splits);
  return true;
}

}  // namespace ds4::cuda
