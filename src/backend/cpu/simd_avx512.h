// The primitives of AVX-512 (F, BW, DQ, VL, VNNI, VBMI). Included by table_avx512.cpp and table_amx.cpp; everything has
// internal linkage, because a function of the same name exists for every instruction set. See simd_scalar.h for what
// each one means.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/kernels.h"

namespace ds4::cpu {
namespace {

using F32 = __m512;
using I32 = __m512i;

constexpr int kLanes = 16;
constexpr int kDotOutputs = 4;
constexpr int kDotRows = 4;
constexpr int kPanelRows = 6;
constexpr int kPanelPair = 2;
constexpr int kSignedBias = 128;  // vpdpbusd wants its first operand unsigned

inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1U << n) - 1U); }

inline F32 zero() { return _mm512_setzero_ps(); }
inline F32 splat(float x) { return _mm512_set1_ps(x); }
inline F32 load(const float* p) { return _mm512_loadu_ps(p); }
inline F32 load_some(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
inline void store_some(float* p, F32 x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }

inline F32 load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline F32 load_some_f16(const uint16_t* p, int n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}
inline F32 widen_bf16(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline F32 load_bf16(const uint16_t* p) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline F32 load_some_bf16(const uint16_t* p, int n) { return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }

inline F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
inline F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
inline F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
inline F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
inline F32 madd(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
inline F32 nmadd(F32 a, F32 b, F32 c) { return _mm512_fnmadd_ps(a, b, c); }
inline F32 larger(F32 a, F32 b) { return _mm512_max_ps(a, b); }
inline F32 smaller(F32 a, F32 b) { return _mm512_min_ps(a, b); }
inline F32 magnitude(F32 a) { return _mm512_abs_ps(a); }
/// Halves onto halves: lane i and i + 8, then i + 4, i + 2, i + 1.
inline float sum(F32 a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
/// Four sums in the same order, with a third of the instructions.
inline void sum_four(const F32* a, float* out) {
  const auto fold = [](F32 x, F32 y) {  // 128-bit quarters: x0 + x2, x1 + x3, y0 + y2, y1 + y3
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xEE));
  };
  const F32 ab = fold(a[0], a[1]);
  const F32 cd = fold(a[2], a[3]);
  const F32 four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
  const F32 two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4E));
  const F32 one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xB1));
  const __m512i firsts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, one)));
}
inline float largest(F32 a) { return _mm512_reduce_max_ps(a); }
inline F32 shift_to_power(F32 shifted) {
  const __m512i bits = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x4B400000 - 127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23));
}

inline I32 splat_int(int32_t x) { return _mm512_set1_epi32(x); }
inline F32 to_float(I32 a) { return _mm512_cvtepi32_ps(a); }
inline I32 load_panel(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline I32 splat_four(const int8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}
inline I32 dot_signed(I32 acc, I32 w, I32 x) { return _mm512_dpbusd_epi32(acc, w, x); }
inline I32 dot_unsigned(I32 acc, I32 w, I32 x) { return _mm512_dpbusd_epi32(acc, w, x); }

inline int32_t store_rounded(int8_t* p, F32 x) {
  const __m512i q = _mm512_cvtps_epi32(x);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(q));
  return _mm512_reduce_add_epi32(q);
}

inline float half_to_float(uint16_t h) { return _cvtsh_ss(h); }

/// 16 e4m3 codes. An e4m3 is the top half of an f16 with a smaller exponent: exact, subnormals included.
inline F32 load_e4m3(const uint8_t* p) {
  const __m256i code = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i half = _mm256_or_si256(_mm256_slli_epi16(_mm256_and_si256(code, _mm256_set1_epi16(0x7f)), 7),
                                       _mm256_slli_epi16(_mm256_and_si256(code, _mm256_set1_epi16(0x80)), 8));
  return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0F));
}

/// 16 e2m1 nibbles, low ones first.
inline F32 load_e2m1(const uint8_t* p) {
  const __m512 values = _mm512_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F, -0.0F, -0.5F, -1.0F, -1.5F,
                                       -2.0F, -3.0F, -4.0F, -6.0F);
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  const __m128i low = _mm_and_si128(bytes, _mm_set1_epi8(15));
  const __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), _mm_set1_epi8(15));
  return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(low, high)), values);
}

/// rows[16][64 ints] to out[64][16 ints]: from one output after the other to a panel.
inline void transpose_panel(const uint8_t* rows, int fours, uint8_t* out) {
  for (int base = 0; base < fours; base += 8) {
    __m512i t[8];  // t[i]: rows i and i + 8, eight ints each
    for (int i = 0; i < 8; ++i) {
      const auto* low = reinterpret_cast<const __m256i*>(rows + i * 256 + base * 4);
      const auto* high = reinterpret_cast<const __m256i*>(rows + (i + 8) * 256 + base * 4);
      t[i] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256(low)), _mm256_loadu_si256(high), 1);
    }
    __m512i u[8];
    for (int i = 0; i < 8; i += 2) {
      u[i] = _mm512_unpacklo_epi32(t[i], t[i + 1]);
      u[i + 1] = _mm512_unpackhi_epi32(t[i], t[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      t[i] = _mm512_unpacklo_epi64(u[i], u[i + 2]);
      t[i + 1] = _mm512_unpackhi_epi64(u[i], u[i + 2]);
      t[i + 2] = _mm512_unpacklo_epi64(u[i + 1], u[i + 3]);
      t[i + 3] = _mm512_unpackhi_epi64(u[i + 1], u[i + 3]);
    }
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    const __m512i second = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    for (int i = 0; i < 4; ++i) {
      _mm512_storeu_si512(out + (base + i) * 64, _mm512_permutex2var_epi64(t[i], first, t[i + 4]));
      _mm512_storeu_si512(out + (base + i + 4) * 64, _mm512_permutex2var_epi64(t[i], second, t[i + 4]));
    }
  }
}

// ---- packed quants: see simd_plain.h for what they mean ----

inline void flip_signs(const uint8_t* from, uint8_t* to, int count) {
  const __m512i sign = _mm512_set1_epi8(-128);
  for (int i = 0; i < count; i += 64) _mm512_storeu_si512(to + i, _mm512_xor_si512(_mm512_loadu_si512(from + i), sign));
}

inline void look_up_nibbles(const uint8_t* packed, const uint8_t* values, uint8_t* low, uint8_t* high) {
  const __m512i table = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
  const __m512i mask = _mm512_set1_epi8(15);
  const __m512i codes = _mm512_loadu_si512(packed);
  _mm512_storeu_si512(low, _mm512_shuffle_epi8(table, _mm512_and_si512(codes, mask)));
  _mm512_storeu_si512(high, _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(codes, 4), mask)));
}

inline void expand_q2_k(const uint8_t* packed, const uint8_t* small, uint8_t* q) {
  // Scale o for all four bytes of output o; each 16-bit product is two products of bytes, which stay below 256.
  const __m512i spread =
      _mm512_set_epi32(0x0f0f0f0f, 0x0e0e0e0e, 0x0d0d0d0d, 0x0c0c0c0c, 0x0b0b0b0b, 0x0a0a0a0a, 0x09090909, 0x08080808,
                       0x07070707, 0x06060606, 0x05050505, 0x04040404, 0x03030303, 0x02020202, 0x01010101, 0x00000000);
  const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(small)));
  const __m512i scale = _mm512_and_si512(_mm512_shuffle_epi8(all, spread), _mm512_set1_epi16(15));
  const __m512i three = _mm512_set1_epi8(3);
  const __m512i codes = _mm512_loadu_si512(packed);
  _mm512_storeu_si512(q, _mm512_mullo_epi16(_mm512_and_si512(codes, three), scale));
  _mm512_storeu_si512(q + 64, _mm512_mullo_epi16(_mm512_and_si512(_mm512_srli_epi16(codes, 2), three), scale));
  _mm512_storeu_si512(q + 128, _mm512_mullo_epi16(_mm512_and_si512(_mm512_srli_epi16(codes, 4), three), scale));
  _mm512_storeu_si512(q + 192, _mm512_mullo_epi16(_mm512_and_si512(_mm512_srli_epi16(codes, 6), three), scale));
}

/// 64 entries of a table of 256 bytes.
inline __m512i look_up_256(const __m512i (&table)[4], __m512i index) {
  const __m512i low = _mm512_permutex2var_epi8(table[0], index, table[1]);
  const __m512i high = _mm512_permutex2var_epi8(table[2], index, table[3]);
  return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
}

/// Quad k of a group: two bits of `levels` for each value, bit k of `signs`. `fields` says where the two bits lie for
/// each byte of a 64-bit lane. A lookup takes six bits, of which the table ignores the upper three.
template <int k>
inline __m512i iq2_quad(__m512i levels, __m512i fields, __m512i signs, __m512i values) {
  const __m512i level = _mm512_multishift_epi64_epi8(fields, levels);
  __m512i sign = signs;  // bit k to bit 2
  if constexpr (k < 2) sign = _mm512_slli_epi16(signs, 2 - k);
  else if constexpr (k > 2) sign = _mm512_srli_epi16(signs, k - 2);
  const __m512i index = _mm512_ternarylogic_epi32(level, sign, _mm512_set1_epi8(3), 0xE4);  // level where 3 has ones
  return _mm512_permutexvar_epi8(index, values);
}

template <int bias>
inline void expand_iq2_xxs(const uint8_t* main, const Iq2Tables& tables, uint8_t* q) {
  __m512i first[4];   // of an octet: values 0 to 3
  __m512i second[4];  // values 4 to 7
  for (int i = 0; i < 4; ++i) {
    first[i] = _mm512_loadu_si512(tables.levels + 64 * i);
    second[i] = _mm512_loadu_si512(tables.levels + 256 + 64 * i);
  }
  // Index: level in bits 0 and 1, sign in bit 2.
  constexpr auto v = [](int i) { return static_cast<long long>(static_cast<unsigned char>(bias + i)); };
  constexpr long long entries = v(8) | v(25) << 8 | v(43) << 16 | v(0) << 24 | v(-8) << 32 | v(-25) << 40 |
                                v(-43) << 48 | static_cast<long long>(static_cast<unsigned long long>(v(0)) << 56);
  const __m512i values = _mm512_set1_epi64(entries);
  // Octet j: byte j of output o, two outputs in a lane.
  const __m512i octet0 = _mm512_set1_epi64(0x2624222006040200);
  const __m512i octet1 = _mm512_set1_epi64(0x2E2C2A280E0C0A08);
  const __m512i octet2 = _mm512_set1_epi64(0x3634323016141210);
  const __m512i octet3 = _mm512_set1_epi64(0x3E3C3A381E1C1A18);
  for (int g = 0; g < 8; ++g, main += 128, q += 512) {
    const __m512i codes = _mm512_loadu_si512(main);
    const __m512i signs = _mm512_loadu_si512(main + 64);
    const __m512i a = look_up_256(first, codes);
    const __m512i b = look_up_256(second, codes);
    _mm512_storeu_si512(q, iq2_quad<0>(a, octet0, signs, values));
    _mm512_storeu_si512(q + 64, iq2_quad<1>(b, octet0, signs, values));
    _mm512_storeu_si512(q + 128, iq2_quad<2>(a, octet1, signs, values));
    _mm512_storeu_si512(q + 192, iq2_quad<3>(b, octet1, signs, values));
    _mm512_storeu_si512(q + 256, iq2_quad<4>(a, octet2, signs, values));
    _mm512_storeu_si512(q + 320, iq2_quad<5>(b, octet2, signs, values));
    _mm512_storeu_si512(q + 384, iq2_quad<6>(a, octet3, signs, values));
    _mm512_storeu_si512(q + 448, iq2_quad<7>(b, octet3, signs, values));
  }
}

}  // namespace
}  // namespace ds4::cpu
