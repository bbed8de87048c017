#include "backend/cuda/select.h"

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/launch.cuh"

namespace ds4::cuda {

namespace {

__device__ bool is_finite(std::uint32_t key) { return key > 0x007fffffu && key < 0xff800000u; }

__device__ std::int64_t scores_of(const Selection& p, int row) {
  return p.positions == nullptr ? p.visible
                                : static_cast<unsigned>(p.positions[row] + 1) / static_cast<unsigned>(p.ratio);
}

constexpr int kMaximaThreads = 256;

/// Block (groups, row): a thread a group.
__global__ void __launch_bounds__(kMaximaThreads) maxima_kernel(const Selection p) {
  const int row = blockIdx.y;
  const std::int64_t visible = scores_of(p, row);
  wait_for_previous();
  const std::int64_t group = static_cast<std::int64_t>(blockIdx.x) * kMaximaThreads + threadIdx.x;
  const std::int64_t first = group * kScoreGroup;
  if (first >= visible) return;
  const float* scores = p.scores + row * p.pitch + first;
  const int own = static_cast<int>(min(visible - first, static_cast<std::int64_t>(kScoreGroup)));
  std::uint32_t largest = 0;
  bool finite = true;
#pragma unroll 4
  for (int i = 0; i < own; ++i) {
    const std::uint32_t key = sortable(scores[i]);
    largest = max(largest, key);
    finite = finite && is_finite(key);
  }
  p.maxima[row * maxima_pitch(p.pitch) + group] = largest;
  if (p.not_finite != nullptr && !finite) p.not_finite[row] = 1;
}

constexpr int kBins = 2048;
constexpr int kHeld = 16;          // scores that a thread keeps; beyond that it reads them again for every pass
constexpr int kMostListed = 4096;  // groups

/// Where the count from the highest bin down reaches `wanted`.
struct Reached {
  int bin;
  int left;   // of it are wanted
  int count;  // are in it
};

template <int kThreads>
struct SelectSpace {
  alignas(16) int histogram[kBins];
  int list[kMostListed];
  int sums[kThreads / 32];
  std::uint32_t least[kThreads / 32];
  std::uint32_t largest[kThreads / 32];
  int above[kThreads / 32];
  int equal[kThreads / 32];
  Reached found;
};

/// By the whole block, which leaves the histogram empty; thread 0 has the highest bins.
template <int kThreads>
__device__ Reached reach(SelectSpace<kThreads>& space, int wanted) {
  constexpr int kEach = kBins / kThreads;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int* bins = space.histogram + kBins - kEach * (static_cast<int>(threadIdx.x) + 1);
  int counts[kEach];
  int own = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    counts[i] = bins[i];
    bins[i] = 0;
    own += counts[i];
  }
  int sum = own;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) space.sums[warp] = sum;
  __syncthreads();
  int before = sum - own + __reduce_add_sync(~0u, lane < warp ? space.sums[lane] : 0);
  if (before < wanted && before + own >= wanted) {
    int at = kEach - 1;
#pragma unroll
    for (int i = kEach - 1; i > 0; --i)
      if (at == i && before + counts[i] < wanted) before += counts[i], --at;
    int count = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (at == i) count = counts[i];
    space.found = {static_cast<int>(bins - space.histogram) + at, wanted - before, count};
  }
  __syncthreads();
  return space.found;
}

/// A block a row: the topk largest in ascending order of row number, ties to the lower row. A histogram over the range
/// of the scores tells the bin of the smallest kept one; the next one divides that bin, until it holds no other or only
/// equals. Of a long row the same finds groups first: the topk with the largest maxima hold the topk largest scores.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) select_kernel(const Selection p) {
  __shared__ SelectSpace<kThreads> space;
  const int row = blockIdx.x;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const auto visible = static_cast<int>(scores_of(p, row));
#pragma unroll
  for (int i = 0; i < kBins / kThreads; ++i) space.histogram[threadIdx.x + i * kThreads] = 0;
  wait_for_previous();
  const float* scores = p.scores + row * p.pitch;
  const std::uint32_t* maxima = p.maxima + row * maxima_pitch(p.pitch);
  std::int32_t* selected = p.selected + static_cast<std::int64_t>(row) * p.topk;
  float* values = p.values == nullptr ? nullptr : p.values + static_cast<std::int64_t>(row) * p.topk;
  const int kept = min(visible, p.topk);
  if (p.count != nullptr && threadIdx.x == 0) p.count[row] = kept;
  if (visible <= p.topk) {
#pragma unroll 1
    for (int i = threadIdx.x; i < kept; i += kThreads) {
      selected[i] = i;
      if (values == nullptr) continue;
      values[i] = scores[i];
      if (!is_finite(sortable(scores[i]))) p.not_finite[row] = 1;
    }
    return;
  }
  const int groups = (visible + kScoreGroup - 1) / kScoreGroup;
  bool of_groups = p.maxima != nullptr && visible > kHeld * kThreads && groups >= p.topk;
  const int enough = min(2 * p.topk, kMostListed);
  int listed = -1;  // groups that are looked into; -1: all
  std::uint32_t least = ~0u;
  std::uint32_t largest = 0;
  bool ranged = false;
  while (true) {
    const int slots = of_groups ? groups : listed >= 0 ? listed * kScoreGroup : visible;
    const auto number = [&](int slot) {
      const auto s = static_cast<unsigned>(slot);
      return listed < 0 ? slot : space.list[s / kScoreGroup] * kScoreGroup + static_cast<int>(s % kScoreGroup);
    };
    const auto key_of = [&](int slot) {  // 0 beyond the last
      const int i = slot < slots ? number(slot) : visible;
      if (of_groups) return slot < slots ? maxima[i] : 0u;
      return i < visible ? sortable(scores[i]) : 0u;
    };
    // Every warp has a stretch of its own, so that one scan orders all.
    const int share = ((slots + kThreads / 32 - 1) / (kThreads / 32) + 31) / 32 * 32;
    const int first = min(slots, warp * share);
    const int last = min(slots, first + share);
    std::uint32_t held[kHeld];
    if (of_groups) {
#pragma unroll
      for (int j = 0; j < kHeld; ++j) {
        const int slot = first + lane + 32 * j;
        held[j] = slot < last ? maxima[slot] : 0;
      }
    } else {
      int numbers[kHeld];
#pragma unroll
      for (int j = 0; j < kHeld; ++j) numbers[j] = first + lane + 32 * j;
      if (listed >= 0) {
#pragma unroll
        for (int j = 0; j < kHeld; ++j) numbers[j] = numbers[j] < last ? number(numbers[j]) : visible;
      }
      const int end = listed < 0 ? last : visible;
#pragma unroll
      for (int j = 0; j < kHeld; ++j) held[j] = numbers[j] < end ? __float_as_uint(scores[numbers[j]]) : 0;
#pragma unroll
      for (int j = 0; j < kHeld; ++j) held[j] = numbers[j] < end ? sortable(__uint_as_float(held[j])) : 0;
    }
    const auto for_others = [&](auto f) {
#pragma unroll 1
      for (int at = first + 32 * kHeld; at < last; at += 32) f(key_of(at + lane));
    };
    const auto for_each = [&](auto f) {  // also of keys 0
#pragma unroll
      for (int j = 0; j < kHeld; ++j) f(held[j]);
      for_others(f);
    };
    if (!ranged) {
      std::uint32_t below = ~0u;
      for_each([&](std::uint32_t key) {
        below = min(below, key - 1);
        largest = max(largest, key);
      });
      below = __reduce_min_sync(~0u, below);
      largest = __reduce_max_sync(~0u, largest);
      if (lane == 0) space.least[warp] = below, space.largest[warp] = largest;
      __syncthreads();
      least = __reduce_min_sync(~0u, space.least[lane % (kThreads / 32)]) + 1;
      largest = __reduce_max_sync(~0u, space.largest[lane % (kThreads / 32)]);
      ranged = true;
      // Of groups, whoever made the maxima has looked.
      if (values != nullptr && !of_groups && threadIdx.x == 0 && !(is_finite(least) && is_finite(largest)))
        p.not_finite[row] = 1;
    }
    std::uint32_t low = least;
    std::uint32_t width = largest - least;
    int left = kept;
    bool all;  // of the last bin are wanted
#pragma unroll 1
    while (true) {
      const int shift = max(0, 32 - __clz(static_cast<int>(width)) - 11);
      for_each([&](std::uint32_t key) {
        if (key - low <= width) atomicAdd(space.histogram + ((key - low) >> shift), 1);
      });
      __syncthreads();
      const Reached at = reach(space, left);
      left = at.left;
      const std::uint32_t below = static_cast<std::uint32_t>(at.bin) << shift;
      low += below;
      width = min(width - below, (1u << shift) - 1);
      all = of_groups ? kept - left + at.count <= enough : left == at.count;
      if (all || shift == 0) break;
    }
    // Kept is what lies above `edge`, and the first `left` of its equals.
    all = all || of_groups;
    const std::uint32_t edge = all ? low - 1 : low;
    if (all) left = 0;
    unsigned above_bits = 0;  // of `held`
    unsigned equal_bits = 0;
#pragma unroll
    for (int j = 0; j < kHeld; ++j) {
      above_bits |= (held[j] > edge ? 1u : 0u) << j;
      equal_bits |= (held[j] == edge ? 1u : 0u) << j;
    }
    int above = __popc(above_bits);
    int equal = __popc(equal_bits);
    for_others([&](std::uint32_t key) {
      above += key > edge;
      equal += key == edge;
    });
    above = __reduce_add_sync(~0u, above);
    equal = __reduce_add_sync(~0u, equal);
    if (lane == 0) space.above[warp] = above, space.equal[warp] = equal;
    __syncthreads();
    int above_before = __reduce_add_sync(~0u, lane < warp ? space.above[lane] : 0);
    int equal_before = __reduce_add_sync(~0u, lane < warp ? space.equal[lane] : 0);
    const int all_above = __reduce_add_sync(~0u, lane < kThreads / 32 ? space.above[lane] : 0);
    const bool too_many = of_groups && all_above > kMostListed;
    const unsigned lower_lanes = (1u << lane) - 1;
#pragma unroll 1
    for (int j = 0; 32 * j < last - first && !too_many; ++j) {
      const int slot = first + lane + 32 * j;
      bool is_above = (above_bits >> (j & 31) & 1) != 0;
      bool is_equal = (equal_bits >> (j & 31) & 1) != 0;
      if (j >= kHeld) {
        const std::uint32_t key = key_of(slot);
        is_above = key > edge;
        is_equal = key == edge;
      }
      const unsigned above_mask = __ballot_sync(~0u, is_above);
      const unsigned equal_mask = __ballot_sync(~0u, is_equal);
      const int equals = equal_before + __popc(equal_mask & lower_lanes);
      if (is_above || (is_equal && equals < left)) {
        const int at = above_before + __popc(above_mask & lower_lanes) + min(left, equals);
        if (of_groups) {
          space.list[at] = slot;
        } else {
          selected[at] = number(slot);
          if (values != nullptr) values[at] = scores[number(slot)];
        }
      }
      above_before += __popc(above_mask);
      equal_before += __popc(equal_mask);
    }
    if (!of_groups) return;
    // As many scores as are kept are no smaller than `low`.
    listed = too_many ? -1 : all_above;
    least = low;
    of_groups = false;
    __syncthreads();
  }
}

}  // namespace

void select(const Selection& selection, cudaStream_t stream) {
  constexpr int kSmall = 512;
  constexpr int kLarge = 1024;
  static_assert(kHeld * kSmall == kMostHeldScores);
  const auto rows = static_cast<unsigned>(selection.rows);
  // A small block finds a place beside kernels that fill the card.
  const bool large = rows <= 16 && selection.most > kMostHeldScores;
  if (selection.maxima != nullptr && !selection.has_maxima && selection.most > kHeld * (large ? kLarge : kSmall)) {
    const std::int64_t groups = maxima_pitch(selection.most);
    launch(maxima_kernel, dim3(static_cast<unsigned>((groups + kMaximaThreads - 1) / kMaximaThreads), rows),
           kMaximaThreads, 0, stream, selection);
  }
  if (large) launch(select_kernel<kLarge>, dim3(rows), kLarge, 0, stream, selection);
  else launch(select_kernel<kSmall>, dim3(rows), kSmall, 0, stream, selection);
}

}  // namespace ds4::cuda
