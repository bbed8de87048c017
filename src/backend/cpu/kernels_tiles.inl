// Kernel bodies for quantised weights: rows of a file to tiles, tiles to panels. kernels.h says how a tile lies in
// memory. Included by table_*.cpp after the primitives of one instruction set.
namespace ds4::cpu {
namespace {

inline uint16_t load_u16(const uint8_t* p) {
  uint16_t x;
  memcpy(&x, p, 2);
  return x;
}
inline uint32_t load_u32(const uint8_t* p) {
  uint32_t x;
  memcpy(&x, p, 4);
  return x;
}

constexpr int kPanelBytes = kPanelDepth * kTileOutputs;
constexpr int kQuadBytes = 4 * kTileOutputs;

// ---- packing -------------------------------------------------------------------------------------------------------

/// Each format writes one output: its quants, a byte each, to q, and its scales to column `o` of the side bytes.
struct Q8_0 {
  static constexpr PanelFormat kFormat = kPanelQ8_0;
  static void row(const PackArgs& a, const uint8_t* w, uint8_t* q, int o) {
    for (int g = 0; g < a.depth / 32; ++g, w += 34) {
      memcpy(a.side + (g * kTileOutputs + o) * 2, w, 2);
      for (int i = 0; i < 32; ++i) q[32 * g + i] = static_cast<uint8_t>(w[2 + i] + kSignedBias);
    }
  }
  static void combine(const PackArgs& a, const uint8_t* quads) { memcpy(a.main, quads, kPanelBytes); }
};

/// Two quads of a group in one: k in the low nibbles, k + 4 in the high ones.
inline void combine_nibbles(uint8_t* main, const uint8_t* quads) {
  for (int g = 0; g < 8; ++g)
    for (int i = 0; i < 4 * kQuadBytes; ++i)
      main[g * 4 * kQuadBytes + i] =
          static_cast<uint8_t>(quads[g * 8 * kQuadBytes + i] | quads[(g * 8 + 4) * kQuadBytes + i] << 4);
}

struct MxFp4 {
  static constexpr PanelFormat kFormat = kPanelMXFP4;
  static void row(const PackArgs& a, const uint8_t* w, uint8_t* q, int o) {
    for (int g = 0; g < a.depth / 32; ++g, w += 17) {
      a.side[g * kTileOutputs + o] = w[0];
      for (int i = 0; i < 16; ++i) {
        q[32 * g + i] = w[1 + i] & 15;
        q[32 * g + 16 + i] = static_cast<uint8_t>(w[1 + i] >> 4);
      }
    }
  }
  static void combine(const PackArgs& a, const uint8_t* quads) { combine_nibbles(a.main, quads); }
};

struct Iq2Xxs {
  static constexpr PanelFormat kFormat = kPanelIQ2_XXS;
  /// The codes go to their place at once; q gets the signs, 0x00 or 0xff.
  static void row(const PackArgs& a, const uint8_t* w, uint8_t* q, int o) {
    memcpy(a.side + 64 + 2 * o, w, 2);
    for (int g = 0; g < 8; ++g) {
      const uint8_t* packed = w + 2 + 8 * g;
      const uint32_t word = load_u32(packed + 4);
      memcpy(a.main + g * 2 * kQuadBytes + 4 * o, packed, 4);
      for (int octet = 0; octet < 4; ++octet)
        memcpy(q + 32 * g + 8 * octet, &a.iq2.signs[(word >> (7 * octet)) & 127], 8);
      uint8_t& nibbles = a.side[g / 2 * kTileOutputs + o];
      nibbles = static_cast<uint8_t>(g % 2 == 0 ? word >> 28 : nibbles | (word >> 28) << 4);
    }
  }
  static void combine(const PackArgs& a, const uint8_t* quads) {
    for (int g = 0; g < 8; ++g) {
      const uint8_t* group = quads + g * 8 * kQuadBytes;
      uint8_t* signs = a.main + (2 * g + 1) * kQuadBytes;
      for (int i = 0; i < kQuadBytes; ++i) {
        int bits = 0;
        for (int k = 0; k < 8; ++k) bits |= group[k * kQuadBytes + i] & 1 << k;
        signs[i] = static_cast<uint8_t>(bits);
      }
    }
  }
};

struct Q4K {
  static constexpr PanelFormat kFormat = kPanelQ4_K;
  static void row(const PackArgs& a, const uint8_t* w, uint8_t* q, int o) {
    memcpy(a.side + 256 + 2 * o, w, 2);
    memcpy(a.side + 288 + 2 * o, w + 2, 2);
    const uint8_t* s = w + 4;
    for (int j = 0; j < 8; ++j) {
      // The first four sub-blocks have their 6 bits in one byte; the others borrow the upper two bits of those bytes.
      const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
      const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
      a.side[j * kTileOutputs + o] = static_cast<uint8_t>(scale);
      a.side[128 + j * kTileOutputs + o] = static_cast<uint8_t>(minimum);
    }
    for (int pair = 0; pair < 4; ++pair) {
      const uint8_t* quants = w + 16 + 32 * pair;
      for (int i = 0; i < 32; ++i) q[64 * pair + i] = quants[i] & 15;
      for (int i = 0; i < 32; ++i) q[64 * pair + 32 + i] = static_cast<uint8_t>(quants[i] >> 4);
    }
  }
  static void combine(const PackArgs& a, const uint8_t* quads) { combine_nibbles(a.main, quads); }
};

struct Q2K {
  static constexpr PanelFormat kFormat = kPanelQ2_K;
  static void row(const PackArgs& a, const uint8_t* w, uint8_t* q, int o) {
    memcpy(a.side + 256 + 2 * o, w + 80, 2);
    memcpy(a.side + 288 + 2 * o, w + 82, 2);
    for (int j = 0; j < 16; ++j) a.side[j * kTileOutputs + o] = w[j];
    for (int half = 0; half < 2; ++half) {
      const uint8_t* quants = w + 16 + 32 * half;
      for (int shift = 0; shift < 4; ++shift)
        for (int i = 0; i < 32; ++i)
          q[128 * half + 32 * shift + i] = static_cast<uint8_t>((quants[i] >> (2 * shift)) & 3);
    }
  }
  static void combine(const PackArgs& a, const uint8_t* quads) {
    for (int g = 0; g < 16; ++g) {
      const uint8_t* group = quads + g * 4 * kQuadBytes;
      for (int i = 0; i < kQuadBytes; ++i)
        a.main[g * kQuadBytes + i] = static_cast<uint8_t>(
            group[i] | group[kQuadBytes + i] << 2 | group[2 * kQuadBytes + i] << 4 | group[3 * kQuadBytes + i] << 6);
    }
  }
};

template <typename Format>
void pack(const PackArgs& a) {
  alignas(64) uint8_t rows[kTileOutputs][kPanelDepth];
  alignas(64) uint8_t quads[kPanelBytes];
  memset(a.main, 0, static_cast<size_t>(kTileBytes[Format::kFormat].main));
  memset(a.side, 0, static_cast<size_t>(kTileBytes[Format::kFormat].side));
  if (a.outputs < kTileOutputs || a.depth < kPanelDepth) memset(rows, 0, sizeof rows);
  for (int o = 0; o < a.outputs; ++o) Format::row(a, a.weights + o * a.stride, rows[o], o);
  transpose_panel(rows[0], kPanelDepth / 4, quads);
  Format::combine(a, quads);
}

// ---- unpacking -----------------------------------------------------------------------------------------------------

inline void widen_halves(const uint8_t* halves, float* y) {
  for (int o = 0; o < kTileOutputs; o += kLanes) store(y + o, load_f16(reinterpret_cast<const uint16_t*>(halves) + o));
}

// What a loop reads and writes is local in the functions below, so that compilers see that nothing overlaps and use
// vectors.

/// y[o] = factor[o] * (bits of byte o from `shift` on)
inline void scale_bits(const uint8_t* bytes, int shift, int mask, const float* factor, float* y) {
  uint8_t codes[kTileOutputs];
  float values[kTileOutputs];
  memcpy(codes, bytes, sizeof codes);
  for (int o = 0; o < kTileOutputs; ++o) values[o] = static_cast<float>(codes[o] >> shift & mask);
  for (int o = 0; o < kTileOutputs; o += kLanes) store(y + o, mul(load(factor + o), load(values + o)));
}

/// Half of 2^(e - 127) for e8m0 codes: half, because the values of MXFP4 are doubled.
inline void half_powers(const uint8_t* bytes, float* y) {
  uint8_t codes[kTileOutputs];
  uint32_t bits[kTileOutputs];
  memcpy(codes, bytes, sizeof codes);
  for (int o = 0; o < kTileOutputs; ++o) {
    const uint32_t e = codes[o];
    const uint32_t normal = e == 255 ? 0x7fc00000U : (e - 1) << 23;
    bits[o] = e < 2 ? 0x00200000U << e : normal;
  }
  memcpy(y, bits, sizeof bits);
}

template <int bias>
void unpack_q8_0(const UnpackArgs& a, Panel* panel) {
  panel->q = a.main;
  if (bias != kSignedBias) {
    static_assert((kSignedBias - bias) % 128 == 0);
    panel->q = panel->room[0][0];
    flip_signs(a.main, panel->room[0][0], kPanelBytes);
  }
  for (int g = 0; g < 8; ++g) widen_halves(a.side + g * 32, panel->scale[g]);
}

template <int bias>
void unpack_mxfp4(const UnpackArgs& a, Panel* panel) {
  constexpr auto v = [](int value) { return static_cast<uint8_t>(value + bias); };
  alignas(16) static constexpr uint8_t values[16] = {v(0), v(1),  v(2),  v(3),  v(4),  v(6),  v(8),  v(12),
                                                     v(0), v(-1), v(-2), v(-3), v(-4), v(-6), v(-8), v(-12)};
  panel->q = panel->room[0][0];
  for (int g = 0; g < 8; ++g) {
    for (int k = 0; k < 4; ++k)
      look_up_nibbles(a.main + (4 * g + k) * kQuadBytes, values, panel->room[8 * g + k][0],
                      panel->room[8 * g + k + 4][0]);
    half_powers(a.side + g * kTileOutputs, panel->scale[g]);
  }
}

template <int bias>
void unpack_iq2_xxs(const UnpackArgs& a, Panel* panel) {
  panel->q = panel->room[0][0];
  expand_iq2_xxs<bias>(a.main, a.iq2, panel->room[0][0]);
  float d[kTileOutputs];
  widen_halves(a.side + 64, d);
  for (int g = 0; g < 8; ++g) {
    uint8_t codes[kTileOutputs];
    float small[kTileOutputs];
    memcpy(codes, a.side + g / 2 * kTileOutputs, sizeof codes);
    for (int o = 0; o < kTileOutputs; ++o) small[o] = (0.5F + static_cast<float>(codes[o] >> g % 2 * 4 & 15)) * 0.25F;
    for (int o = 0; o < kTileOutputs; o += kLanes) store(panel->scale[g] + o, mul(load(d + o), load(small + o)));
  }
}

void unpack_q4_k(const UnpackArgs& a, Panel* panel) {
  alignas(16) static constexpr uint8_t values[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  panel->q = panel->room[0][0];
  float d[kTileOutputs];
  float dmin[kTileOutputs];
  widen_halves(a.side + 256, d);
  widen_halves(a.side + 288, dmin);
  for (int g = 0; g < 8; ++g) {
    for (int k = 0; k < 4; ++k)
      look_up_nibbles(a.main + (4 * g + k) * kQuadBytes, values, panel->room[8 * g + k][0],
                      panel->room[8 * g + k + 4][0]);
    scale_bits(a.side + g * kTileOutputs, 0, 255, d, panel->scale[g]);
    scale_bits(a.side + 128 + g * kTileOutputs, 0, 255, dmin, panel->min[g]);
  }
}

void unpack_q2_k(const UnpackArgs& a, Panel* panel) {
  panel->q = panel->room[0][0];
  float dmin[kTileOutputs];
  widen_halves(a.side + 256, panel->scale[0]);
  widen_halves(a.side + 288, dmin);
  for (int g = 0; g < 16; ++g) {
    const uint8_t* small = a.side + g * kTileOutputs;
    expand_q2_k(a.main + g * kQuadBytes, small, panel->room[4 * g][0]);
    scale_bits(small, 4, 15, dmin, panel->min[g]);
  }
}

}  // namespace
}  // namespace ds4::cpu
