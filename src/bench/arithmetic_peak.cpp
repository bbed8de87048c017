// The widest multiply-adds this machine has, in loops that do nothing else: independent sums in registers, enough of
// them to cover the latency of the instruction. Chosen at run time; each loop is compiled for its instruction set by an
// attribute, so that the rest of the file runs anywhere.
#include "bench/roof.h"

#include "base/cpus.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#endif

namespace ds4::bench {

namespace {

/// Keeps `value` alive without storing it.
template <typename T>
void keep(const T& value) {
  asm volatile("" : : "m"(value) : "memory");
}

constexpr int kChains = 12;

#if defined(__x86_64__)

__attribute__((target("amx-tile,amx-int8"))) double int8_amx(long rounds) {
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  alignas(64) std::int8_t ones[16][64];
  for (auto& row : ones)
    for (std::int8_t& value : row) value = 1;
  _tile_loadconfig(&config);
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  _tile_loadd(6, ones, 64);
  _tile_loadd(7, ones, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (long r = 0; r < rounds / 16; ++r) {  // a step is a hundred times one of the vector loops
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_stored(0, ones, 64);
  _tile_release();
  keep(ones);
  return 4.0 * 2.0 * 16.0 * 16.0 * 64.0 * static_cast<double>(rounds / 16);
}

__attribute__((target("avx512f,avx512vnni"))) double int8_avx512(long rounds) {
  __m512i sums[kChains];
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  __m512i a = _mm512_set1_epi32(0x01020304), b = _mm512_set1_epi32(0x02030401);
  for (long r = 0; r < rounds; ++r) {
    asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
  }
  keep(sums);
  return 128.0 * kChains * static_cast<double>(rounds);
}

__attribute__((target("avx2"))) double int8_avx2(long rounds) {
  __m256i sums[kChains];
  for (auto& sum : sums) sum = _mm256_setzero_si256();
  __m256i a = _mm256_set1_epi32(0x01020304), b = _mm256_set1_epi32(0x02030401);
  const __m256i ones = _mm256_set1_epi16(1);
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      asm volatile("" : "+x"(a), "+x"(b));
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
    }
  }
  keep(sums);
  return 64.0 * kChains * static_cast<double>(rounds);
}

__attribute__((target("avx512f"))) double f32_avx512(long rounds) {
  __m512 sums[kChains];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  __m512 a = _mm512_set1_ps(1e-8F), b = _mm512_set1_ps(1.5F);
  for (long r = 0; r < rounds; ++r) {
    asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_fmadd_ps(a, b, sums[i]);
  }
  keep(sums);
  return 32.0 * kChains * static_cast<double>(rounds);
}

__attribute__((target("avx2,fma"))) double f32_avx2(long rounds) {
  __m256 sums[kChains];
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  __m256 a = _mm256_set1_ps(1e-8F), b = _mm256_set1_ps(1.5F);
  for (long r = 0; r < rounds; ++r) {
    asm volatile("" : "+x"(a), "+x"(b));
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = _mm256_fmadd_ps(a, b, sums[i]);
  }
  keep(sums);
  return 16.0 * kChains * static_cast<double>(rounds);
}

#elif defined(__aarch64__)

#if defined(__clang__)
#define DS4_DOTPROD __attribute__((target("dotprod")))
#else
#define DS4_DOTPROD __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

DS4_DOTPROD double int8_dotprod(long rounds) {
  int32x4_t sums[kChains];
  for (auto& sum : sums) sum = vdupq_n_s32(0);
  int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(2);
  for (long r = 0; r < rounds; ++r) {
    asm volatile("" : "+w"(a), "+w"(b));
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = vdotq_s32(sums[i], a, b);
  }
  keep(sums);
  return 32.0 * kChains * static_cast<double>(rounds);
}

double int8_neon(long rounds) {
  int32x4_t sums[kChains];
  for (auto& sum : sums) sum = vdupq_n_s32(0);
  int8x8_t a = vdup_n_s8(3), b = vdup_n_s8(2);
  for (long r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
      asm volatile("" : "+w"(a), "+w"(b));
      sums[i] = vpadalq_s16(sums[i], vmull_s8(a, b));
    }
  }
  keep(sums);
  return 16.0 * kChains * static_cast<double>(rounds);
}

double f32_neon(long rounds) {
  float32x4_t sums[kChains];
  for (auto& sum : sums) sum = vdupq_n_f32(0);
  float32x4_t a = vdupq_n_f32(1e-8F), b = vdupq_n_f32(1.5F);
  for (long r = 0; r < rounds; ++r) {
    asm volatile("" : "+w"(a), "+w"(b));
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = vfmaq_f32(sums[i], a, b);
  }
  keep(sums);
  return 8.0 * kChains * static_cast<double>(rounds);
}

#endif

/// Whatever the compiler makes of it.
template <typename T>
double plain(long rounds) {
  T sums[64] = {};
  T a[64], b[64];
  for (int i = 0; i < 64; ++i) a[i] = static_cast<T>(i % 3), b[i] = static_cast<T>(1);
  for (long r = 0; r < rounds; ++r) {
    keep(a);
    for (int i = 0; i < 64; ++i) sums[i] += a[i] * b[i];
  }
  keep(sums);
  return 128.0 * static_cast<double>(rounds);
}

}  // namespace

ArithmeticPeak quantised_peak() {
#if defined(__x86_64__)
  if (has_amx_int8()) return {"amx int8", int8_amx};
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni"))
    return {"avx512-vnni int8", int8_avx512};
  if (__builtin_cpu_supports("avx2")) return {"avx2 int8", int8_avx2};
#elif defined(__aarch64__)
#if defined(__linux__)
  if ((::getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0) return {"neon-dotprod int8", int8_dotprod};
#endif
  return {"neon int8", int8_neon};
#endif
  return {"plain int32", plain<std::int32_t>};
}

ArithmeticPeak float_peak() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return {"avx512 f32", f32_avx512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return {"avx2 f32", f32_avx2};
#elif defined(__aarch64__)
  return {"neon f32", f32_neon};
#endif
  return {"plain f32", plain<float>};
}

}  // namespace ds4::bench
