#include "backend/cuda/index_topk.h"

#include <algorithm>

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/select.h"

namespace ds4::cuda {

namespace {

/// A warp a (row, head): rotation, then the rounding that matches the stored keys.
__global__ void __launch_bounds__(128) query_kernel(const Batch batch, const IndexTopk p) {
  extern __shared__ __align__(16) float shared[];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const std::int64_t head = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + warp;
  wait_for_previous();
  if (head >= static_cast<std::int64_t>(batch.rows) * p.heads) return;
  float* v = shared + warp * p.dim;
  float* query = p.queries + head * p.dim;
  for (int i = lane; i < p.dim; i += 32) v[i] = query[i];
  __syncwarp();
  const std::int64_t position = batch.positions[head / p.heads];
#pragma unroll 1
  for (int i = lane; i < p.pairs; i += 32) {
    float* pair = v + p.dim - 2 * p.pairs + 2 * i;
    rotate_pair(pair[0], pair[1], position, p.frequencies[i]);
  }
  __syncwarp();
  if (p.format == KvFormat::kPacked) {
    warp_hadamard(v, p.dim);
    warp_round_fp4(v, p.dim, nullptr, nullptr);
  }
  for (int i = lane; i < p.dim; i += 32) {
    query[i] = v[i];
    p.half_queries[head * p.dim + i] = to_half(v[i]);
  }
}

__device__ float score_scale(int dim, int heads) {
  return static_cast<float>(1.0 / sqrt(static_cast<double>(dim)) / sqrt(static_cast<double>(heads)));
}

__device__ std::int64_t visible_rows(const Batch& batch, int row, int ratio) {
  return static_cast<unsigned>(batch.positions[row] + 1) / static_cast<unsigned>(ratio);
}

/// Any shape, f32: a warp a (row, key).
__global__ void __launch_bounds__(256)
    float_scores_kernel(const Batch batch, const IndexTopk p, int first_row, std::int64_t pitch) {
  const int row = first_row + blockIdx.y;
  const int lane = threadIdx.x % 32;
  const std::int64_t key = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (key >= visible_rows(batch, row, p.ratio)) return;
  const RowPlace place = batch.row_in_pages(batch.segments[batch.segment_of[row]], p.store, key);
  float score = 0;
  for (int h = 0; h < p.heads; ++h) {
    const float* q = p.queries + (static_cast<std::int64_t>(row) * p.heads + h) * p.dim;
    float dot = 0;
    for (int i = lane; i < p.dim; i += 32) dot += q[i] * index_value(p.format, place, i);
    score += p.head_weights[static_cast<std::int64_t>(row) * p.heads + h] * fmaxf(warp_sum(dot), 0.0F);
  }
  if (lane == 0) p.scores[blockIdx.y * pitch + key] = score * score_scale(p.dim, p.heads);
}

constexpr int kIndexDim = 128;
constexpr int kIndexHeads = 64;
constexpr int kKeys = 128;
constexpr int kQueryPitch = kIndexDim + 8;  // halves

/// dim 128, 64 heads, packed or f16 keys: block (128 keys, kQueryRows rows). Each of eight warps keeps 16 keys in
/// registers as the second operand and meets one row's 64 heads after the other.
template <int kQueryRows>
__global__ void __launch_bounds__(256)
    half_scores_kernel(const Batch batch, const IndexTopk p, int first_row, int rows, std::int64_t pitch) {
  __shared__ __align__(16) __half keys[kKeys][kQueryPitch];
  auto* query = keys;  // the keys move to registers and leave their place to the queries
  __shared__ float weights[kIndexHeads];
  const int thread = threadIdx.x;
  const int warp = thread / 32;
  const int lane = thread % 32;
  const std::int64_t first_key = static_cast<std::int64_t>(blockIdx.x) * kKeys;
  wait_for_previous();
  // With one row its queries come while the keys do.
  constexpr int kPieces = kIndexHeads * kIndexDim / 8 / 256;
  uint4 pieces[kPieces];
  const auto fetch_queries = [&](int row) {
    const auto* q =
        reinterpret_cast<const uint4*>(p.half_queries + static_cast<std::int64_t>(row) * kIndexHeads * kIndexDim);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) pieces[i] = q[thread + i * 256];
  };
  int loaded_segment = -1;
  std::uint32_t b[8][2][2];  // [step][keys 0..7 | 8..15][register]
  for (int i = 0; i < kQueryRows; ++i) {
    const int local = blockIdx.y * kQueryRows + i;
    if (local >= rows) break;
    const int row = first_row + local;
    const std::int64_t visible = visible_rows(batch, row, p.ratio);
    if (first_key >= visible) continue;
    if constexpr (kQueryRows == 1) fetch_queries(row);
    const int segment_number = batch.segment_of[row];
    if (segment_number != loaded_segment) {
      // All keys that any row of the segment in this block may see; later rows see more.
      const SegmentView& segment = batch.segments[segment_number];
      const std::int64_t stored = (segment.first_position + segment.rows) / p.ratio;
      __syncthreads();
      // A warp's keys are all asked for before the first is written.
      constexpr int kOwn = kKeys / 8;
      RowPlace place[kOwn];
#pragma unroll
      for (int j = 0; j < kOwn; ++j)
        place[j] = batch.row_in_pages(segment, p.store, min(first_key + warp + 8 * j, stored - 1));
      if (p.format == KvFormat::kPacked) {  // four values a lane; a value is exact in f16
        std::uint32_t four[kOwn];
        std::uint8_t scale[kOwn];
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          four[j] = *reinterpret_cast<const std::uint16_t*>(place[j].main + lane * 2);
          scale[j] = reinterpret_cast<const std::uint8_t*>(place[j].scale)[lane / 8];
        }
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          const float factor = first_key + warp + 8 * j < stored ? e8m0(scale[j]) : 0.0F;
          const auto value = [&](int i) { return from_e2m1(four[j] >> (4 * i) & 15) * factor; };
          auto* to = reinterpret_cast<__half2*>(&keys[warp + 8 * j][lane * 4]);
          to[0] = __floats2half2_rn(value(0), value(1));
          to[1] = __floats2half2_rn(value(2), value(3));
        }
      } else {
#pragma unroll
        for (int j = 0; j < kOwn; ++j)
          for (int d = lane; d < kIndexDim; d += 32)
            keys[warp + 8 * j][d] =
                first_key + warp + 8 * j < stored ? __float2half_rn(index_value(p.format, place[j], d)) : __half(0.0F);
      }
      __syncthreads();
#pragma unroll
      for (int s = 0; s < 8; ++s)
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const __half* key = keys[warp * 16 + n * 8 + lane / 4] + s * 16 + lane % 4 * 2;
          b[s][n][0] = *reinterpret_cast<const std::uint32_t*>(key);
          b[s][n][1] = *reinterpret_cast<const std::uint32_t*>(key + 8);
        }
      loaded_segment = segment_number;
    }
    __syncthreads();
    if constexpr (kQueryRows > 1) fetch_queries(row);
#pragma unroll
    for (int j = 0; j < kPieces; ++j) {
      const int c = thread + j * 256;
      *reinterpret_cast<uint4*>(&query[c / 16][c % 16 * 8]) = pieces[j];
    }
    if (thread < kIndexHeads) weights[thread] = p.head_weights[static_cast<std::int64_t>(row) * kIndexHeads + thread];
    __syncthreads();
    float score[2][2] = {};
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      float dots[2][4] = {};
#pragma unroll
      for (int s = 0; s < 8; ++s) {
        std::uint32_t a[4];
        const __half* at = query[m * 16 + lane / 4] + s * 16 + lane % 4 * 2;
        a[0] = *reinterpret_cast<const std::uint32_t*>(at);
        a[1] = *reinterpret_cast<const std::uint32_t*>(at + 8 * kQueryPitch);
        a[2] = *reinterpret_cast<const std::uint32_t*>(at + 8);
        a[3] = *reinterpret_cast<const std::uint32_t*>(at + 8 * kQueryPitch + 8);
        mma(dots[0], a, b[s][0][0], b[s][0][1]);
        mma(dots[1], a, b[s][1][0], b[s][1][1]);
      }
      const float low = weights[m * 16 + lane / 4];
      const float high = weights[m * 16 + lane / 4 + 8];
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) score[n][e] += low * fmaxf(dots[n][e], 0.0F) + high * fmaxf(dots[n][2 + e], 0.0F);
    }
    const float scale = score_scale(kIndexDim, kIndexHeads);
    std::uint32_t largest = 0;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float v = score[n][e];
        v += __shfl_xor_sync(~0u, v, 4);
        v += __shfl_xor_sync(~0u, v, 8);
        v += __shfl_xor_sync(~0u, v, 16);
        v *= scale;
        const std::int64_t key = first_key + warp * 16 + n * 8 + lane % 4 * 2 + e;
        if (key < visible) largest = max(largest, sortable(v));
        if (lane < 4 && key < visible) p.scores[local * pitch + key] = v;
      }
    static_assert(kScoreGroup == 16);
    largest = max(largest, __shfl_xor_sync(~0u, largest, 1));
    largest = max(largest, __shfl_xor_sync(~0u, largest, 2));
    if (lane == 0 && largest != 0) p.maxima[local * maxima_pitch(pitch) + first_key / kScoreGroup + warp] = largest;
  }
}

constexpr int kFewKeys = 32;  // of a warp at a time
constexpr int kFewScoreWarps = 4;
constexpr int kMostScoreBlocks = 396;  // of a row: three a multiprocessor; beyond that they take several groups of keys

/// Four halves of two steps of an operand from a word of eight FP4 values: (v0, v4), (v1, v5), (v2, v6), (v3, v7).
__device__ inline void expand_fp4(std::uint32_t word, __half2 scale, std::uint32_t* pairs) {
  const __half2 unit = __float2half2_rn(16384.0F);  // the bits below are 2^-14 of the value
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const std::uint32_t v = word << (12 - 4 * j);  // sign at bit 15, magnitude at 12..14 of each half
    pairs[j] = as_bits(__hmul2(__hmul2(as_half2((v & 0x80008000u) | (v >> 3 & 0x0e000e00u)), unit), scale));
  }
}

/// Sums over the eight lanes of equal lane % 4, of eight values at once: lane (g, t) gets that of v[g].
__device__ inline float sum_of_eight(const float (&v)[8], int g) {
  float four[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float kept = (g & 4) != 0 ? v[i + 4] : v[i];
    four[i] = kept + __shfl_xor_sync(~0u, (g & 4) != 0 ? v[i] : v[i + 4], 16);
  }
  float two[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float kept = (g & 2) != 0 ? four[i + 2] : four[i];
    two[i] = kept + __shfl_xor_sync(~0u, (g & 2) != 0 ? four[i] : four[i + 2], 8);
  }
  const float kept = (g & 1) != 0 ? two[1] : two[0];
  return kept + __shfl_xor_sync(~0u, (g & 1) != 0 ? two[0] : two[1], 4);
}

/// The same for one row each and packed keys: block (groups of keys, row). A warp expands its 32 keys once, as the
/// second operand in registers, and meets the 64 heads in fours of sixteen. In both operands lane (g, t) has the dims
/// 32 t .. 32 t + 31, a block of the keys, of row g.
__global__ void __launch_bounds__(kFewScoreWarps * 32, 3)
    few_scores_kernel(const Batch batch, const IndexTopk p, int first_row, std::int64_t pitch) {
  __shared__ __align__(16) __half queries[kIndexHeads][kQueryPitch];  // halves four dims apart side by side
  __shared__ float weights[kIndexHeads];
  const int row = first_row + blockIdx.y;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  const auto visible = static_cast<int>(visible_rows(batch, row, p.ratio));
  const SegmentView segment = batch.segments[batch.segment_of[row]];
  uint4 codes[kFewKeys / 8];
  std::uint32_t scales[kFewKeys / 8];
  const auto fetch = [&](int first) {  // all in one page
    const RowPlace place = batch.row_in_pages(segment, p.store, first);
#pragma unroll
    for (int n = 0; n < kFewKeys / 8; ++n) {
      const int key = min(8 * n + g, visible - 1 - first);
      codes[n] = *reinterpret_cast<const uint4*>(place.main + key * (kIndexDim / 2) + t * 16);
      scales[n] = reinterpret_cast<const std::uint8_t*>(place.scale)[key * (kIndexDim / 32) + t];
    }
  };
  int first = (static_cast<int>(blockIdx.x) * kFewScoreWarps + warp) * kFewKeys;
  wait_for_previous();
  if (first < visible) fetch(first);
  const __half* q = p.half_queries + static_cast<std::int64_t>(row) * kIndexHeads * kIndexDim;
#pragma unroll
  for (int i = threadIdx.x; i < kIndexHeads * 16; i += kFewScoreWarps * 32) {
    const int block = i % 4;  // of 32 dims
    const int eight = i / 4 % 4;
    const uint4 v = *reinterpret_cast<const uint4*>(q + i / 16 * kIndexDim + block * 32 + eight * 8);
    auto* to = reinterpret_cast<std::uint32_t*>(&queries[i / 16][eight * 32 + block * 2]);
    to[0] = __byte_perm(v.x, v.z, 0x5410);
    to[4] = __byte_perm(v.x, v.z, 0x7632);
    to[8] = __byte_perm(v.y, v.w, 0x5410);
    to[12] = __byte_perm(v.y, v.w, 0x7632);
  }
  if (threadIdx.x < kIndexHeads)
    weights[threadIdx.x] = p.head_weights[static_cast<std::int64_t>(row) * kIndexHeads + threadIdx.x];
  __syncthreads();
  const int step = static_cast<int>(gridDim.x) * kFewScoreWarps * kFewKeys;
#pragma unroll 1
  for (; first < visible; first += step) {
    std::uint32_t keys[kFewKeys / 8][16];
#pragma unroll
    for (int n = 0; n < kFewKeys / 8; ++n) {
      const __half2 scale = __float2half2_rn(e8m0(scales[n]));
      const std::uint32_t words[4] = {codes[n].x, codes[n].y, codes[n].z, codes[n].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) expand_fp4(words[j], scale, keys[n] + 4 * j);
    }
    if (first + step < visible) fetch(first + step);
    float sums[8] = {};  // of keys 8 (i / 2) + 2 t + i % 2
#pragma unroll 1
    for (int m = 0; m < kIndexHeads; m += 16) {
      float dots[kFewKeys / 8][4] = {};
#pragma unroll
      for (int s = 0; s < kIndexDim / 16; ++s) {
        std::uint32_t a[4];
        load_matrices(a, &queries[m + lane % 16][s * 16 + lane / 16 * 8]);
#pragma unroll
        for (int n = 0; n < kFewKeys / 8; ++n) mma(dots[n], a, keys[n][2 * s], keys[n][2 * s + 1]);
      }
      const float low = weights[m + g];
      const float high = weights[m + g + 8];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        sums[i] += low * fmaxf(dots[i / 2][i % 2], 0.0F) + high * fmaxf(dots[i / 2][2 + i % 2], 0.0F);
    }
    const float score = sum_of_eight(sums, g) * score_scale(kIndexDim, kIndexHeads);
    const int key = first + g / 2 * 8 + 2 * t + g % 2;
    if (key < visible) p.scores[blockIdx.y * pitch + key] = score;
    static_assert(kScoreGroup == 16 && kFewKeys == 32);  // half a warp each
    std::uint32_t largest = key < visible ? sortable(score) : 0;
    for (int other = 8; other > 0; other /= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, other));
    if (lane % 16 == 0 && largest != 0)
      p.maxima[blockIdx.y * maxima_pitch(pitch) + (first + lane) / kScoreGroup] = largest;
  }
}

/// Everything is visible and kept: no scores needed.
__global__ void take_all_kernel(const Batch batch, const IndexTopk p) {
  const int row = blockIdx.x;
  const auto visible = static_cast<int>(visible_rows(batch, row, p.ratio));
  if (threadIdx.x == 0) p.count[row] = visible;
  for (int i = threadIdx.x; i < visible; i += blockDim.x) p.selected[static_cast<std::int64_t>(row) * p.topk + i] = i;
}

}  // namespace

void index_queries(const Batch& batch, const IndexTopk& p, cudaStream_t stream) {
  const auto heads = static_cast<unsigned>((static_cast<std::int64_t>(batch.rows) * p.heads + 3) / 4);
  launch(query_kernel, dim3(heads), 128, static_cast<std::size_t>(p.dim) * 4 * sizeof(float), stream, batch, p);
}

void index_topk(const Batch& batch, const IndexTopk& p, cudaStream_t stream) {
  if (!p.selects()) {
    take_all_kernel<<<static_cast<unsigned>(batch.rows), 128, 0, stream>>>(batch, p);
    return;
  }
  const std::int64_t pitch = (p.max_visible + 127) / 128 * 128;
  const bool half = !p.exact && p.dim == kIndexDim && p.heads == kIndexHeads && p.format != KvFormat::kF32;
  for (int first = 0; first < batch.rows; first += p.score_rows) {
    const int rows = std::min(p.score_rows, batch.rows - first);
    if (half) {
      const auto key_blocks = static_cast<unsigned>(pitch / kKeys);
      if (rows <= 16 && p.format == KvFormat::kPacked && p.store.rows % kFewKeys == 0) {
        // Of as many sequences, most likely.
        constexpr int kTurn = kFewScoreWarps * kFewKeys;
        const auto blocks =
            static_cast<unsigned>(std::min<std::int64_t>((p.max_visible + kTurn - 1) / kTurn, kMostScoreBlocks));
        launch(few_scores_kernel, dim3(blocks, static_cast<unsigned>(rows)), kFewScoreWarps * 32, 0, stream, batch, p,
               first, pitch);
      } else if (rows <= 16)
        launch(half_scores_kernel<1>, dim3(key_blocks, static_cast<unsigned>(rows)), 256, 0, stream, batch, p, first,
               rows, pitch);
      else
        launch(half_scores_kernel<16>, dim3(key_blocks, static_cast<unsigned>((rows + 15) / 16)), 256, 0, stream, batch,
               p, first, rows, pitch);
    } else {
      const dim3 grid(static_cast<unsigned>((p.max_visible + 7) / 8), static_cast<unsigned>(rows));
      float_scores_kernel<<<grid, 256, 0, stream>>>(batch, p, first, pitch);
    }
    select({.scores = p.scores,
            .pitch = pitch,
            .rows = rows,
            .topk = p.topk,
            .positions = batch.positions + first,
            .ratio = p.ratio,
            .most = p.max_visible,
            .maxima = p.maxima,
            .has_maxima = half,
            .selected = p.selected + static_cast<std::int64_t>(first) * p.topk,
            .count = p.count + first},
           stream);
  }
}

}  // namespace ds4::cuda
