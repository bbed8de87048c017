// Products of up to kFewRows rows, tensor cores: the weights are read once, at the speed of memory.
#include "backend/cuda/few_rows.cuh"
#include "backend/cuda/many_rows.h"
#include "backend/cuda/products.h"

namespace ds4::cuda {

namespace {

template <typename F, int N, From kFrom>
__global__ void __launch_bounds__(kWarps * 32, 2)
    few_rows_kernel(const Product p, const __half* x, int warps_per_tile) {
  extern __shared__ __align__(16) std::byte space[];
  __shared__ uint4 table[kOctetEntries<F>];
  __shared__ WarpSums<N> parts;
  load_octets(table, p.m);
  few_rows_block<F, N, kFrom>(p, x, warps_per_tile, blockIdx.x, blockIdx.y, octets_of(table), parts, space);
}

struct Joint {
  Product of[kMostJoined];
  int end[kMostJoined];  // blocks of this product and those before it
};

template <int N>
__global__ void __launch_bounds__(kWarps * 32, 2)
    joint_kernel(const __grid_constant__ Joint joint, const __half* x, int warps_per_tile) {
  __shared__ WarpSums<N> parts;
  int number = 0;
  while (static_cast<int>(blockIdx.x) >= joint.end[number]) ++number;
  const int first = number == 0 ? 0 : joint.end[number - 1];
  const int block = static_cast<int>(blockIdx.x) - first;
  const Product& p = joint.of[number];
  const SharedOctets none{};
  if (p.m.type == DType::kF16)
    few_rows_block<FragmentF16, N, From::kMemory>(p, x, warps_per_tile, block, 0, none, parts, nullptr);
  else few_rows_block<FragmentQ8_0, N, From::kMemory>(p, x, warps_per_tile, block, 0, none, parts, nullptr);
}

template <typename F>
void few_rows(const Product& p, const __half* x, cudaStream_t stream) {
  const int warps = choose_warps_per_tile(p.m.column_tiles(), row_tiles(p));
  const int tiles_here = kWarps / warps;
  const dim3 blocks(static_cast<unsigned>(((p.outs + 15) / 16 + tiles_here - 1) / tiles_here),
                    static_cast<unsigned>(p.groups));
  const auto start = [&](auto* kernel, std::size_t shared) {
    launch(kernel, blocks, kWarps * 32, shared, stream, p, x, warps);
  };
  if (p.normed.x != nullptr) {
    if constexpr (F::kType == DType::kF16 || F::kType == DType::kQ8_0)
      start(few_rows_kernel<F, 1, From::kNormed>, static_cast<std::size_t>(p.rows * (p.m.in + kPad)) * sizeof(__half));
    return;
  }
  // The ring pays where all warps read the same columns; else there is too much of it for what it saves.
  const bool ring = warps == 1 && p.rows > kDirectRows;
  if (p.rows <= 8)
    ring ? start(few_rows_kernel<F, 1, From::kRing>, RowsThroughRing<1>::bytes(1))
         : start(few_rows_kernel<F, 1, From::kMemory>, 0);
  else
    ring ? start(few_rows_kernel<F, 2, From::kRing>, RowsThroughRing<2>::bytes(1))
         : start(few_rows_kernel<F, 2, From::kMemory>, 0);
}

}  // namespace

bool joins(const Matrix& m) { return m.tiled && (m.type == DType::kF16 || m.type == DType::kQ8_0); }

void joint_product(std::span<const Product> products, const __half* x, cudaStream_t stream) {
  Joint joint{};
  std::int64_t tiles = 0;
  for (const Product& p : products) tiles += row_tiles(p);
  const int warps = choose_warps_per_tile(products[0].m.column_tiles(), tiles);
  const int tiles_of_block = kWarps / warps;
  int blocks = 0;
  for (std::size_t i = 0; i < products.size(); ++i) {
    blocks += static_cast<int>((row_tiles(products[i]) + tiles_of_block - 1) / tiles_of_block);
    joint.of[i] = products[i];
    joint.end[i] = blocks;
  }
  const auto kernel = products[0].rows <= 8 ? joint_kernel<1> : joint_kernel<2>;
  launch(kernel, dim3(static_cast<unsigned>(blocks)), kWarps * 32, 0, stream, joint, x, warps);
}

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
