// The expansion of packed quants in plain C, for instruction sets whose compilers make enough of it. Included by
// simd_*.h; everything has internal linkage.
#pragma once

#include <stdint.h>
#include <string.h>

#include "backend/cpu/kernels.h"

namespace ds4::cpu {
namespace {

/// q ± 128
inline void flip_signs(const uint8_t* __restrict from, uint8_t* __restrict to, int count) {
  for (int i = 0; i < count; ++i) to[i] = from[i] ^ 0x80;
}

/// The values of 64 low and 64 high nibbles.
inline void look_up_nibbles(const uint8_t* packed, const uint8_t* values, uint8_t* low, uint8_t* high) {
  for (int i = 0; i < 64; ++i) {
    low[i] = values[packed[i] & 15];
    high[i] = values[packed[i] >> 4];
  }
}

/// A group of 16 inputs of 16 outputs of Q2_K: quants times the scales of their outputs (the low nibbles of `small`).
inline void expand_q2_k(const uint8_t* packed, const uint8_t* small, uint8_t* q) {
  uint8_t scale[64];
  for (int i = 0; i < 64; ++i) scale[i] = small[i / 4] & 15;
  for (int k = 0; k < 4; ++k)
    for (int i = 0; i < 64; ++i) q[64 * k + i] = static_cast<uint8_t>((packed[i] >> (2 * k) & 3) * scale[i]);
}

/// All of a block of IQ2_XXS: 256 inputs of 16 outputs from [8][codes, signs].
template <int bias>
inline void expand_iq2_xxs(const uint8_t* main, const Iq2Tables& tables, uint8_t* q) {
  for (int g = 0; g < 8; ++g, main += 128, q += 512) {
    for (int o = 0; o < 16; ++o) {
      uint32_t signs;  // bit k of byte i: value i of quad k
      memcpy(&signs, main + 64 + 4 * o, 4);
      for (int octet = 0; octet < 4; ++octet, signs >>= 2) {
        const uint64_t ones = (signs & 0x01010101U) | static_cast<uint64_t>(signs >> 1 & 0x01010101U) << 32;
        // Negating eight bytes at once: no entry is zero, so (m ^ -1) + 1 never carries into the next byte.
        uint64_t value = (tables.grid[main[4 * o + octet]] ^ ones * 255) + ones;
        if (bias != 0) value ^= 0x8080808080808080U;
        const auto first = static_cast<uint32_t>(value);
        const auto second = static_cast<uint32_t>(value >> 32);
        memcpy(q + 128 * octet + 4 * o, &first, 4);
        memcpy(q + 128 * octet + 64 + 4 * o, &second, 4);
      }
    }
  }
}

}  // namespace
}  // namespace ds4::cpu
