#include "backend/cuda/index_topk.h"

#include <cooperative_groups.h>

#include <algorithm>

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/launch.cuh"

namespace ds4::cuda {

namespace {

/// A warp a (row, head): rotation, then the rounding that matches the stored keys.
__global__ void __launch_bounds__(128) query_kernel(const Batch batch, const IndexTopk p) {
  extern __shared__ float shared[];
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
__global__ void __launch_bounds__(256) float_scores_kernel(const Batch batch, const IndexTopk p, int first_row,
                                                           std::int64_t pitch) {
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
__global__ void __launch_bounds__(256) half_scores_kernel(const Batch batch, const IndexTopk p, int first_row, int rows,
                                                          std::int64_t pitch) {
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
    const auto* q = reinterpret_cast<const uint4*>(p.half_queries + static_cast<std::int64_t>(row) * kIndexHeads * kIndexDim);
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
            keys[warp + 8 * j][d] = first_key + warp + 8 * j < stored ? __float2half_rn(index_value(p.format, place[j], d)) : __half(0.0F);
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
        for (int e = 0; e < 2; ++e)
          score[n][e] += low * fmaxf(dots[n][e], 0.0F) + high * fmaxf(dots[n][2 + e], 0.0F);
    }
    const float scale = score_scale(kIndexDim, kIndexHeads);
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float v = score[n][e];
        v += __shfl_xor_sync(~0u, v, 4);
        v += __shfl_xor_sync(~0u, v, 8);
        v += __shfl_xor_sync(~0u, v, 16);
        const std::int64_t key = first_key + warp * 16 + n * 8 + lane % 4 * 2 + e;
        if (lane < 4 && key < visible) p.scores[local * pitch + key] = v * scale;
      }
  }
}

/// Order of floats as order of unsigned numbers.
__device__ std::uint32_t sortable(float v) {
  const std::uint32_t bits = __float_as_uint(v);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

constexpr int kSelectThreads = 1024;
constexpr int kSelectParts = 8;
constexpr int kSelectWarps = kSelectThreads / 32;
constexpr int kBins = 2 * kSelectThreads;
constexpr int kHeld = 8;  // scores that a thread keeps; beyond that it reads them again for every pass

/// Where the count from the highest bin down reaches `wanted`: the bin, and how many of it are wanted. By the whole block;
/// thread t brings the counts of the bins kBins - 1 - 2 t and kBins - 2 - 2 t.
struct Reached {
  int bin;
  int left;
};
__device__ Reached reach(int2 count, int wanted, int (&space)[kSelectWarps], Reached& found) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int own = count.x + count.y;
  int sum = own;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) space[warp] = sum;
  __syncthreads();
  const int before = sum - own + __reduce_add_sync(~0u, lane < warp ? space[lane] : 0);
  if (before < wanted && before + own >= wanted) {
    const bool first = before + count.x >= wanted;
    found = {kBins - 1 - 2 * static_cast<int>(threadIdx.x) - (first ? 0 : 1), wanted - before - (first ? 0 : count.x)};
  }
  __syncthreads();
  return found;
}

template <int kParts>
__device__ inline void parts_sync() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (kParts > 1) return cooperative_groups::this_cluster().sync();
#endif
  __syncthreads();
}
/// Where another part of the cluster keeps what this one keeps at `own`.
template <int kParts, typename T>
__device__ inline T* of_part(T* own, int other) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (kParts > 1) return cooperative_groups::this_cluster().map_shared_rank(own, other);
#endif
  return own;
}

/// kParts blocks a row: the topk largest in ascending order of row number, ties to the lower row. Three passes over the
/// digits of the scores find the smallest kept score; a last one writes what lies above and the first of its equals.
/// With several parts they form a cluster, each with a slice of the scores, and add up each other's counts.
template <int kParts>
__global__ void __launch_bounds__(kSelectThreads) select_kernel(const Batch batch, const IndexTopk p, int first_row,
                                                                std::int64_t pitch) {
  __shared__ int2 histogram[2][kBins / 2];
  __shared__ int space[kSelectWarps];
  __shared__ Reached found;
  __shared__ int warp_counts[kSelectWarps][2];
  __shared__ int counts[2];  // of this part: above, equal
  const int row = first_row + blockIdx.x / kParts;
  const int part = blockIdx.x % kParts;
  wait_for_previous();
  const std::int64_t visible = visible_rows(batch, row, p.ratio);
  std::int32_t* selected = p.selected + static_cast<std::int64_t>(row) * p.topk;
  const int kept = static_cast<int>(min(visible, static_cast<std::int64_t>(p.topk)));
  if (threadIdx.x == 0 && part == 0) p.count[row] = kept;
  if (visible <= p.topk) {
    if (part == 0)
      for (int i = threadIdx.x; i < kept; i += kSelectThreads) selected[i] = i;
    return;
  }
  // Every warp has a stretch of its own, so that one scan orders all.
  const auto share = static_cast<int>((visible + kParts * kSelectWarps - 1) / (kParts * kSelectWarps) + 31) / 32 * 32;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const std::int64_t first = min(visible, static_cast<std::int64_t>(part * kSelectWarps + warp) * share);
  const std::int64_t last = min(visible, first + share);
  const float* scores = p.scores + blockIdx.x / kParts * pitch;
  std::uint32_t held[kHeld];
#pragma unroll
  for (int j = 0; j < kHeld; ++j) held[j] = first + lane + 32 * j < last ? sortable(scores[first + lane + 32 * j]) : 0;
  const auto for_each = [&](auto f) {
#pragma unroll
    for (int j = 0; j < kHeld; ++j)
      if (first + lane + 32 * j < last) f(held[j]);
#pragma unroll 4
    for (std::int64_t i = first + lane + 32 * kHeld; i < last; i += 32) f(sortable(scores[i]));
  };
  constexpr int kShift[] = {21, 10, 0};  // digits of 11, 11 and 10 bits
  std::uint32_t prefix = 0;
  std::uint32_t mask = 0;
  int left = kept;
#pragma unroll
  for (int pass = 0; pass < 3; ++pass) {
    int2* own = histogram[pass % 2];
    own[threadIdx.x] = make_int2(0, 0);
    __syncthreads();
    const std::uint32_t digit = pass < 2 ? kBins - 1u : kBins / 2 - 1u;
    for_each([&](std::uint32_t key) {
      if ((key & mask) == prefix) atomicAdd(reinterpret_cast<int*>(own) + (key >> kShift[pass] & digit), 1);
    });
    parts_sync<kParts>();
    int2 count = {};
#pragma unroll
    for (int other = 0; other < kParts; ++other) {
      const int2 two = of_part<kParts>(own, other)[kSelectThreads - 1 - threadIdx.x];
      count.x += two.y;
      count.y += two.x;
    }
    const Reached at = reach(count, left, space, found);
    left = at.left;
    prefix |= static_cast<std::uint32_t>(at.bin) << kShift[pass];
    mask |= digit << kShift[pass];
    __syncthreads();
  }
  // `prefix` is the smallest kept score; `left` of its equals are kept.
  int above = 0;
  int equal = 0;
  for_each([&](std::uint32_t key) {
    above += key > prefix;
    equal += key == prefix;
  });
  above = __reduce_add_sync(~0u, above);
  equal = __reduce_add_sync(~0u, equal);
  if (lane == 0) warp_counts[warp][0] = above, warp_counts[warp][1] = equal;
  __syncthreads();
  if (threadIdx.x < 2) {
    int sum = 0;
    for (int w = 0; w < kSelectWarps; ++w) sum += warp_counts[w][threadIdx.x];
    counts[threadIdx.x] = sum;
  }
  parts_sync<kParts>();
  int above_before = 0;
  int equal_before = 0;
  for (int other = 0; other < part; ++other) {
    const int* counted = of_part<kParts>(counts, other);
    above_before += counted[0];
    equal_before += counted[1];
  }
  for (int w = 0; w < warp; ++w) {
    above_before += warp_counts[w][0];
    equal_before += warp_counts[w][1];
  }
  const unsigned lower_lanes = (1u << lane) - 1;
  const auto write = [&](std::int64_t base, std::uint32_t key) {
    const std::int64_t i = base + lane;
    const bool is_above = i < last && key > prefix;
    const bool is_equal = i < last && key == prefix;
    const unsigned above_mask = __ballot_sync(~0u, is_above);
    const unsigned equal_mask = __ballot_sync(~0u, is_equal);
    const int equals = equal_before + __popc(equal_mask & lower_lanes);
    if (is_above || (is_equal && equals < left))
      selected[above_before + __popc(above_mask & lower_lanes) + min(left, equals)] = static_cast<std::int32_t>(i);
    above_before += __popc(above_mask);
    equal_before += __popc(equal_mask);
  };
#pragma unroll
  for (int j = 0; j < kHeld; ++j)
    if (first + 32 * j < last) write(first + 32 * j, held[j]);
  for (std::int64_t base = first + 32 * kHeld; base < last; base += 32)
    write(base, base + lane < last ? sortable(scores[base + lane]) : 0);
  parts_sync<kParts>();  // nobody reads this block's counts any more
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
      if (rows <= 16)  // of as many sequences, most likely
        launch(half_scores_kernel<1>, dim3(key_blocks, static_cast<unsigned>(rows)), 256, 0, stream, batch, p, first, rows, pitch);
      else
        launch(half_scores_kernel<16>, dim3(key_blocks, static_cast<unsigned>((rows + 15) / 16)), 256, 0, stream, batch, p, first, rows,
               pitch);
    } else {
      const dim3 grid(static_cast<unsigned>((p.max_visible + 7) / 8), static_cast<unsigned>(rows));
      float_scores_kernel<<<grid, 256, 0, stream>>>(batch, p, first, pitch);
    }
    if (rows <= 16 && early_launch) {
      launch_cluster(select_kernel<kSelectParts>, dim3(static_cast<unsigned>(rows * kSelectParts)), kSelectThreads, kSelectParts, stream,
                     batch, p, first, pitch);
    } else {
      launch(select_kernel<1>, dim3(static_cast<unsigned>(rows)), kSelectThreads, 0, stream, batch, p, first, pitch);
    }
  }
}

}  // namespace ds4::cuda
