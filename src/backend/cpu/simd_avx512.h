// The primitives of AVX-512 (F, BW, DQ, VL, VNNI). Included by table_avx512.cpp alone; everything has internal linkage,
// because a function of the same name exists for every instruction set. See simd_scalar.h for what each one means.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace ds4::cpu {
namespace {

using F32 = __m512;
using I32 = __m512i;

constexpr int kLanes = 16;
constexpr int kDotOutputs = 4;
constexpr int kDotRows = 4;
constexpr int kPanelRows = 8;
constexpr int kSignedBias = 128;  // vpdpbusd wants its first operand unsigned

inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1U << n) - 1U); }

inline F32 zero() { return _mm512_setzero_ps(); }
inline F32 splat(float x) { return _mm512_set1_ps(x); }
inline F32 load(const float* p) { return _mm512_loadu_ps(p); }
inline F32 load_some(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
inline void store_some(float* p, F32 x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }

inline F32 load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
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
inline float sum(F32 a) { return _mm512_reduce_add_ps(a); }
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
  const __m512 values = _mm512_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F, -0.0F, -0.5F, -1.0F, -1.5F, -2.0F,
                                       -3.0F, -4.0F, -6.0F);
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

}  // namespace
}  // namespace ds4::cpu
