#include "backend/cuda/matrix.h"

#include <algorithm>
#include <cmath>

#include "backend/cuda/fragments.cuh"
#include "base/check.h"
#include "quant/codec.h"

namespace ds4::cuda {

namespace {

int tile_bytes_of(DType type) {
  int bytes = 0;
  with_fragment(type, [&](auto fragment) { bytes = decltype(fragment)::kTileBytes; });
  return bytes;
}

__device__ float half_at(const std::byte* at) {  // blocks lie at any address
  const auto* b = reinterpret_cast<const std::uint8_t*>(at);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(b[0] | b[1] << 8)));
}
__device__ std::uint16_t u16_at(const std::byte* at) {
  const auto* b = reinterpret_cast<const std::uint8_t*>(at);
  return static_cast<std::uint16_t>(b[0] | b[1] << 8);
}
__device__ std::uint32_t u8_at(const std::byte* at) { return *reinterpret_cast<const std::uint8_t*>(at); }

/// The file rows that one lane packs: g and g + 8 of a tile, or null beyond the end of the matrix.
struct LaneRows {
  const std::byte* row[2];
};

/// Each packer writes what `lane` owns of the tile of columns 128 * column, and returns its largest magnitude.
__device__ float pack16(const LaneRows& rows, std::byte* tile, int lane, int column, bool bf16) {
  float largest = 0;
  for (int s = 0; s < 8; ++s) {
    std::uint32_t a[4];
    for (int j = 0; j < 4; ++j) {
      const std::byte* row = rows.row[j % 2];
      const int k = column * 128 + lane % 4 * 32 + 4 * s + 2 * (j / 2);
      a[j] = row == nullptr ? 0 : u16_at(row + 2 * k) | static_cast<std::uint32_t>(u16_at(row + 2 * k + 2)) << 16;
      for (const std::uint32_t bits : {a[j] & 0xffff, a[j] >> 16}) {
        const float v = bf16 ? __uint_as_float(bits << 16) : 0.0F;
        largest = fmaxf(largest, fabsf(v));
      }
    }
    *reinterpret_cast<uint4*>(tile + (s * 32 + lane) * 16) = make_uint4(a[0], a[1], a[2], a[3]);
  }
  return largest;
}

__device__ float pack_q8_0(const LaneRows& rows, std::byte* tile, int lane, int column) {
  const int block = column * 4 + lane % 4;
  float largest = 0;
  std::uint32_t scales = 0;
  for (int r = 0; r < 2; ++r) {
    const std::byte* b = rows.row[r] == nullptr ? nullptr : rows.row[r] + block * 34;
    if (b != nullptr) {
      scales |= static_cast<std::uint32_t>(u16_at(b)) << (16 * r);
      largest = fmaxf(largest, 127.0F * fabsf(half_at(b)));
    }
    for (int s = 0; s < 8; ++s) {
      std::uint32_t q = 0;
      for (int i = 0; i < 4; ++i) q |= (b == nullptr ? 0 : u8_at(b + 2 + 4 * s + i)) << (8 * i);
      *reinterpret_cast<std::uint32_t*>(tile + (s / 2 * 32 + lane) * 16 + s % 2 * 8 + r * 4) = q ^ 0x80808080u;
    }
  }
  *reinterpret_cast<std::uint32_t*>(tile + 2048 + lane * 4) = scales;
  return largest;
}

/// Writes the nibbles of both rows; nibble(row, i) gives value i of the lane's 32.
template <typename Nibble>
__device__ void store_nibbles(std::byte* tile, int lane, Nibble nibble) {
  for (int s = 0; s < 8; ++s) {
    std::uint32_t w = 0;
    for (int j = 0; j < 4; ++j)
      for (int e = 0; e < 2; ++e) w |= nibble(j % 2, 4 * s + 2 * (j / 2) + e) << (4 * j + 16 * e);
    *reinterpret_cast<std::uint32_t*>(tile + (s / 4 * 32 + lane) * 16 + s % 4 * 4) = w;
  }
}

__device__ float pack_mxfp4(const LaneRows& rows, std::byte* tile, int lane, int column) {
  const int block = column * 4 + lane % 4;
  const auto at = [&](int r) { return rows.row[r] == nullptr ? nullptr : rows.row[r] + block * 17; };
  store_nibbles(tile, lane, [&](int r, int i) -> std::uint32_t {
    const std::byte* b = at(r);
    if (b == nullptr) return 0;
    return u8_at(b + 1 + i % 16) >> (i / 16 * 4) & 15;
  });
  float largest = 0;
  std::uint32_t codes = 0;
  for (int r = 0; r < 2; ++r) {
    const std::uint32_t code = at(r) == nullptr ? 0 : u8_at(at(r));
    codes |= code << (8 * r);
    largest = fmaxf(largest, 6.0F * __uint_as_float(code << 23));
  }
  *reinterpret_cast<std::uint16_t*>(tile + 1024 + lane * 2) = static_cast<std::uint16_t>(codes);
  return largest;
}

/// d and dmin (f16 each) of a row, for the formats that keep one pair in 256.
__device__ void store_row_scales(std::byte* to, const LaneRows& rows, int lane, std::uint64_t block, int d_offset) {
  if (lane % 4 != 0) return;
  for (int r = 0; r < 2; ++r) {
    const std::byte* b = rows.row[r] == nullptr ? nullptr : rows.row[r] + block;
    const std::uint32_t both =
        b == nullptr ? 0 : u16_at(b + d_offset) | static_cast<std::uint32_t>(u16_at(b + d_offset + 2)) << 16;
    *reinterpret_cast<std::uint32_t*>(to + (lane / 4 + 8 * r) * 4) = both;
  }
}

__device__ float pack_q4_k(const LaneRows& rows, std::byte* tile, int lane, int column) {
  const std::uint64_t block = static_cast<std::uint64_t>(column / 2) * 144;
  const int j = column % 2 * 4 + lane % 4;
  store_nibbles(tile, lane, [&](int r, int i) -> std::uint32_t {
    if (rows.row[r] == nullptr) return 0;
    return u8_at(rows.row[r] + block + 16 + j / 2 * 32 + i) >> (j % 2 * 4) & 15;
  });
  std::uint32_t codes = 0;
  float largest = 0;
  for (int r = 0; r < 2; ++r) {
    if (rows.row[r] == nullptr) continue;
    const std::byte* s = rows.row[r] + block + 4;
    const std::uint32_t scale = j < 4 ? u8_at(s + j) & 63 : (u8_at(s + j + 4) & 15) | u8_at(s + j - 4) >> 6 << 4;
    const std::uint32_t minimum = j < 4 ? u8_at(s + j + 4) & 63 : u8_at(s + j + 4) >> 4 | u8_at(s + j) >> 6 << 4;
    codes |= (scale | minimum << 8) << (16 * r);
    largest = fmaxf(largest, fabsf(half_at(rows.row[r] + block)) * 15.0F * static_cast<float>(scale) +
                                 fabsf(half_at(rows.row[r] + block + 2)) * static_cast<float>(minimum));
  }
  *reinterpret_cast<std::uint32_t*>(tile + 1024 + lane * 4) = codes;
  store_row_scales(tile + 1152, rows, lane, block, 0);
  return largest;
}

__device__ float pack_q2_k(const LaneRows& rows, std::byte* tile, int lane, int column) {
  const std::uint64_t block = static_cast<std::uint64_t>(column / 2) * 84;
  const int half = column % 2;
  const int t = lane % 4;
  for (int u = 0; u < 4; ++u) {
    std::uint32_t w = 0;
    for (int f = 0; f < 8; ++f) {
      const std::byte* row = rows.row[f % 2];
      if (row == nullptr) continue;
      for (int e = 0; e < 2; ++e) {
        const int i = 8 * u + 4 * (f / 4) + 2 * (f % 4 / 2) + e;
        w |= (u8_at(row + block + 16 + 32 * half + i) >> (2 * t) & 3) << (2 * f + 16 * e);
      }
    }
    *reinterpret_cast<std::uint32_t*>(tile + lane * 16 + u * 4) = w;
  }
  std::uint32_t codes = 0;
  float largest = 0;
  for (int r = 0; r < 2; ++r) {
    if (rows.row[r] == nullptr) continue;
    const std::byte* b = rows.row[r] + block;
    for (int e = 0; e < 2; ++e) {
      const std::uint32_t code = u8_at(b + 8 * half + 2 * t + e);
      codes |= code << (16 * r + 8 * e);
      largest = fmaxf(largest, fabsf(half_at(b + 80)) * 3.0F * static_cast<float>(code & 15) +
                                   fabsf(half_at(b + 82)) * static_cast<float>(code >> 4));
    }
  }
  *reinterpret_cast<std::uint32_t*>(tile + 512 + lane * 4) = codes;
  store_row_scales(tile + 640, rows, lane, block, 80);
  return largest;
}

__device__ float pack_iq2_xxs(const LaneRows& rows, std::byte* tile, int lane, int column) {
  const std::uint64_t block = static_cast<std::uint64_t>(column / 2) * 66;
  const int group = column % 2 * 4 + lane % 4;
  float largest = 0;
  std::uint32_t factors = 0;
  for (int r = 0; r < 2; ++r) {
    std::uint32_t index = 0;
    std::uint32_t signs = 0;
    if (rows.row[r] != nullptr) {
      const std::byte* b = rows.row[r] + block + 2 + 8 * group;
      index = u16_at(b) | static_cast<std::uint32_t>(u16_at(b + 2)) << 16;
      const std::uint32_t w = u16_at(b + 4) | static_cast<std::uint32_t>(u16_at(b + 6)) << 16;
      for (int i = 0; i < 32; ++i) {
        const std::uint32_t seven = w >> (7 * (i / 8)) & 127;
        const std::uint32_t sign = i % 8 < 7 ? seven >> (i % 8) & 1 : static_cast<std::uint32_t>(__popc(seven)) & 1;
        signs |= sign << (i / 2 + 16 * (i % 2));
      }
      const float factor = half_at(rows.row[r] + block) * 0.25F * (0.5F + static_cast<float>(w >> 28));
      const __half stored = __float2half_rn(factor * FragmentIQ2_XXS::kFactor);
      factors |= static_cast<std::uint32_t>(__half_as_ushort(stored)) << (16 * r);
      largest = fmaxf(largest, fabsf(factor) * 43.0F);
    }
    *reinterpret_cast<uint2*>(tile + lane * 16 + r * 8) = make_uint2(index, signs);
  }
  *reinterpret_cast<std::uint32_t*>(tile + 512 + lane * 4) = factors;
  return largest;
}

__global__ void pack_kernel(DType type, const std::byte* file_rows, std::int64_t rows, std::uint64_t row_bytes,
                            std::int64_t columns, std::byte* to, int tile_bytes, std::uint32_t* largest) {
  const std::int64_t tile = (static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  const std::int64_t row_tile = tile / columns;
  const int column = static_cast<int>(tile % columns);
  if (row_tile * 16 >= rows) return;
  LaneRows source;
  for (int r = 0; r < 2; ++r) {
    const std::int64_t row = row_tile * 16 + lane / 4 + 8 * r;
    source.row[r] = row < rows ? file_rows + static_cast<std::uint64_t>(row) * row_bytes : nullptr;
  }
  std::byte* out = to + static_cast<std::uint64_t>(tile) * static_cast<std::uint64_t>(tile_bytes);
  float most = 0;
  switch (type) {
    case DType::kF16: most = pack16(source, out, lane, column, false); break;
    case DType::kBF16: most = pack16(source, out, lane, column, true); break;
    case DType::kQ8_0: most = pack_q8_0(source, out, lane, column); break;
    case DType::kMXFP4: most = pack_mxfp4(source, out, lane, column); break;
    case DType::kQ4_K: most = pack_q4_k(source, out, lane, column); break;
    case DType::kQ2_K: most = pack_q2_k(source, out, lane, column); break;
    case DType::kIQ2_XXS: most = pack_iq2_xxs(source, out, lane, column); break;
    default: break;
  }
  for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
  if (lane == 0 && most > 0) atomicMax(largest, __float_as_uint(most));
}

}  // namespace

/// Matrices with fewer rows (hyper-connections) have kernels of their own that read the file's layout.
constexpr std::int64_t kMinTiledRows = 32;

Iq2Tables make_iq2_tables() {
  Iq2Tables tables;
  for (int i = 0; i < 256; ++i) {
    const std::uint64_t entry = iq2_xxs_grid()[i];
    tables.grid[i] = entry;
    std::uint32_t pairs[4];
    for (int p = 0; p < 4; ++p) {
      const auto half = [&](int v) -> std::uint32_t {
        const auto magnitude = entry >> (8 * v) & 0xff;
        return magnitude == 8 ? 0x4800 : magnitude == 25 ? 0x4e40 : 0x5160;
      };
      pairs[p] = half(2 * p) | half(2 * p + 1) << 16;
    }
    tables.octets[i] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
  return tables;
}

Matrix plan_matrix(const HostWeight& weight, bool exact) {
  Matrix m;
  m.type = weight.type;
  m.in = weight.in;
  m.out = weight.out;
  m.count = weight.count;
  m.row_bytes = row_bytes(weight.type, static_cast<std::size_t>(weight.in));
  m.matrix_bytes = m.row_bytes * static_cast<std::uint64_t>(weight.out);
  const int tile = tile_bytes_of(weight.type);
  m.tiled = !exact && !weight.lookup && tile != 0 && weight.out >= kMinTiledRows && weight.in % kTileColumns == 0;
  if (m.tiled) {
    m.tile_bytes = static_cast<std::uint64_t>(tile);
    m.matrix_bytes = m.tile_bytes * static_cast<std::uint64_t>(m.row_tiles() * m.column_tiles());
  }
  return m;
}

std::uint64_t matrix_bytes(const Matrix& matrix) {
  return matrix.matrix_bytes * static_cast<std::uint64_t>(matrix.count);
}

void pack_rows(const Matrix& matrix, const std::byte* file_rows, std::int64_t rows, std::byte* to,
               std::uint32_t* largest, cudaStream_t stream) {
  const std::int64_t tiles = (rows + 15) / 16 * matrix.column_tiles();
  const auto blocks = static_cast<unsigned>((tiles * 32 + 255) / 256);
  pack_kernel<<<blocks, 256, 0, stream>>>(matrix.type, file_rows, rows, matrix.row_bytes, matrix.column_tiles(), to,
                                          static_cast<int>(matrix.tile_bytes), largest);
}

float choose_pre(DType type, float largest) {
  if (type == DType::kIQ2_XXS) return FragmentIQ2_XXS::kFactor;
  if (type == DType::kF16 || !(largest > 0) || !std::isfinite(largest)) return 1.0F;
  // MXFP4 expands through halves of 2^-14 of the value: its factor must be a half, too.
  const int exponent = type == DType::kMXFP4 ? 2 : 9;
  return std::ldexp(1.0F, std::clamp(exponent - std::ilogb(largest), -100, 100));
}

}  // namespace ds4::cuda
