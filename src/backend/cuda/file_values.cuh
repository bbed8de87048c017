// One value of a weight in the file's layout: the definition of every format (spec section 9) in device code. For
// tables that are looked up, and for exact products; slow. Rounds as quant/codec.cpp does.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "backend/cuda/kv_rows.cuh"
#include "backend/cuda/matrix.h"

namespace ds4::cuda {

__device__ inline float file_value(DType type, const std::byte* row, std::int64_t k, const Iq2Tables* iq2) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(row);
  const auto half_at = [](const std::uint8_t* at) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(at[0] | at[1] << 8)));
  };
  switch (type) {
    case DType::kF32: return reinterpret_cast<const float*>(row)[k];
    case DType::kF16: return __half2float(reinterpret_cast<const __half*>(row)[k]);
    case DType::kBF16: return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row)[k]);
    case DType::kQ8_0: {
      const std::uint8_t* b = bytes + k / 32 * 34;
      return half_at(b) * static_cast<float>(static_cast<std::int8_t>(b[2 + k % 32]));
    }
    case DType::kMXFP4: {
      const std::uint8_t* b = bytes + k / 32 * 17;
      const int i = static_cast<int>(k % 32);
      return from_e2m1(b[1 + i % 16] >> (i / 16 * 4) & 15) * e8m0(b[0]);
    }
    case DType::kQ4_K: {
      const std::uint8_t* b = bytes + k / 256 * 144;
      const int i = static_cast<int>(k % 256);
      const int j = i / 32;
      const std::uint8_t* s = b + 4;
      const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
      const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
      const int q = b[16 + j / 2 * 32 + i % 32] >> (j % 2 * 4) & 15;
      return __fsub_rn(__fmul_rn(half_at(b), static_cast<float>(scale * q)),
                       __fmul_rn(half_at(b + 2), static_cast<float>(minimum)));
    }
    case DType::kQ2_K: {
      const std::uint8_t* b = bytes + k / 256 * 84;
      const int i = static_cast<int>(k % 256);
      const int code = b[i / 16];
      const int q = b[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
      return __fsub_rn(__fmul_rn(half_at(b + 80), static_cast<float>((code & 15) * q)),
                       __fmul_rn(half_at(b + 82), static_cast<float>(code >> 4)));
    }
    case DType::kIQ2_XXS: {
      const std::uint8_t* b = bytes + k / 256 * 66;
      const int i = static_cast<int>(k % 32);
      const std::uint8_t* group = b + 2 + k % 256 / 32 * 8;
      const std::uint32_t w = group[4] | group[5] << 8 | group[6] << 16 | static_cast<std::uint32_t>(group[7]) << 24;
      const std::uint32_t seven = w >> (7 * (i / 8)) & 127;
      const std::uint32_t signs = seven | static_cast<std::uint32_t>(__popc(seven) & 1) << 7;
      const float db = half_at(b) * (0.5F + static_cast<float>(w >> 28)) * 0.25F;
      const auto magnitude = static_cast<float>(iq2->grid[group[i / 8]] >> (8 * (i % 8)) & 0xff);
      return (signs >> (i % 8) & 1) != 0 ? -db * magnitude : db * magnitude;
    }
    case DType::kI32: break;
  }
  return 0;
}

}  // namespace ds4::cuda
