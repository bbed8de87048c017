// The primitives of aarch64: baseline NEON, or with the dot-product extension when compiled for it. Included by
// table_neon.cpp and table_neon_dot.cpp alone; everything has internal linkage, because a function of the same name
// exists for every instruction set. See simd_scalar.h for what each one means.
#pragma once

#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/simd_plain.h"

namespace ds4::cpu {
namespace {

using F32 = float32x4_t;
using I32 = int32x4_t;

constexpr int kLanes = 4;
constexpr int kDotOutputs = 4;
constexpr int kDotRows = 4;
constexpr int kPanelRows = 4;
constexpr int kPanelPair = 2;
constexpr int kSignedBias = 0;

inline F32 zero() { return vdupq_n_f32(0.0F); }
inline F32 splat(float x) { return vdupq_n_f32(x); }
inline F32 load(const float* p) { return vld1q_f32(p); }
inline F32 load_some(const float* p, int n) {
  float part[4] = {};
  memcpy(part, p, static_cast<size_t>(n) * 4);
  return vld1q_f32(part);
}
inline void store(float* p, F32 x) { vst1q_f32(p, x); }
inline void store_some(float* p, F32 x, int n) {
  float part[4];
  vst1q_f32(part, x);
  memcpy(p, part, static_cast<size_t>(n) * 4);
}
inline uint16x4_t some_halves(const uint16_t* p, int n) {
  uint16_t part[4] = {};
  memcpy(part, p, static_cast<size_t>(n) * 2);
  return vld1_u16(part);
}
inline F32 widen_f16(uint16x4_t x) { return vcvt_f32_f16(vreinterpret_f16_u16(x)); }
inline F32 widen_bf16(uint16x4_t x) { return vreinterpretq_f32_u32(vshll_n_u16(x, 16)); }
inline F32 load_f16(const uint16_t* p) { return widen_f16(vld1_u16(p)); }
inline F32 load_some_f16(const uint16_t* p, int n) { return widen_f16(some_halves(p, n)); }
inline F32 load_bf16(const uint16_t* p) { return widen_bf16(vld1_u16(p)); }
inline F32 load_some_bf16(const uint16_t* p, int n) { return widen_bf16(some_halves(p, n)); }

inline F32 add(F32 a, F32 b) { return vaddq_f32(a, b); }
inline F32 sub(F32 a, F32 b) { return vsubq_f32(a, b); }
inline F32 mul(F32 a, F32 b) { return vmulq_f32(a, b); }
inline F32 div(F32 a, F32 b) { return vdivq_f32(a, b); }
inline F32 madd(F32 a, F32 b, F32 c) { return vfmaq_f32(c, a, b); }
inline F32 nmadd(F32 a, F32 b, F32 c) { return vfmsq_f32(c, a, b); }
inline F32 larger(F32 a, F32 b) { return vmaxq_f32(a, b); }
inline F32 smaller(F32 a, F32 b) { return vminq_f32(a, b); }
inline F32 magnitude(F32 a) { return vabsq_f32(a); }
inline float sum(F32 a) { return vaddvq_f32(a); }
inline void sum_four(const F32* a, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(a[i]);
}
inline float largest(F32 a) { return vmaxvq_f32(a); }
inline F32 shift_to_power(F32 shifted) {
  const int32x4_t bits = vsubq_s32(vreinterpretq_s32_f32(shifted), vdupq_n_s32(0x4B400000 - 127));
  return vreinterpretq_f32_s32(vshlq_n_s32(bits, 23));
}

inline I32 splat_int(int32_t x) { return vdupq_n_s32(x); }
inline F32 to_float(I32 a) { return vcvtq_f32_s32(a); }
inline I32 load_panel(const uint8_t* p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
inline I32 splat_four(const int8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  return vdupq_n_s32(four);
}
inline I32 dot_signed(I32 acc, I32 w, I32 x) {
  const int8x16_t a = vreinterpretq_s8_s32(w);
  const int8x16_t b = vreinterpretq_s8_s32(x);
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(acc, a, b);
#else
  // Two products add up to at most 2 * 128 * 127: no overflow in 16 bits.
  const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
  const int16x8_t high = vmull_high_s8(a, b);
  return vpadalq_s16(acc, vpaddq_s16(low, high));
#endif
}
inline I32 dot_unsigned(I32 acc, I32 w, I32 x) { return dot_signed(acc, w, x); }

inline int32_t store_rounded(int8_t* p, F32 x) {
  const int32x4_t q = vcvtnq_s32_f32(x);
  const int8x8_t narrow = vqmovn_s16(vcombine_s16(vqmovn_s32(q), vqmovn_s32(q)));
  const int32_t four = vget_lane_s32(vreinterpret_s32_s8(narrow), 0);
  memcpy(p, &four, 4);
  return vaddvq_s32(q);
}

inline float half_to_float(uint16_t h) { return vgetq_lane_f32(widen_f16(vdup_n_u16(h)), 0); }

/// 4 e4m3 codes. An e4m3 is the top half of an f16 with a smaller exponent: exact, subnormals included.
inline F32 load_e4m3(const uint8_t* p) {
  uint32_t four;
  memcpy(&four, p, 4);
  const uint16x4_t code = vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))));
  const uint16x4_t half =
      vorr_u16(vshl_n_u16(vand_u16(code, vdup_n_u16(0x7f)), 7), vshl_n_u16(vand_u16(code, vdup_n_u16(0x80)), 8));
  return vmulq_n_f32(widen_f16(half), 256.0F);
}

/// 4 e2m1 nibbles, low ones first.
inline F32 load_e2m1(const uint8_t* p) {
  static const float values[16] = {0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                                   -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};
  const float out[4] = {values[p[0] & 15], values[p[0] >> 4], values[p[1] & 15], values[p[1] >> 4]};
  return vld1q_f32(out);
}

/// rows[16][64 ints] to out[64][16 ints]: from one output after the other to a panel.
inline void transpose_panel(const uint8_t* rows, int fours, uint8_t* out) {
  for (int base = 0; base < fours; base += 4) {
    for (int quarter = 0; quarter < 4; ++quarter) {
      const auto row = [&](int i) { return vreinterpretq_u32_u8(vld1q_u8(rows + (quarter * 4 + i) * 256 + base * 4)); };
      const uint32x4x2_t a = vtrnq_u32(row(0), row(1));
      const uint32x4x2_t b = vtrnq_u32(row(2), row(3));
      const auto put = [&](int k, uint32x4_t x) {
        vst1q_u8(out + (base + k) * 64 + quarter * 16, vreinterpretq_u8_u32(x));
      };
      put(0, vcombine_u32(vget_low_u32(a.val[0]), vget_low_u32(b.val[0])));
      put(1, vcombine_u32(vget_low_u32(a.val[1]), vget_low_u32(b.val[1])));
      put(2, vcombine_u32(vget_high_u32(a.val[0]), vget_high_u32(b.val[0])));
      put(3, vcombine_u32(vget_high_u32(a.val[1]), vget_high_u32(b.val[1])));
    }
  }
}

}  // namespace
}  // namespace ds4::cpu
