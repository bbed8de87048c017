// Many rows on the tensor cores, with mma.sync: 256 outputs by 64 rows a block, tiles and activations through shared
// memory. Cards with warpgroup products take group_rows.cuh.
#pragma once

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/group_rows.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/many_rows.h"

namespace ds4::cuda {

inline constexpr int kBlockWarps = 4;
inline constexpr int kTilesPerWarp = 4;
inline constexpr int kBlockTiles = kBlockWarps * kTilesPerWarp;
inline constexpr int kRowPitch = 320;  // bytes: 256 of activations, 64 that keep two rows off the same banks

template <typename F>
constexpr std::size_t many_rows_shared() {
  return 2 * (kBlockTiles * static_cast<std::size_t>(F::kTileBytes) + kBlockRows * kRowPitch);
}

template <typename F, Output kOutput>
__global__ void __launch_bounds__(kBlockWarps * 32, 2) many_rows_kernel(const ManyRows p) {
#if !DS4_WARPGROUPS
  extern __shared__ __align__(16) std::byte shared[];
  __shared__ uint4 table[kOctetEntries<F>];
  constexpr std::size_t kStage = kBlockTiles * static_cast<std::size_t>(F::kTileBytes) + kBlockRows * kRowPitch;
  std::int64_t index = 0;
  std::int64_t first_place = static_cast<std::int64_t>(blockIdx.y) * kBlockRows;
  int places = static_cast<int>(min(static_cast<std::int64_t>(kBlockRows), p.rows - first_place));
  if (p.items != nullptr) {
    if (static_cast<int>(blockIdx.y) >= *p.item_count) return;
    const int4 item = p.items[blockIdx.y];
    index = item.x;
    first_place = item.y;
    places = item.z;
  }
  load_octets(table, p.a);

  const std::int64_t group = blockIdx.z;
  const __half* x = p.x + group * p.a.in;
  const int thread = threadIdx.x;
  const int warp = thread / 32;
  const int lane = thread % 32;
  const std::int64_t tiles = (p.outs + 15) / 16;
  // Gated: half of a warp's tiles are rows of gate, the other half the same rows of up.
  constexpr int kMatrices = kOutput == Output::kGated ? 2 : 1;
  constexpr int kOwn = kTilesPerWarp / kMatrices;
  const std::int64_t block_tile = static_cast<std::int64_t>(blockIdx.x) * (kBlockTiles / kMatrices);
  const auto tile_source = [&](int slot) {  // slot 0..15: warp, then tile of the warp
    const int own = slot % kTilesPerWarp;
    const std::int64_t t = min(block_tile + slot / kTilesPerWarp * kOwn + own % kOwn, tiles - 1);
    return (own < kOwn ? p.a : p.b).tile(index, group * (p.outs / 16) + t);
  };
  const auto load = [&](int column, std::byte* stage) {
    constexpr int kChunks = F::kTileBytes / 16;
    for (int i = thread; i < kBlockTiles * kChunks; i += kBlockWarps * 32) {
      const int slot = i / kChunks;
      const std::byte* from = tile_source(slot) + static_cast<std::uint64_t>(column) * F::kTileBytes + i % kChunks * 16;
      copy_async<16>(shared_at(stage + slot * F::kTileBytes + i % kChunks * 16), from, 16);
    }
    std::byte* rows = stage + kBlockTiles * F::kTileBytes;
    for (int i = thread; i < kBlockRows * 16; i += kBlockWarps * 32) {
      const int n = i / 16;
      const int chunk = i % 16;  // eight halves: columns 8 chunk .. of lane chunk / 4, step pair chunk % 4
      const std::int64_t place = first_place + min(n, places - 1);
      const std::int64_t row = p.gather == nullptr ? place : p.gather[place];
      copy_async<16>(shared_at(rows + n * kRowPitch + chunk % 4 * 64 + chunk / 4 * 16),
                     x + row * p.x_stride + column * 128 + chunk * 8, n < places ? 16 : 0);
    }
    commit_async();
  };

  float sum[kTilesPerWarp][8][4] = {};
  const int columns = static_cast<int>(p.a.column_tiles());
  const int row_groups = (places + 7) / 8;
  load(0, shared);
  for (int column = 0; column < columns; ++column) {
    wait_async<0>();
    __syncthreads();
    if (column + 1 < columns) load(column + 1, shared + (column + 1) % 2 * kStage);
    const std::byte* stage = shared + column % 2 * kStage;
    const std::byte* own_tiles = stage + warp * kTilesPerWarp * F::kTileBytes;
    const std::byte* rows = stage + kBlockTiles * F::kTileBytes;
    typename F::Scales scales[kTilesPerWarp];
#pragma unroll
    for (int i = 0; i < kTilesPerWarp; ++i)
      scales[i] = F::scales(F::head(LaneTile(own_tiles + i * F::kTileBytes, lane)), i < kOwn ? p.a.pre : p.b.pre);
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      StepPair a[kTilesPerWarp];
#pragma unroll
      for (int i = 0; i < kTilesPerWarp; ++i)
        a[i] = F::expand(F::piece(LaneTile(own_tiles + i * F::kTileBytes, lane), u), scales[i], u, octets_of(table));
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        if (n >= row_groups) continue;
        const uint4 b = *reinterpret_cast<const uint4*>(rows + (n * 8 + lane / 4) * kRowPitch + u * 64 + lane % 4 * 16);
#pragma unroll
        for (int i = 0; i < kTilesPerWarp; ++i) {
          mma(sum[i][n], a[i].a[0], b.x, b.y);
          mma(sum[i][n], a[i].a[1], b.z, b.w);
        }
      }
    }
  }

  const float inverse = 1.0F / p.a.pre;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const std::int64_t tile = block_tile + warp * kOwn + i;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int place = n * 8 + lane % 4 * 2 + e % 2;
        const std::int64_t o = tile * 16 + lane / 4 + e / 2 * 8;
        if (place >= places || o >= p.outs) continue;
        const std::int64_t at = (first_place + place) * p.y_stride + group * p.outs + o;
        if constexpr (kOutput == Output::kPlain) {
          if (p.hidden != nullptr) p.hidden[at] = to_half(sum[i][n][e] * inverse);
          else p.y[at] = sum[i][n][e] * inverse;
        } else {
          const float gate = fminf(sum[i][n][e] * inverse, p.limit);
          const float up = fminf(fmaxf(sum[i + kOwn][n][e] / p.b.pre, -p.limit), p.limit);
          const float weight = p.weight == nullptr ? 1.0F : p.weight[first_place + place];
          p.hidden[at] = to_half(gate * sigmoid(gate) * up * weight);
        }
      }
    }
  }
#endif
}

template <typename F, Output kOutput>
void launch_many_rows(const ManyRows& p, std::int64_t blocks_of_rows, cudaStream_t stream) {
  const bool groups = has_warpgroups;
  const std::size_t shared = groups ? kGroupShared : many_rows_shared<F>();
  auto* kernel = groups ? &group_rows_kernel<F, kOutput> : &many_rows_kernel<F, kOutput>;
  allow_shared(kernel, shared);
  const std::int64_t tiles = (groups ? kGroupTiles : kBlockTiles) / (kOutput == Output::kGated ? 2 : 1);
  const dim3 grid(static_cast<unsigned>(((p.outs + 15) / 16 + tiles - 1) / tiles),
                  static_cast<unsigned>(blocks_of_rows), static_cast<unsigned>(p.groups < 1 ? 1 : p.groups));
  kernel<<<grid, groups ? kGroupThreads : kBlockWarps * 32, shared, stream>>>(p);
}

template <typename F>
void launch_many_rows(Output output, const ManyRows& p, std::int64_t blocks_of_rows, cudaStream_t stream) {
  if (output == Output::kPlain) launch_many_rows<F, Output::kPlain>(p, blocks_of_rows, stream);
  else launch_many_rows<F, Output::kGated>(p, blocks_of_rows, stream);
}

}  // namespace ds4::cuda
