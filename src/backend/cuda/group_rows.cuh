// Many rows on Hopper's tensor cores: a block of four warpgroups takes 256 outputs (gated: 128 of gate and the same of
// up) and up to 128 rows of activations. Every warp owns a row of tiles, whose codes go from memory to its registers
// and are expanded there, while the products of the step before run; activations come through a ring in shared memory.
#pragma once

#include "backend/cuda/async_copy.cuh"
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/many_rows.h"
#include "backend/cuda/warpgroups.cuh"

namespace ds4::cuda {

inline constexpr int kGroupTiles = 16;  // rows of tiles of a block: a warp each
inline constexpr int kGroupThreads = 32 * kGroupTiles;
inline constexpr int kGroupStages = 4;
inline constexpr int kGroupSlab = kGroupBlockRows * 128;  // bytes: 64 columns
inline constexpr int kGroupStage = 2 * kGroupSlab;
inline constexpr std::size_t kGroupShared = kGroupStages * kGroupStage + 1024;  // slabs begin at multiples of 1024

#if DS4_WARPGROUPS

/// The sums of one block: kColumns rows of activations times the warp's tiles.
template <typename F, int kColumns>
__device__ __forceinline__ void group_sums(const std::byte* tiles, float pre, int columns, const SharedOctets& octets,
                                           std::byte* ring, const __half* const* rows, int places,
                                           float (&sum)[kColumns / 2]) {
  const int thread = threadIdx.x;
  const int lane = thread % 32;
  // The copies of a thread: a pair of columns, of the rows thread / 64, + 8, ... A product's step takes from every 32
  // columns four (fragments.cuh), pairs 0 and 1 of lane t's at the places 2 t and 2 t + 8 of its 16.
  const int pair = thread % 64;
  const int step = pair % 16 / 2;
  const int piece = 2 * step + pair % 2;
  const int own_row = thread / 64;
  const int own_place = piece / 8 * kGroupSlab + own_row * kSlabRowBytes + ((piece % 8) ^ own_row) * 16 + pair / 16 * 4;
  const auto load = [&](int column) {
    if (column < columns) {
      const auto stage =
          static_cast<std::uint32_t>(__cvta_generic_to_shared(ring + column % kGroupStages * kGroupStage + own_place));
#pragma unroll 4
      for (int i = 0; i < kColumns / 8; ++i)
        copy_async<4>(stage + i * 8 * kSlabRowBytes, rows[own_row + 8 * i] + column * 128 + 2 * pair,
                      own_row + 8 * i < places ? 4 : 0);
    }
    commit_async();
  };
  load(0);
  load(1);
  LaneTile tile(tiles, lane);
  typename F::Piece codes[4];
#pragma unroll
  for (int u = 0; u < 4; ++u) codes[u] = F::piece(tile, u);
  typename F::Head head = F::head(tile);
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) sum[i] = 0;
  StepPair steps[2];
  for (int column = 0; column < columns; ++column) {
    wait_async<1>();
    publish_shared();
    __syncthreads();
    load(column + 2);  // over what was read two columns ago: at most one pair of steps is in flight
    const std::uint64_t slab = slab_descriptor(ring + column % kGroupStages * kGroupStage);
    const auto scales = F::scales(head, pre);
    const bool more = column + 1 < columns;
    tile += F::kTileBytes;
    if (more) head = F::head(tile);
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      products_wait<1>();  // the pair before last has left its registers
      steps[u % 2] = F::expand(codes[u], scales, u, octets);
      if (more) codes[u] = F::piece(tile, u);
      products_begin();
      const std::uint64_t at = slab + u / 2 * (kGroupSlab / 16) + u % 2 * 4;
      group_product(sum, steps[u % 2].a[0], at);
      group_product(sum, steps[u % 2].a[1], at + 2);
      products_commit();
    }
  }
  products_wait<0>();
}

template <typename F, Output kOutput, int kColumns>
__device__ __forceinline__ void group_block(const ManyRows& p, const std::byte* tiles, float pre, std::int64_t tile,
                                            std::int64_t group, std::int64_t first_place, int places,
                                            const SharedOctets& octets, std::byte* ring, const __half* const* rows) {
  float sum[kColumns / 2];
  group_sums<F, kColumns>(tiles, pre, static_cast<int>(p.a.column_tiles()), octets, ring, rows, places, sum);
  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const auto each = [&](auto put) {
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) {
      const int place = i / 4 * 8 + lane % 4 * 2 + i % 2;
      const std::int64_t o = tile * 16 + lane / 4 + i % 4 / 2 * 8;
      if (place < places && o < p.outs) put(i, place, (first_place + place) * p.y_stride + group * p.outs + o);
    }
  };
  if constexpr (kOutput == Output::kPlain) {
    const float inverse = 1.0F / pre;
    if (p.hidden != nullptr) each([&](int i, int, std::int64_t at) { p.hidden[at] = to_half(sum[i] * inverse); });
    else each([&](int i, int, std::int64_t at) { p.y[at] = sum[i] * inverse; });
  } else {
    // The warps of up hand their sums to those of gate.
    auto* up = reinterpret_cast<float*>(ring) + thread % (kGroupThreads / 2);
    __syncthreads();
    if (thread >= kGroupThreads / 2) {
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) up[i * (kGroupThreads / 2)] = sum[i];
    }
    __syncthreads();
    if (thread >= kGroupThreads / 2) return;
    const float of_gate = 1.0F / pre;
    const float of_up = 1.0F / p.b.pre;
    each([&](int i, int place, std::int64_t at) {
      const float g = fminf(sum[i] * of_gate, p.limit);
      const float u = fminf(fmaxf(up[i * (kGroupThreads / 2)] * of_up, -p.limit), p.limit);
      const float weight = p.weight == nullptr ? 1.0F : p.weight[first_place + place];
      p.hidden[at] = to_half(g * sigmoid(g) * u * weight);
    });
  }
}

#endif

template <typename F, Output kOutput>
__global__ void __launch_bounds__(kGroupThreads, 1) group_rows_kernel(const ManyRows p) {
#if DS4_WARPGROUPS
  extern __shared__ std::byte memory[];
  __shared__ uint4 table[kOctetEntries<F>];
  __shared__ const __half* rows[kGroupBlockRows];
  std::int64_t index = 0;
  std::int64_t first_place = static_cast<std::int64_t>(blockIdx.y) * kGroupBlockRows;
  int places = static_cast<int>(min(static_cast<std::int64_t>(kGroupBlockRows), p.rows - first_place));
  if (p.items != nullptr) {
    if (static_cast<int>(blockIdx.y) >= *p.item_count) return;
    const int4 item = p.items[blockIdx.y];
    index = item.x;
    first_place = item.y;
    places = item.z;
  }
  const std::int64_t group = blockIdx.z;
  const int thread = threadIdx.x;
  if (thread < kGroupBlockRows) {
    const std::int64_t place = first_place + min(thread, places - 1);
    rows[thread] = p.x + group * p.a.in + (p.gather == nullptr ? place : p.gather[place]) * p.x_stride;
  }
  load_octets(table, p.a);
  __syncthreads();
  constexpr int kWarpsOfOne = kOutput == Output::kGated ? kGroupTiles / 2 : kGroupTiles;
  const int warp = thread / 32;
  const Matrix& m = warp < kWarpsOfOne ? p.a : p.b;
  const std::int64_t tile = static_cast<std::int64_t>(blockIdx.x) * kWarpsOfOne + warp % kWarpsOfOne;
  const std::int64_t tiles_of_group = (p.outs + 15) / 16;
  const std::byte* tiles = m.tile(index, group * (p.outs / 16) + min(tile, tiles_of_group - 1));
  auto* ring = memory + (1024 - __cvta_generic_to_shared(memory) % 1024) % 1024;
  if (places > 96)
    group_block<F, kOutput, 128>(p, tiles, m.pre, tile, group, first_place, places, octets_of(table), ring, rows);
  else if (places > 64)
    group_block<F, kOutput, 96>(p, tiles, m.pre, tile, group, first_place, places, octets_of(table), ring, rows);
  else group_block<F, kOutput, 64>(p, tiles, m.pre, tile, group, first_place, places, octets_of(table), ring, rows);
#endif
}

}  // namespace ds4::cuda
