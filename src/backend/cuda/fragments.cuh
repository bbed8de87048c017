// Weights in the order in which tensor cores take them.
//
// A matrix [out, in] is cut into tiles of 16 rows by 128 columns. Lane (g, t) = (lane / 4, lane % 4) of a warp owns
// rows g and g + 8 and the 32 columns 32 t .. 32 t + 31: one block of every format here, so that a lane needs one scale
// a row. Eight steps of mma.m16n8k16 consume a tile; in step s a lane gives its columns 4 s .. 4 s + 3, and the other
// operand (activations, f16, natural order) gives the same four. A lane's bytes lie so that a warp loads whole lines.
//
// Every format has
//   kTileBytes            bytes of one tile
//   Piece piece(tile, u)  the lane's codes for the steps 2 u and 2 u + 1 (u = 0..3), from device or shared memory
//   Head head(tile)       the lane's scales, as stored
//   Scales scales(head, pre)  the same, ready to multiply with
//   expand(...)           the two steps as operand registers, f16
// Weights are expanded as value * pre, where pre is a power of two chosen per tensor so that the largest lies well
// inside the range of f16; results are divided by it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "backend/cuda/async_copy.cuh"
#include "backend/cuda/matrix.h"
#include "quant/dtype.h"

namespace ds4::cuda {

__device__ inline __half2 as_half2(std::uint32_t bits) { return *reinterpret_cast<const __half2*>(&bits); }
__device__ inline std::uint32_t as_bits(__half2 h) { return *reinterpret_cast<const std::uint32_t*>(&h); }
__device__ inline __half2 both(float v) { return __float2half2_rn(v); }

template <typename T>
__device__ inline T load_at(const std::byte* at) {
  return *reinterpret_cast<const T*>(at);
}

/// Device memory that is read once a step. Its loads give their place in the caches up first, which leaves the code,
/// the parameters and the small operands of all kernels in there from one step to the next.
struct ReadOnce {
  const std::byte* at;
  __device__ ReadOnce operator+(std::int64_t bytes) const { return {at + bytes}; }
  __device__ ReadOnce& operator+=(std::int64_t bytes) {
    at += bytes;
    return *this;
  }
};
template <typename T>
__device__ inline T load_at(ReadOnce from) {
  return __ldcs(reinterpret_cast<const T*>(from.at));
}

/// Two steps of the weight operand: registers in the order of mma.m16n8k16.
struct StepPair {
  std::uint32_t a[2][4];
};

/// A tile as one lane sees it. Pointers, not offsets: from tile to tile one addition moves each. `Bytes` is a pointer
/// or ReadOnce.
template <typename Bytes>
struct LaneTile {
  Bytes wide;  // 16 bytes a lane
  Bytes four;  // 4 bytes a lane
  Bytes two;   // 2 bytes a lane
  Bytes row;   // 4 bytes a row: of row g, that of row g + 8 lies 32 further
  __device__ LaneTile(Bytes tile, int lane)
      : wide(tile + lane * 16), four(tile + lane * 4), two(tile + lane * 2), row(tile + lane / 4 * 4) {}
  __device__ LaneTile& operator+=(std::int64_t bytes) {
    wide += bytes, four += bytes, two += bytes, row += bytes;
    return *this;
  }
};

/// The IQ2_XXS codebook. In shared memory it lies eight times, interleaved: lanes that read together then meet no bank
/// twice, whatever they look up. 32 KiB.
inline constexpr int kOctetCopies = 8;
template <typename F>
inline constexpr int kOctetEntries = F::kTable ? 256 * kOctetCopies : 1;
struct SharedOctets {
  std::uint32_t at;  // shared address of the lane's copy of entry 0
  __device__ uint4 operator[](std::uint32_t entry) const {
    uint4 v;
    asm("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "r"(at + entry * (16 * kOctetCopies)));
    return v;
  }
};
struct GlobalOctets {
  const uint4* at;
  __device__ uint4 operator[](std::uint32_t entry) const { return at[entry]; }
};

struct FragmentF16 {
  static constexpr DType kType = DType::kF16;
  static constexpr int kTileBytes = 4096;
  static constexpr bool kTable = false;
  struct Piece {
    uint4 a, b;
  };
  struct Head {};
  struct Scales {};
  template <typename Bytes>
  __device__ static Piece piece(const LaneTile<Bytes>& tile, int u) {
    return {load_at<uint4>(tile.wide + 2 * u * 512), load_at<uint4>(tile.wide + (2 * u + 1) * 512)};
  }
  template <typename Bytes>
  __device__ static Head head(const LaneTile<Bytes>&) {
    return {};
  }
  __device__ static Scales scales(const Head&, float) { return {}; }
  template <typename Octets>
  __device__ static StepPair expand(const Piece& p, const Scales&, int, const Octets&) {
    return {{{p.a.x, p.a.y, p.a.z, p.a.w}, {p.b.x, p.b.y, p.b.z, p.b.w}}};
  }
};

struct FragmentBF16 {
  static constexpr DType kType = DType::kBF16;
  static constexpr int kTileBytes = 4096;
  static constexpr bool kTable = false;
  using Piece = FragmentF16::Piece;
  struct Head {};
  struct Scales {
    float pre;
  };
  template <typename Bytes>
  __device__ static Piece piece(const LaneTile<Bytes>& tile, int u) {
    return FragmentF16::piece(tile, u);
  }
  template <typename Bytes>
  __device__ static Head head(const LaneTile<Bytes>&) {
    return {};
  }
  __device__ static Scales scales(const Head&, float pre) { return {pre}; }
  __device__ static std::uint32_t convert(std::uint32_t two, float pre) {
    return as_bits(__floats2half2_rn(__uint_as_float(two << 16) * pre, __uint_as_float(two & 0xffff0000u) * pre));
  }
  template <typename Octets>
  __device__ static StepPair expand(const Piece& p, const Scales& s, int, const Octets&) {
    return {{{convert(p.a.x, s.pre), convert(p.a.y, s.pre), convert(p.a.z, s.pre), convert(p.a.w, s.pre)},
             {convert(p.b.x, s.pre), convert(p.b.y, s.pre), convert(p.b.z, s.pre), convert(p.b.w, s.pre)}}};
  }
};

/// [u][lane]: 4 values of row g, 4 of row g + 8, for two steps, as q + 128. Then [lane] the f16 scales of both rows.
struct FragmentQ8_0 {
  static constexpr DType kType = DType::kQ8_0;
  static constexpr int kTileBytes = 2048 + 128;
  static constexpr bool kTable = false;
  using Piece = uint4;
  using Head = __half2;
  struct Scales {
    __half2 d[2];  // row g, row g + 8
  };
  template <typename Bytes>
  __device__ static Piece piece(const LaneTile<Bytes>& tile, int u) {
    return load_at<uint4>(tile.wide + u * 512);
  }
  template <typename Bytes>
  __device__ static Head head(const LaneTile<Bytes>& tile) {
    return load_at<__half2>(tile.four + 2048);
  }
  __device__ static Scales scales(const Head& d, float pre) {
    return {{both(__low2float(d) * pre), both(__high2float(d) * pre)}};
  }
  __device__ static void four(std::uint32_t q, __half2 d, std::uint32_t& low, std::uint32_t& high) {
    // 0x6400 is 1024 in f16 and its last bit is 1: 0x64qq is 1024 + q. Exact up to the product with the scale.
    const __half2 bias = as_half2(0x64806480u);
    low = as_bits(__hmul2(__hsub2(as_half2(__byte_perm(q, 0x64646464u, 0x4140)), bias), d));
    high = as_bits(__hmul2(__hsub2(as_half2(__byte_perm(q, 0x64646464u, 0x4342)), bias), d));
  }
  template <typename Octets>
  __device__ static StepPair expand(const Piece& p, const Scales& s, int, const Octets&) {
    StepPair out;
    four(p.x, s.d[0], out.a[0][0], out.a[0][2]);
    four(p.y, s.d[1], out.a[0][1], out.a[0][3]);
    four(p.z, s.d[0], out.a[1][0], out.a[1][2]);
    four(p.w, s.d[1], out.a[1][1], out.a[1][3]);
    return out;
  }
};

/// Nibbles of one step: word w has, for operand register j, the low half's nibble at bit 4 j and the high half's at bit
/// 16 + 4 j.
///   MXFP4: [u / 2][lane][u % 2] two words. Then [lane] the e8m0 codes of both rows.
struct FragmentMXFP4 {
  static constexpr DType kType = DType::kMXFP4;
  static constexpr int kTileBytes = 1024 + 64;
  static constexpr bool kTable = false;
  using Piece = uint2;
  using Head = std::uint32_t;
  struct Scales {
    __half2 d[2];
  };
  template <typename Bytes>
  __device__ static Piece piece(const LaneTile<Bytes>& tile, int u) {
    return load_at<uint2>(tile.wide + u / 2 * 512 + u % 2 * 8);
  }
  __device__ static float factor(std::uint32_t code, float pre) {  // the bits below are 2^-14 of the value
    return __uint_as_float(code << 23) * 16384.0F * pre;
  }
  template <typename Bytes>
  __device__ static Head head(const LaneTile<Bytes>& tile) {
    return load_at<std::uint16_t>(tile.two + 1024);
  }
  __device__ static Scales scales(const Head& codes, float pre) {
    return {{both(factor(codes & 0xff, pre)), both(factor(codes >> 8, pre))}};
  }
  __device__ static void step(std::uint32_t w, const Scales& s, std::uint32_t (&a)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::uint32_t v = w << (12 - 4 * j);  // sign at bit 15, magnitude at 12..14 of each half
      a[j] = as_bits(__hmul2(as_half2((v & 0x80008000u) | (v >> 3 & 0x0e000e00u)), s.d[j % 2]));
    }
  }
  template <typename Octets>
  __device__ static StepPair expand(const Piece& p, const Scales& s, int, const Octets&) {
    StepPair out;
    step(p.x, s, out.a[0]);
    step(p.y, s, out.a[1]);
    return out;
  }
};

/// As MXFP4, then [lane] scale and min of row g, of row g + 8 (6 bits in a byte each), then [row] f16 d and dmin.
struct FragmentQ4_K {
  static constexpr DType kType = DType::kQ4_K;
  static constexpr int kTileBytes = 1024 + 128 + 64;
  static constexpr bool kTable = false;
  using Piece = uint2;
  struct Head {
    std::uint32_t codes;
    __half2 low, high;
  };
  struct Scales {
    __half2 d[2];
    __half2 m[2];  // negative
  };
  template <typename Bytes>
  __device__ static Piece piece(const LaneTile<Bytes>& tile, int u) {
    return FragmentMXFP4::piece(tile, u);
  }
  template <typename Bytes>
  __device__ static Head head(const LaneTile<Bytes>& tile) {
    return {load_at<std::uint32_t>(tile.four + 1024), load_at<__half2>(tile.row + 1152),
            load_at<__half2>(tile.row + 1152 + 32)};
  }
  __device__ static Scales scales(const Head& head, float pre) {
    const auto [codes, low, high] = head;
    return {{both(__low2float(low) * pre * static_cast<float>(codes & 0xff)),
             both(__low2float(high) * pre * static_cast<float>(codes >> 16 & 0xff))},
            {both(-__high2float(low) * pre * static_cast<float>(codes >> 8 & 0xff)),
             both(-__high2float(high) * pre * static_cast<float>(codes >> 24))}};
  }
  __device__ static void step(std::uint32_t w, const Scales& s, std::uint32_t (&a)[4]) {
    // 0x6400 is 1024: below it a field of up to ten bits reads as an integer, wherever it stands.
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::uint32_t v = j < 2 ? w : w >> 8;
      const __half2 q = j % 2 == 0 ? __hsub2(as_half2((v & 0x000f000fu) | 0x64006400u), as_half2(0x64006400u))
                                   : __hfma2(as_half2((v & 0x00f000f0u) | 0x64006400u), as_half2(0x2c002c00u),
                                             as_half2(0xd400d400u));  // times 1/16, minus 64
      a[j] = as_bits(__hfma2(q, s.d[j % 2], s.m[j % 2]));
    }
  }
  template <typename Octets>
  __device__ static StepPair expand(const Piece& p, const Scales& s, int, const Octets&) {
    StepPair out;
    step(p.x, s, out.a[0]);
    step(p.y, s, out.a[1]);
    return out;
  }
};

/// [lane][u] one word: as the nibbles above with 2 bits, field 4 * (step in the pair) + j. Then [lane] the scale/min
/// bytes of both sub-blocks of 16 of row g, of row g + 8; then [row] f16 d and dmin.
struct FragmentQ2_K {
  static constexpr DType kType = DType::kQ2_K;
  static constexpr int kTileBytes = 512 + 128 + 64;
  static constexpr bool kTable = false;
  using Piece = std::uint32_t;
  using Head = FragmentQ4_K::Head;
  struct Scales {
    __half2 d[2][2];  // [sub-block][row]
    __half2 m[2][2];  // negative
  };
  template <typename Bytes>
  __device__ static Piece piece(const LaneTile<Bytes>& tile, int u) {
    return load_at<std::uint32_t>(tile.wide + u * 4);
  }
  template <typename Bytes>
  __device__ static Head head(const LaneTile<Bytes>& tile) {
    return {load_at<std::uint32_t>(tile.four + 512), load_at<__half2>(tile.row + 640),
            load_at<__half2>(tile.row + 640 + 32)};
  }
  __device__ static Scales scales(const Head& head, float pre) {
    const __half2 rows[2] = {head.low, head.high};
    Scales s;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const __half2 d = both(__low2float(rows[r]) * pre);
      const __half2 dmin = both(-__high2float(rows[r]) * pre);
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const std::uint32_t code = __byte_perm(head.codes, 0, 0x4040 + 0x0101 * (2 * r + b));  // in both halves
        s.d[b][r] = __hmul2(__hsub2(as_half2((code & 0x000f000fu) | 0x64006400u), as_half2(0x64006400u)), d);
        s.m[b][r] = __hmul2(
            __hfma2(as_half2((code & 0x00f000f0u) | 0x64006400u), as_half2(0x2c002c00u), as_half2(0xd400d400u)), dmin);
      }
    }
    return s;
  }
  template <typename Octets>
  __device__ static StepPair expand(const Piece& p, const Scales& s, int u, const Octets&) {
    // As above: five fields fit into the ten bits, then one shift. Field k reads as 1024 + 4^k q.
    constexpr std::uint32_t kFactor[5] = {0x3c003c00u, 0x34003400u, 0x2c002c00u, 0x24002400u, 0x1c001c00u};  // 4^-k
    constexpr std::uint32_t kBias[5] = {0xe400e400u, 0xdc00dc00u, 0xd400d400u, 0xcc00cc00u, 0xc400c400u};  // -1024 4^-k
    StepPair out;
    const std::uint32_t high = p >> 10;
#pragma unroll
    for (int f = 0; f < 8; ++f) {
      const int k = f % 5;
      const __half2 two = as_half2(((f < 5 ? p : high) & 0x00030003u << (2 * k)) | 0x64006400u);
      const __half2 q = __hfma2(two, as_half2(kFactor[k]), as_half2(kBias[k]));
      out.a[f / 4][f % 4] = as_bits(__hfma2(q, s.d[u / 2][f % 2], s.m[u / 2][f % 2]));
    }
    return out;
  }
};

/// [lane]: for row g four grid indices (one an octet) and a word of signs, then the same for row g + 8. In the word,
/// bit p and bit 16 + p are the signs of the pair p (values 2 p and 2 p + 1 of the 32). Then [lane] the factors of both
/// rows, f16, times kFactor. The file packs the last sign of an octet and the factor into the word; undoing that for
/// every tile costs more time than the bytes.
struct FragmentIQ2_XXS {
  static constexpr DType kType = DType::kIQ2_XXS;
  static constexpr int kTileBytes = 512 + 128;
  static constexpr bool kTable = true;
  static constexpr float kFactor = 64.0F;  // keeps the factors of usual weights in the normal range of f16
  struct Piece {};                         // the head holds it all
  struct Head {
    uint4 codes;
    std::uint32_t factors;
  };
  struct Scales {
    std::uint32_t index[2];
    std::uint32_t signs[2];
    __half2 d[2];
  };
  template <typename Bytes>
  __device__ static Piece piece(const LaneTile<Bytes>&, int) {
    return {};
  }
  template <typename Bytes>
  __device__ static Head head(const LaneTile<Bytes>& tile) {
    return {load_at<uint4>(tile.wide), load_at<std::uint32_t>(tile.four + 512)};
  }
  __device__ static Scales scales(const Head& head, float) {
    const uint4& v = head.codes;
    const __half2 d = as_half2(head.factors);
    return {{v.x, v.z}, {v.y, v.w}, {__low2half2(d), __high2half2(d)}};
  }
  template <typename Octets>
  __device__ static StepPair expand(const Piece&, const Scales& s, int u, const Octets& table) {
    StepPair out;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint4 octet = table[__byte_perm(s.index[r], 0, 0x4440 + u)];
      const std::uint32_t magnitudes[4] = {octet.x, octet.y, octet.z, octet.w};
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const std::uint32_t sign = s.signs[r] << (15 - (4 * u + pair)) & 0x80008000u;
        out.a[pair / 2][r + 2 * (pair % 2)] = as_bits(__hmul2(as_half2(magnitudes[pair] ^ sign), s.d[r]));
      }
    }
    return out;
  }
};

/// The lane's pieces of a tile; in one load where they lie side by side.
template <typename F, typename Bytes>
__device__ __forceinline__ void load_pieces(const LaneTile<Bytes>& tile, typename F::Piece (&to)[4]) {
  if constexpr (sizeof(typename F::Piece) == 4) {
    const uint4 all = load_at<uint4>(tile.wide);
    to[0] = all.x, to[1] = all.y, to[2] = all.z, to[3] = all.w;
  } else if constexpr (sizeof(typename F::Piece) == 8) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const uint4 two = load_at<uint4>(tile.wide + pair * 512);
      to[2 * pair] = make_uint2(two.x, two.y), to[2 * pair + 1] = make_uint2(two.z, two.w);
    }
  } else {
#pragma unroll
    for (int u = 0; u < 4; ++u) to[u] = F::piece(tile, u);
  }
}

/// Calls f(Fragment{}) for the format; false when there is none for it.
template <typename Function>
inline bool with_fragment(DType type, Function f) {
  switch (type) {
    case DType::kF16: return f(FragmentF16{}), true;
    case DType::kBF16: return f(FragmentBF16{}), true;
    case DType::kQ8_0: return f(FragmentQ8_0{}), true;
    case DType::kMXFP4: return f(FragmentMXFP4{}), true;
    case DType::kQ4_K: return f(FragmentQ4_K{}), true;
    case DType::kQ2_K: return f(FragmentQ2_K{}), true;
    case DType::kIQ2_XXS: return f(FragmentIQ2_XXS{}), true;
    case DType::kF32:
    case DType::kI32: return false;
  }
  return false;
}

/// The codebook to shared memory, by the whole block.
template <int kEntries>
__device__ inline void load_octets(uint4 (&shared)[kEntries], const Matrix& m) {
  if constexpr (kEntries > 1) {
    for (int e = threadIdx.x; e < 256; e += blockDim.x) {
      const uint4 octet = m.iq2->octets[e];
#pragma unroll
      for (int c = 0; c < kOctetCopies; ++c) shared[e * kOctetCopies + (c + e) % kOctetCopies] = octet;
    }
    __syncthreads();
  }
}
/// The lane's view of it.
template <int kEntries>
__device__ inline SharedOctets octets_of(const uint4 (&shared)[kEntries]) {
  return {
      static_cast<std::uint32_t>(__cvta_generic_to_shared(shared + (kEntries > 1 ? threadIdx.x % kOctetCopies : 0)))};
}

/// The same in device code.
template <typename Function>
__device__ inline void with_fragment_on_device(DType type, Function f) {
  switch (type) {
    case DType::kF16: return f(FragmentF16{});
    case DType::kBF16: return f(FragmentBF16{});
    case DType::kQ8_0: return f(FragmentQ8_0{});
    case DType::kMXFP4: return f(FragmentMXFP4{});
    case DType::kQ4_K: return f(FragmentQ4_K{});
    case DType::kQ2_K: return f(FragmentQ2_K{});
    case DType::kIQ2_XXS: return f(FragmentIQ2_XXS{});
    default: return;
  }
}

/// Four 8 x 8 matrices of halves from shared memory, lane l giving the place of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_at(row)));
}
__device__ inline void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_at(row)));
}

/// d += a * b, one step: 16 rows by 8 columns.
__device__ inline void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace ds4::cuda
