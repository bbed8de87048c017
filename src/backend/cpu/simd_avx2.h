// The primitives of AVX2 with FMA and F16C. Included by table_avx2.cpp alone; everything has internal linkage, because
// a function of the same name exists for every instruction set. See simd_scalar.h for what each one means.
#pragma once

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/simd_plain.h"

namespace ds4::cpu {
namespace {

using F32 = __m256;
using I32 = __m256i;

constexpr int kLanes = 8;
constexpr int kDotOutputs = 4;
constexpr int kDotRows = 2;
constexpr int kPanelRows = 4;
constexpr int kPanelPair = 1;
constexpr int kSignedBias = 0;

inline __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline F32 zero() { return _mm256_setzero_ps(); }
inline F32 splat(float x) { return _mm256_set1_ps(x); }
inline F32 load(const float* p) { return _mm256_loadu_ps(p); }
inline F32 load_some(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
inline void store(float* p, F32 x) { _mm256_storeu_ps(p, x); }
inline void store_some(float* p, F32 x, int n) { _mm256_maskstore_ps(p, first_lanes(n), x); }

inline __m128i some_halves(const uint16_t* p, int n) {
  uint16_t part[8] = {};
  memcpy(part, p, static_cast<size_t>(n) * 2);
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(part));
}
inline F32 load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline F32 load_some_f16(const uint16_t* p, int n) { return _mm256_cvtph_ps(some_halves(p, n)); }
inline F32 widen_bf16(__m128i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)); }
inline F32 load_bf16(const uint16_t* p) { return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline F32 load_some_bf16(const uint16_t* p, int n) { return widen_bf16(some_halves(p, n)); }

inline F32 add(F32 a, F32 b) { return _mm256_add_ps(a, b); }
inline F32 sub(F32 a, F32 b) { return _mm256_sub_ps(a, b); }
inline F32 mul(F32 a, F32 b) { return _mm256_mul_ps(a, b); }
inline F32 div(F32 a, F32 b) { return _mm256_div_ps(a, b); }
inline F32 madd(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
inline F32 nmadd(F32 a, F32 b, F32 c) { return _mm256_fnmadd_ps(a, b, c); }
inline F32 larger(F32 a, F32 b) { return _mm256_max_ps(a, b); }
inline F32 smaller(F32 a, F32 b) { return _mm256_min_ps(a, b); }
inline F32 magnitude(F32 a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
inline float sum(F32 a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline void sum_four(const F32* a, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(a[i]);
}
inline float largest(F32 a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
inline F32 shift_to_power(F32 shifted) {
  const __m256i bits = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x4B400000 - 127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
}

inline I32 splat_int(int32_t x) { return _mm256_set1_epi32(x); }
inline F32 to_float(I32 a) { return _mm256_cvtepi32_ps(a); }
inline I32 load_panel(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline I32 splat_four(const int8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}
/// vpmaddubsw adds two products in 16 bits and saturates: |w| * |x| * 2 must stay below 32768, so w is at most 128 in
/// magnitude and x at most 127.
inline I32 dot_unsigned(I32 acc, I32 w, I32 x) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}
inline I32 dot_signed(I32 acc, I32 w, I32 x) { return dot_unsigned(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w)); }

inline int32_t store_rounded(int8_t* p, F32 x) {
  const __m256i q = _mm256_cvtps_epi32(x);
  const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(half, half));
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}

inline float half_to_float(uint16_t h) { return _cvtsh_ss(h); }

/// 8 e4m3 codes. An e4m3 is the top half of an f16 with a smaller exponent: exact, subnormals included.
inline F32 load_e4m3(const uint8_t* p) {
  const __m128i code = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m128i half = _mm_or_si128(_mm_slli_epi16(_mm_and_si128(code, _mm_set1_epi16(0x7f)), 7),
                                    _mm_slli_epi16(_mm_and_si128(code, _mm_set1_epi16(0x80)), 8));
  return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0F));
}

/// 8 e2m1 nibbles, low ones first.
inline F32 load_e2m1(const uint8_t* p) {
  const __m256 values = _mm256_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F);
  int32_t four;
  memcpy(&four, p, 4);
  const __m128i bytes = _mm_cvtsi32_si128(four);
  const __m128i both = _mm_unpacklo_epi8(bytes, _mm_srli_epi16(bytes, 4));
  const __m256i code = _mm256_cvtepu8_epi32(both);
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(8)), 28);
  return _mm256_xor_ps(_mm256_permutevar8x32_ps(values, code), _mm256_castsi256_ps(sign));
}

/// rows[16][64 ints] to out[64][16 ints]: from one output after the other to a panel.
inline void transpose_panel(const uint8_t* rows, int fours, uint8_t* out) {
  for (int base = 0; base < fours; base += 8) {
    for (int half = 0; half < 2; ++half) {
      __m256i t[8];
      for (int i = 0; i < 8; ++i)
        t[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows + (half * 8 + i) * 256 + base * 4));
      __m256i u[8];
      for (int i = 0; i < 8; i += 2) {
        u[i] = _mm256_unpacklo_epi32(t[i], t[i + 1]);
        u[i + 1] = _mm256_unpackhi_epi32(t[i], t[i + 1]);
      }
      for (int i = 0; i < 8; i += 4) {
        t[i] = _mm256_unpacklo_epi64(u[i], u[i + 2]);
        t[i + 1] = _mm256_unpackhi_epi64(u[i], u[i + 2]);
        t[i + 2] = _mm256_unpacklo_epi64(u[i + 1], u[i + 3]);
        t[i + 3] = _mm256_unpackhi_epi64(u[i + 1], u[i + 3]);
      }
      for (int i = 0; i < 4; ++i) {
        auto* low = reinterpret_cast<__m256i*>(out + (base + i) * 64 + half * 32);
        auto* high = reinterpret_cast<__m256i*>(out + (base + i + 4) * 64 + half * 32);
        _mm256_storeu_si256(low, _mm256_permute2x128_si256(t[i], t[i + 4], 0x20));
        _mm256_storeu_si256(high, _mm256_permute2x128_si256(t[i], t[i + 4], 0x31));
      }
    }
  }
}

}  // namespace
}  // namespace ds4::cpu
