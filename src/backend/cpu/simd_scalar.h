// The primitives in plain C, and what each one means. A vector is eight floats or eight 32-bit integers; there is no
// fused multiply-add. Included by table_scalar.cpp alone; everything has internal linkage, because a function of the
// same name exists for every instruction set.
#pragma once

#include <stdint.h>
#include <string.h>

#include "backend/cpu/simd_plain.h"

namespace ds4::cpu {
namespace {

constexpr int kLanes = 8;       // of a vector; divides kTileOutputs
constexpr int kDotOutputs = 2;  // tile of the float products: what fits the registers
constexpr int kDotRows = 2;
constexpr int kPanelRows = 2;   // rows that share one load of a panel
constexpr int kPanelPair = 1;   // panels that share one load of the activations
constexpr int kSignedBias = 0;  // what packing adds to signed values so that dot_signed can use them

struct F32 {
  float v[kLanes];
};
struct I32 {
  int32_t v[kLanes];
};

template <typename F>
inline F32 each(F f) {
  F32 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
  return r;
}

inline float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

/// Exact for every half: the exponent is moved by a multiplication, which also normalises subnormals.
inline float half_to_float(uint16_t h) {
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13;
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  if (magnitude >= 0x0f800000) return from_bits(sign | magnitude | 0x7f800000);  // infinity, NaN
  return from_bits(sign | to_bits(from_bits(magnitude) * 0x1p112F));
}

inline F32 zero() {
  return each([](int) { return 0.0F; });
}
inline F32 splat(float x) {
  return each([=](int) { return x; });
}
inline F32 load(const float* p) {
  return each([=](int i) { return p[i]; });
}
/// The first n values, then zeros; reads no more than n.
inline F32 load_some(const float* p, int n) {
  return each([=](int i) { return i < n ? p[i] : 0.0F; });
}
inline void store(float* p, F32 x) { memcpy(p, x.v, sizeof x.v); }
inline void store_some(float* p, F32 x, int n) { memcpy(p, x.v, static_cast<size_t>(n) * 4); }
/// Rows of bytes may begin anywhere.
inline uint16_t half_at(const uint16_t* p, int i) {
  uint16_t half;
  memcpy(&half, reinterpret_cast<const char*>(p) + 2 * i, 2);
  return half;
}
inline F32 load_f16(const uint16_t* p) {
  return each([=](int i) { return half_to_float(half_at(p, i)); });
}
inline F32 load_some_f16(const uint16_t* p, int n) {
  return each([=](int i) { return i < n ? half_to_float(half_at(p, i)) : 0.0F; });
}
inline float bf16_bits(uint16_t h) { return from_bits(static_cast<uint32_t>(h) << 16); }
inline F32 load_bf16(const uint16_t* p) {
  return each([=](int i) { return bf16_bits(half_at(p, i)); });
}
inline F32 load_some_bf16(const uint16_t* p, int n) {
  return each([=](int i) { return i < n ? bf16_bits(half_at(p, i)) : 0.0F; });
}

inline F32 add(const F32& a, const F32& b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline F32 sub(const F32& a, const F32& b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline F32 mul(const F32& a, const F32& b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline F32 div(const F32& a, const F32& b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
/// a * b + c
inline F32 madd(const F32& a, const F32& b, const F32& c) {
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
/// c - a * b
inline F32 nmadd(const F32& a, const F32& b, const F32& c) {
  return each([&](int i) { return c.v[i] - a.v[i] * b.v[i]; });
}
/// A NaN in b wins, one in a does not.
inline F32 larger(const F32& a, const F32& b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32 smaller(const F32& a, const F32& b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32 magnitude(const F32& a) {
  return each([&](int i) { return from_bits(to_bits(a.v[i]) & 0x7fffffff); });
}
inline float sum(const F32& a) {
  return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
}
inline void sum_four(const F32* a, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum(a[i]);
}
inline float largest(const F32& a) {
  float m = a.v[0];
  for (int i = 1; i < kLanes; ++i) m = m > a.v[i] ? m : a.v[i];
  return m;
}
/// 2^n from n + 12582912 (1.5 * 2^23), n in [-126, 127]: the integer sits in the low bits of the sum.
inline F32 shift_to_power(const F32& shifted) {
  return each([&](int i) { return from_bits((to_bits(shifted.v[i]) - (0x4B400000U - 127U)) << 23); });
}

inline I32 splat_int(int32_t x) {
  I32 r;
  for (int i = 0; i < kLanes; ++i) r.v[i] = x;
  return r;
}
inline F32 to_float(const I32& a) {
  return each([&](int i) { return static_cast<float>(a.v[i]); });
}
/// 4 * kLanes bytes of a panel: four inputs of each of kLanes outputs.
inline I32 load_panel(const uint8_t* p) {
  I32 r;
  memcpy(r.v, p, sizeof r.v);
  return r;
}
/// Four activations, the same for every lane.
inline I32 splat_four(const int8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  return splat_int(four);
}
/// acc + the sum of four products per lane, exact. Weights are int8, plus kSignedBias.
inline I32 dot_signed(const I32& acc, const I32& w, const I32& x) {
  int8_t a[4 * kLanes];
  int8_t b[4 * kLanes];
  memcpy(a, w.v, sizeof a);
  memcpy(b, x.v, sizeof b);
  I32 r = acc;
  for (int i = 0; i < kLanes; ++i)
    for (int k = 0; k < 4; ++k) r.v[i] += a[4 * i + k] * b[4 * i + k];
  return r;
}
/// The same for weights from 0 to 45, without a bias.
inline I32 dot_unsigned(const I32& acc, const I32& w, const I32& x) { return dot_signed(acc, w, x); }

/// Stores kLanes values rounded to the nearest even integer (they lie in ±127; a NaN gives anything) and returns their
/// sum.
inline int32_t store_rounded(int8_t* p, const F32& x) {
  int32_t total = 0;
  for (int i = 0; i < kLanes; ++i) {
    const auto q = static_cast<int8_t>(to_bits(x.v[i] + 12582912.0F) - 0x4B400000U);
    p[i] = q;
    total += q;
  }
  return total;
}

inline F32 load_e4m3(const uint8_t* p) {
  return each([=](int i) {
    const auto half = static_cast<uint16_t>((p[i] & 0x7f) << 7 | (p[i] & 0x80) << 8);
    return half_to_float(half) * 256.0F;
  });
}
/// kLanes values from kLanes / 2 bytes, low nibbles first.
inline F32 load_e2m1(const uint8_t* p) {
  static const float values[16] = {0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                                   -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};
  return each([=](int i) { return values[(p[i / 2] >> (i % 2 * 4)) & 15]; });
}

/// rows[16][64 ints] to out[64][16 ints], the first `fours` of 64 (a multiple of 8): from one output after the other to
/// a panel.
inline void transpose_panel(const uint8_t* rows, int fours, uint8_t* out) {
  for (int k = 0; k < fours; ++k)
    for (int o = 0; o < 16; ++o) memcpy(out + k * 64 + o * 4, rows + o * 256 + k * 4, 4);
}

}  // namespace
}  // namespace ds4::cpu
