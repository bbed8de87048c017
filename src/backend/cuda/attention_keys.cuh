// The keys that a row's attention meets, and how the tensor core kernels bring them to shared memory.
#pragma once

#include <cuda_fp8.h>

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/sparse_attention.h"

namespace ds4::cuda {

/// The keys of one row: compressed rows first, then the window, ascending.
struct Keys {
  const Batch& batch;
  const Attention& p;
  SegmentView segment;
  int row;
  std::int64_t first_window;
  int compressed;
  int total;

  __device__ Keys(const Batch& b, const Attention& a, int r)
      : batch(b), p(a), segment(b.segments[b.segment_of[r]]), row(r) {
    const std::int64_t position = b.positions[r];
    first_window = max(static_cast<std::int64_t>(0), position - a.window + 1);
    // 64-bit division is slow
    compressed =
        a.ratio == 0 ? 0 : static_cast<int>((static_cast<unsigned>(position) + 1) / static_cast<unsigned>(a.ratio));
    total = static_cast<int>(position - first_window + 1);
  }
  /// What the step itself made: after wait_for_previous(), before anything else.
  __device__ void count_selected() {
    if (p.selected != nullptr) compressed = p.count[row];
    total += compressed;
  }
  __device__ RowPlace at(int i) const {
    if (i < compressed) {
      const std::int64_t b = p.selected != nullptr ? p.selected[static_cast<std::int64_t>(row) * p.topk + i] : i;
      return batch.row_in_pages(segment, p.compressed, b);
    }
    const std::int64_t position = first_window + i - compressed;
    if (position >= segment.first_position)
      return p.fresh_rows.at(p.fresh, static_cast<int>(segment.first_row + position - segment.first_position));
    return p.ring.at(batch.tail(segment),
                     static_cast<int>(static_cast<unsigned>(position) % static_cast<unsigned>(p.ring.rows)));
  }
};

inline constexpr int kKeysAtOnce = 32;
inline constexpr int kAttentionThreads = 256;
inline constexpr int kKeyPitch = kTensorHeadDim + 8;  // halves: rows 16 bytes apart modulo the banks

/// What a thread carries of the next keys: an eighth of one row, in pieces of 16 bytes, every eighth one, so that the
/// eight threads of a row read and write whole lines.
struct KeyPiece {
  uint4 raw[8];            // f16: all; packed: up to four of FP8 values, then [4] of BF16 values
  std::uint8_t scales[4];  // of the FP8 pieces
};
inline constexpr int kFp8Pieces = (kTensorHeadDim - 64) / 16;

/// Thread (key, eighth).
__device__ inline void fetch(KeyPiece& piece, const Keys& keys, int i, int eighth, KvFormat format) {
  if (i >= keys.total) {
#pragma unroll
    for (int j = 0; j < 8; ++j) piece.raw[j] = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int j = 0; j < 4; ++j) piece.scales[j] = 0;  // the smallest
    return;
  }
  const RowPlace place = keys.at(i);
  const auto* from = reinterpret_cast<const uint4*>(place.main) + eighth;
  if (format == KvFormat::kF16) {
#pragma unroll
    for (int j = 0; j < 8; ++j) piece.raw[j] = from[j * 8];
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j * 8 + eighth >= kFp8Pieces) continue;
    piece.raw[j] = from[j * 8];
    piece.scales[j] = reinterpret_cast<const std::uint8_t*>(place.scale)[j * 2 + eighth / 4];
  }
  piece.raw[4] = from[kFp8Pieces];
}

__device__ inline std::uint32_t fp8_pair(std::uint32_t two, __half2 scale) {
  const __half2_raw h = __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(two & 0xffff), __NV_E4M3);
  return as_bits(__hmul2(*reinterpret_cast<const __half2*>(&h), scale));
}
__device__ inline std::uint32_t bf16_pair(std::uint32_t two) {
  return as_bits(__halves2half2(to_half(__uint_as_float(two << 16)), to_half(__uint_as_float(two & 0xffff0000u))));
}

__device__ inline void store(const KeyPiece& piece, __half* to, int eighth, KvFormat format) {
  auto* out = reinterpret_cast<uint4*>(to);
  if (format == KvFormat::kF16) {
#pragma unroll
    for (int j = 0; j < 8; ++j) out[j * 8 + eighth] = piece.raw[j];
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int number = j * 8 + eighth;
    if (number >= kFp8Pieces) continue;
    const __half2 scale = __float2half2_rn(e8m0(piece.scales[j]));
    const uint4 v = piece.raw[j];
    out[2 * number] =
        make_uint4(fp8_pair(v.x, scale), fp8_pair(v.x >> 16, scale), fp8_pair(v.y, scale), fp8_pair(v.y >> 16, scale));
    out[2 * number + 1] =
        make_uint4(fp8_pair(v.z, scale), fp8_pair(v.z >> 16, scale), fp8_pair(v.w, scale), fp8_pair(v.w >> 16, scale));
  }
  const uint4 v = piece.raw[4];
  out[2 * kFp8Pieces + eighth] = make_uint4(bf16_pair(v.x), bf16_pair(v.y), bf16_pair(v.z), bf16_pair(v.w));
}

}  // namespace ds4::cuda
