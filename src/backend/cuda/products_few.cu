// Products of up to kFewRows rows, tensor cores: the weights are read once, at the speed of memory.
#include "backend/cuda/many_rows.h"
#include "backend/cuda/products.h"
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/last_block.cuh"
#include "backend/cuda/stream_tiles.cuh"

namespace ds4::cuda {

namespace {

__device__ void norm_all_rows(const Product& p) {
  __shared__ float space[33];
  for (std::int64_t row = 0; row < p.rows; ++row) {
    float* y = p.y + row * p.y_stride;
    float squares = 0;
    for (std::int64_t i = threadIdx.x; i < p.outs; i += blockDim.x) {
      const float v = __ldcg(y + i);
      squares += v * v;
    }
    const float r = rsqrtf(block_sum(squares, space) / static_cast<float>(p.outs) + p.norm.eps);
    for (std::int64_t i = threadIdx.x; i < p.outs; i += blockDim.x) {
      const float v = __ldcg(y + i) * r * p.norm.weight[i];
      y[i] = v;
      p.norm.y_half[row * p.outs + i] = to_half(v);
    }
  }
}

/// kRing: activations through shared memory.
template <typename F, int N, bool kRing>
__global__ void __launch_bounds__(kWarps * 32, 2) few_rows_kernel(Product p, const __half* x, int warps_per_tile) {
  extern __shared__ __align__(16) std::byte ring[];
  __shared__ uint4 table[kOctetEntries<F>];
  load_octets(table, p.m);
  __shared__ float parts[kWarps][N * 8][16];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int tiles_here = kWarps / warps_per_tile;
  const std::int64_t first_tile = static_cast<std::int64_t>(blockIdx.x) * tiles_here;
  const std::int64_t tile = min(first_tile + warp / warps_per_tile, (p.outs - 1) / 16);
  const std::int64_t group = blockIdx.y;
  x += group * p.m.in;
  const std::byte* tiles = p.m.tile(0, group * (p.outs / 16) + tile);
  const ColumnShare share{warp % warps_per_tile, warps_per_tile, static_cast<int>(p.m.column_tiles())};
  const int rows = static_cast<int>(p.rows);
  float sum[N][4] = {};
  if constexpr (kRing) {
    RowsThroughRing<N> source(x, p.x_stride, rows, share, ring);
    accumulate<F, N>(p.m, tiles, share, source, octets_of(table), sum);
  } else {
    RowsFromMemory<N> source(x, p.x_stride, rows, share);
    accumulate<F, N>(p.m, tiles, share, source, octets_of(table), sum);
  }
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) parts[warp][n * 8 + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = sum[n][i];
  __syncthreads();
  for (int i = threadIdx.x; i < tiles_here * 16 * rows; i += blockDim.x) {
    const int row = i / (tiles_here * 16);
    const int t = i % (tiles_here * 16) / 16;
    float v = 0;
    for (int w = 0; w < warps_per_tile; ++w) v += parts[t * warps_per_tile + w][row][i % 16];
    const std::int64_t o = (first_tile + t) * 16 + i % 16;
    if (o >= p.outs) continue;
    const std::int64_t at = row * p.y_stride + group * p.outs + o;
    if (p.y_half != nullptr) p.y_half[at] = to_half(v / p.m.pre);
    else p.y[at] = v / p.m.pre;
  }
  if (p.norm.weight != nullptr && last_block(p.norm.ticket, gridDim.x)) norm_all_rows(p);
}

/// Warps on a row of tiles: as few as fill the card once (sixteen warps a multiprocessor), so that every warp streams as
/// long as it can and no second wave begins.
int choose_warps_per_tile(const Matrix& m, std::int64_t outs) {
  constexpr std::int64_t kWarpsOfCard = 2048;
  const std::int64_t tiles = (outs + 15) / 16;
  int warps = 1;
  while (warps < kWarps && tiles * warps * 2 <= kWarpsOfCard && m.column_tiles() >= 2 * warps) warps *= 2;
  return warps;
}

template <typename F>
void few_rows(const Product& p, const __half* x, cudaStream_t stream) {
  const int warps = choose_warps_per_tile(p.m, p.outs * p.groups);
  const int tiles_here = kWarps / warps;
  const dim3 blocks(static_cast<unsigned>(((p.outs + 15) / 16 + tiles_here - 1) / tiles_here), static_cast<unsigned>(p.groups));
  const auto start = [&](auto* kernel, std::size_t shared) { launch(kernel, blocks, kWarps * 32, shared, stream, p, x, warps); };
  // The ring pays where all warps read the same columns; else there is too much of it for what it saves.
  const bool ring = warps == 1 && p.rows > kDirectRows;
  if (p.rows <= 8) ring ? start(few_rows_kernel<F, 1, true>, RowsThroughRing<1>::bytes(1)) : start(few_rows_kernel<F, 1, false>, 0);
  else ring ? start(few_rows_kernel<F, 2, true>, RowsThroughRing<2>::bytes(1)) : start(few_rows_kernel<F, 2, false>, 0);
}

}  // namespace

void half_product(const Product& p, const __half* x, cudaStream_t stream) {
  if (p.rows <= kFewRows) {
    with_fragment(p.m.type, [&](auto fragment) { few_rows<decltype(fragment)>(p, x, stream); });
    return;
  }
  ManyRows many{};
  many.a = p.m;
  many.b = p.m;
  many.x = x;
  many.x_stride = p.x_stride;
  many.rows = p.rows;
  many.groups = p.groups;
  many.outs = p.outs;
  many.y = p.y;
  many.hidden = p.y_half;
  many.y_stride = p.y_stride;
  many_rows(Output::kPlain, many, (p.rows + rows_of_block() - 1) / rows_of_block(), stream);
}

void many_rows(Output output, const ManyRows& p, std::int64_t blocks_of_rows, cudaStream_t stream) {
  switch (p.a.type) {
    case DType::kF16:
    case DType::kBF16: return many_rows_16(output, p, blocks_of_rows, stream);
    case DType::kQ8_0: return many_rows_8(output, p, blocks_of_rows, stream);
    case DType::kMXFP4:
    case DType::kQ4_K: return many_rows_4(output, p, blocks_of_rows, stream);
    case DType::kQ2_K:
    case DType::kIQ2_XXS: return many_rows_2(output, p, blocks_of_rows, stream);
    case DType::kF32:
    case DType::kI32: return;  // never tiled
  }
}

}  // namespace ds4::cuda
