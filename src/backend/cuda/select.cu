#include "backend/cuda/select.h"

#include <cooperative_groups.h>

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/launch.cuh"

namespace ds4::cuda {

namespace {

__device__ float value_of(std::uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}
__device__ bool is_finite(std::uint32_t key) { return key > 0x007fffffu && key < 0xff800000u; }

constexpr int kSelectParts = 8;
constexpr int kBins = 2048;
constexpr int kHeld = 8;  // scores that a thread keeps; beyond that it reads them again for every pass

/// The counts of neighbouring bins, a thread's share of them.
template <int kThreads>
struct alignas(sizeof(int) * kBins / kThreads) Counts {
  static constexpr int kEach = kBins / kThreads;
  int of[kEach];  // ascending
};

/// Where the count from the highest bin down reaches `wanted`: the bin, and how many of it are wanted. By the whole
/// block; thread 0 brings the highest bins.
struct Reached {
  int bin;
  int left;
};
template <int kThreads>
__device__ Reached reach(const Counts<kThreads>& counts, int wanted, int (&space)[kThreads / 32], Reached& found) {
  constexpr int kEach = Counts<kThreads>::kEach;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int own = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) own += counts.of[i];
  int sum = own;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) space[warp] = sum;
  __syncthreads();
  int before = sum - own + __reduce_add_sync(~0u, lane < warp ? space[lane] : 0);
  if (before < wanted && before + own >= wanted) {
    int bin = kBins - 1 - kEach * static_cast<int>(threadIdx.x);
#pragma unroll
    for (int i = kEach - 1; i > 0; --i)
      if (before + counts.of[i] < wanted && bin % kEach == i) before += counts.of[i], --bin;
    found = {bin, wanted - before};
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
template <int kParts, int kThreads>
__global__ void __launch_bounds__(kThreads) select_kernel(const Selection p) {
  constexpr int kSelectWarps = kThreads / 32;
  __shared__ Counts<kThreads> histogram[2][kThreads];
  __shared__ int space[kSelectWarps];
  __shared__ Reached found;
  __shared__ int warp_counts[kSelectWarps][2];
  __shared__ int counts[2];  // of this part: above, equal
  const int row = blockIdx.x / kParts;
  const int part = blockIdx.x % kParts;
  const std::int64_t visible =
      p.positions == nullptr ? p.visible : static_cast<unsigned>(p.positions[row] + 1) / static_cast<unsigned>(p.ratio);
  wait_for_previous();
  std::int32_t* selected = p.selected + static_cast<std::int64_t>(row) * p.topk;
  const int kept = static_cast<int>(min(visible, static_cast<std::int64_t>(p.topk)));
  float* values = p.values == nullptr ? nullptr : p.values + static_cast<std::int64_t>(row) * p.topk;
  const float* scores = p.scores + row * p.pitch;
  if (p.count != nullptr && threadIdx.x == 0 && part == 0) p.count[row] = kept;
  if (visible <= p.topk) {
    if (part == 0)
      for (int i = threadIdx.x; i < kept; i += kThreads) {
        selected[i] = i;
        if (values == nullptr) continue;
        values[i] = scores[i];
        if (!is_finite(sortable(scores[i]))) p.not_finite[row] = 1;
      }
    return;
  }
  // Every warp has a stretch of its own, so that one scan orders all.
  const auto share = static_cast<int>((visible + kParts * kSelectWarps - 1) / (kParts * kSelectWarps) + 31) / 32 * 32;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const std::int64_t first = min(visible, static_cast<std::int64_t>(part * kSelectWarps + warp) * share);
  const std::int64_t last = min(visible, first + share);
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
  if (values != nullptr) {
    bool finite = true;
    for_each([&](std::uint32_t key) { finite = finite && is_finite(key); });
    if (!finite) p.not_finite[row] = 1;
  }
  std::uint32_t prefix = 0;
  std::uint32_t mask = 0;
  int left = kept;
#pragma unroll 1
  for (int pass = 0; pass < 3; ++pass) {
    Counts<kThreads>* own = histogram[pass % 2];
    own[threadIdx.x] = {};
    __syncthreads();
    const int shift = pass == 0 ? 21 : pass == 1 ? 10 : 0;  // digits of 11, 11 and 10 bits
    const std::uint32_t digit = pass < 2 ? kBins - 1u : kBins / 2 - 1u;
    for_each([&](std::uint32_t key) {
      if ((key & mask) == prefix) atomicAdd(reinterpret_cast<int*>(own) + (key >> shift & digit), 1);
    });
    parts_sync<kParts>();
    Counts<kThreads> counts = {};
#pragma unroll
    for (int other = 0; other < kParts; ++other) {
      const Counts<kThreads> theirs = of_part<kParts>(own, other)[kThreads - 1 - threadIdx.x];
#pragma unroll
      for (int i = 0; i < Counts<kThreads>::kEach; ++i) counts.of[i] += theirs.of[i];
    }
    const Reached at = reach<kThreads>(counts, left, space, found);
    left = at.left;
    prefix |= static_cast<std::uint32_t>(at.bin) << shift;
    mask |= digit << shift;
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
    if (is_above || (is_equal && equals < left)) {
      const int at = above_before + __popc(above_mask & lower_lanes) + min(left, equals);
      selected[at] = static_cast<std::int32_t>(i);
      if (values != nullptr) values[at] = value_of(key);
    }
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

}  // namespace

void select(const Selection& selection, cudaStream_t stream) {
  const auto rows = static_cast<unsigned>(selection.rows);
  // A cluster where one block could not keep its scores in registers: while it can, that is faster, and a small block
  // finds a place beside kernels that fill the card.
  constexpr int kNear = 512;
  if (rows <= 16 && selection.most > 0 && selection.most <= kHeld * kNear) {
    launch(select_kernel<1, kNear>, dim3(rows), kNear, 0, stream, selection);
  } else if (rows <= 16 && early_launch) {
    launch_cluster(select_kernel<kSelectParts, 1024>, dim3(rows * kSelectParts), 1024, kSelectParts, 0, stream,
                   selection);
  } else {
    launch(select_kernel<1, 1024>, dim3(rows), 1024, 0, stream, selection);
  }
}

}  // namespace ds4::cuda
