#include "backend/cuda/index_topk.h"

#include <algorithm>

#include "backend/cuda/async_copy.cuh"
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/select.h"

namespace ds4::cuda {

namespace {

constexpr int kIndexDim = 128;
constexpr int kIndexHeads = 64;

/// Of a dim of a query among its halves: eight steps of an operand of the tensor cores, in which lane (g, t) has the
/// dims 32 t .. 32 t + 31 of row g, a block of the keys, and of these two that are four apart side by side.
__device__ int operand_place(int dim) {
  const int block = dim / 32;
  const int eight = dim / 8 % 4;
  const int pair = dim % 4;
  return eight * 32 + pair * 8 + block * 2 + dim / 4 % 2;
}

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
    if (p.dim == kIndexDim) p.half_queries[head * kIndexDim + operand_place(i)] = to_half(v[i]);
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

constexpr int kQueryPitch = kIndexDim + 8;  // halves
constexpr int kWarpKeys = 32;
constexpr int kTiles = kWarpKeys / 8;
using Keys = std::uint32_t[kTiles][16];  // of a lane: block t of the keys 8 n + g, as the second operand

/// Four halves of two steps of an operand from a word of eight FP4 values: (v0, v4), (v1, v5), (v2, v6), (v3, v7).
__device__ inline void expand_fp4(std::uint32_t word, __half2 scale, std::uint32_t* pairs) {
  const __half2 unit = __float2half2_rn(16384.0F);  // the bits below are 2^-14 of the value
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const std::uint32_t v = word << (12 - 4 * j);  // sign at bit 15, magnitude at 12..14 of each half
    pairs[j] = as_bits(__hmul2(__hmul2(as_half2((v & 0x80008000u) | (v >> 3 & 0x0e000e00u)), unit), scale));
  }
}

/// A lane's share of 32 packed keys.
struct PackedKeys {
  uint4 codes[kTiles];
  std::uint32_t scales[kTiles];

  /// Of the keys from `first` on, which lie in one page; beyond the `stored` ones the last.
  __device__ void fetch(const RowPlace& place, int first, int stored) {
    const int g = threadIdx.x % 32 / 4;
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int key = min(8 * n + g, stored - 1 - first);
      codes[n] = *reinterpret_cast<const uint4*>(place.main + key * (kIndexDim / 2) + t * 16);
      scales[n] = reinterpret_cast<const std::uint8_t*>(place.scale)[key * (kIndexDim / 32) + t];
    }
  }
  __device__ void expand(Keys& keys) const {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const __half2 scale = __float2half2_rn(e8m0(scales[n]));
      const std::uint32_t words[4] = {codes[n].x, codes[n].y, codes[n].z, codes[n].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) expand_fp4(words[j], scale, keys[n] + 4 * j);
    }
  }
};

/// The same of f16 keys, ready.
__device__ inline void fetch_half_keys(Keys& keys, const RowPlace& place, int first, int stored) {
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int key = min(8 * n + g, stored - 1 - first);
    const auto* from = reinterpret_cast<const uint4*>(place.main + key * (kIndexDim * 2)) + t * 4;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint4 v = from[j];
      keys[n][4 * j] = __byte_perm(v.x, v.z, 0x5410);
      keys[n][4 * j + 1] = __byte_perm(v.x, v.z, 0x7632);
      keys[n][4 * j + 2] = __byte_perm(v.y, v.w, 0x5410);
      keys[n][4 * j + 3] = __byte_perm(v.y, v.w, 0x7632);
    }
  }
}

struct Queries {  // of one row
  __half heads[kIndexHeads][kQueryPitch];
  float weights[kIndexHeads];
};

/// By the whole block of kThreads; to be waited for.
template <int kThreads>
__device__ inline void fetch_queries(Queries& to, const IndexTopk& p, std::int64_t row) {
  constexpr int kPieces = kIndexDim / 8;
  const __half* from = p.half_queries + row * kIndexHeads * kIndexDim;
#pragma unroll
  for (int i = threadIdx.x; i < kIndexHeads * kPieces; i += kThreads)
    copy_async<16>(shared_at(&to.heads[i / kPieces][i % kPieces * 8]), from + i * 8, 16);
  if (threadIdx.x < kIndexHeads / 4)
    copy_async<16>(shared_at(&to.weights[threadIdx.x * 4]), p.head_weights + row * kIndexHeads + threadIdx.x * 4, 16);
  commit_async();
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

/// The warp's keys, the first of which is `first`, against the row's 64 heads, sixteen at a time. `scores` and
/// `maxima` are the row's.
__device__ inline void score_keys(const Keys& keys, const Queries& queries, int first, int visible, float* scores,
                                  std::uint32_t* maxima) {
  const int lane = threadIdx.x % 32;
  const int g = lane / 4;
  const int t = lane % 4;
  float sums[8] = {};  // of keys 8 (i / 2) + 2 t + i % 2
#pragma unroll 1
  for (int m = 0; m < kIndexHeads; m += 16) {
    float dots[kTiles][4] = {};
#pragma unroll
    for (int s = 0; s < kIndexDim / 16; ++s) {
      std::uint32_t a[4];
      load_matrices(a, &queries.heads[m + lane % 16][s * 16 + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) mma(dots[n], a, keys[n][2 * s], keys[n][2 * s + 1]);
    }
    const float low = queries.weights[m + g];
    const float high = queries.weights[m + g + 8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
      sums[i] += low * fmaxf(dots[i / 2][i % 2], 0.0F) + high * fmaxf(dots[i / 2][2 + i % 2], 0.0F);
  }
  const float score = sum_of_eight(sums, g) * score_scale(kIndexDim, kIndexHeads);
  const int key = first + g / 2 * 8 + 2 * t + g % 2;
  if (key < visible) scores[key] = score;
  static_assert(kScoreGroup == 16 && kWarpKeys == 32);  // half a warp each
  std::uint32_t largest = key < visible ? sortable(score) : 0;
  for (int other = 8; other > 0; other /= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, other));
  if (lane % 16 == 0 && largest != 0) maxima[(first + lane) / kScoreGroup] = largest;
}

constexpr int kFewWarps = 4;
constexpr int kMostScoreBlocks = 396;  // of a row: three a multiprocessor; beyond that they take several groups of keys

/// dim 128, 64 heads, packed keys, rows that have a sequence each: block (groups of keys, row).
__global__ void __launch_bounds__(kFewWarps * 32, 3)
    few_scores_kernel(const Batch batch, const IndexTopk p, int first_row, std::int64_t pitch) {
  __shared__ __align__(16) Queries queries;
  const int row = first_row + blockIdx.y;
  const auto visible = static_cast<int>(visible_rows(batch, row, p.ratio));
  const SegmentView segment = batch.segments[batch.segment_of[row]];
  const int step = static_cast<int>(gridDim.x) * kFewWarps * kWarpKeys;
  int first = (static_cast<int>(blockIdx.x) * kFewWarps + static_cast<int>(threadIdx.x) / 32) * kWarpKeys;
  PackedKeys packed;
  wait_for_previous();
  fetch_queries<kFewWarps * 32>(queries, p, row);
  if (first < visible) packed.fetch(batch.row_in_pages(segment, p.store, first), first, visible);
  wait_async<0>();
  __syncthreads();
#pragma unroll 1
  for (; first < visible; first += step) {
    Keys keys;
    packed.expand(keys);
    const int next = first + step;
    if (next < visible) packed.fetch(batch.row_in_pages(segment, p.store, next), next, visible);
    score_keys(keys, queries, first, visible, p.scores + blockIdx.y * pitch,
               p.maxima + blockIdx.y * maxima_pitch(pitch));
  }
}

constexpr int kManyWarps = 8;
constexpr int kManyRows = 16;

/// The same for many rows, and for f16 keys: block (256 keys, rows_of_block rows). A warp's keys stay in registers and
/// meet one row after the other.
template <bool kPacked>
__global__ void __launch_bounds__(kManyWarps * 32, 2)
    many_scores_kernel(const Batch batch, const IndexTopk p, int first_row, int rows, int rows_of_block,
                       std::int64_t pitch) {
  __shared__ __align__(16) Queries queries[2];
  const int first_of_block = static_cast<int>(blockIdx.x) * kManyWarps * kWarpKeys;
  const int first = first_of_block + static_cast<int>(threadIdx.x) / 32 * kWarpKeys;
  const int end = min(rows, (static_cast<int>(blockIdx.y) + 1) * rows_of_block);
  const auto visible_of = [&](int local) { return static_cast<int>(visible_rows(batch, first_row + local, p.ratio)); };
  const auto from = [&](int local) {  // the next row that sees any of the block's keys
    while (local < end && first_of_block >= visible_of(local)) ++local;
    return local;
  };
  int local = from(static_cast<int>(blockIdx.y) * rows_of_block);
  wait_for_previous();
  if (local < end) fetch_queries<kManyWarps * 32>(queries[0], p, first_row + local);
  Keys keys;
  int loaded = -1;  // segment
#pragma unroll 1
  for (int slot = 0; local < end; slot ^= 1) {
    const int next = from(local + 1);
    wait_async<0>();
    __syncthreads();  // the other slot has been read, too
    if (next < end) fetch_queries<kManyWarps * 32>(queries[slot ^ 1], p, first_row + next);
    const int number = batch.segment_of[first_row + local];
    if (number != loaded) {
      const SegmentView& segment = batch.segments[number];
      // All that any row of the segment may see.
      const auto stored = static_cast<int>(static_cast<unsigned>(segment.first_position + segment.rows) /
                                           static_cast<unsigned>(p.ratio));
      if (first < stored) {
        const RowPlace place = batch.row_in_pages(segment, p.store, first);
        if constexpr (kPacked) {
          PackedKeys packed;
          packed.fetch(place, first, stored);
          packed.expand(keys);
        } else {
          fetch_half_keys(keys, place, first, stored);
        }
      }
      loaded = number;
    }
    const int visible = visible_of(local);
    if (first < visible)
      score_keys(keys, queries[slot], first, visible, p.scores + local * pitch, p.maxima + local * maxima_pitch(pitch));
    local = next;
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
  const bool half = !p.exact && p.dim == kIndexDim && p.heads == kIndexHeads && p.format != KvFormat::kF32 &&
                    p.store.rows % kWarpKeys == 0;
  const auto blocks_of = [&](int warps) {
    return static_cast<unsigned>((p.max_visible + warps * kWarpKeys - 1) / (warps * kWarpKeys));
  };
  for (int first = 0; first < batch.rows; first += p.score_rows) {
    const int rows = std::min(p.score_rows, batch.rows - first);
    if (half && rows <= 16 && p.format == KvFormat::kPacked) {  // of as many sequences, most likely
      launch(few_scores_kernel,
             dim3(std::min<unsigned>(blocks_of(kFewWarps), kMostScoreBlocks), static_cast<unsigned>(rows)),
             kFewWarps * 32, 0, stream, batch, p, first, pitch);
    } else if (half) {
      const int of_block = rows <= 16 ? 1 : kManyRows;
      const dim3 grid(blocks_of(kManyWarps), static_cast<unsigned>((rows + of_block - 1) / of_block));
      launch(p.format == KvFormat::kPacked ? many_scores_kernel<true> : many_scores_kernel<false>, grid,
             kManyWarps * 32, 0, stream, batch, p, first, rows, of_block, pitch);
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
