// Kernel bodies of the int8 path: activations to int8, weights of every quantised format to panels, panels times
// activations. Included by table_*.cpp after the primitives of one instruction set. Integer sums are exact, so the
// instruction sets differ only in how floats are rounded: the order of the float sums is the same in all of them.
namespace ds4::cpu {
namespace {

// ---- activations ---------------------------------------------------------------------------------------------------

/// One group of 32, `have` of them present.
inline void quantise_group(const float* x, int have, QuantBlock* block, int group) {
  float padded[32];
  if (have < 32) {
    memset(padded, 0, sizeof padded);
    memcpy(padded, x, static_cast<size_t>(have) * sizeof(float));
    x = padded;
  }
  F32 top = zero();
  F32 check = zero();  // 0, or NaN as soon as a value is not finite
  for (int i = 0; i < 32; i += kLanes) {
    const F32 v = load(x + i);
    top = larger(top, magnitude(v));
    check = madd(v, zero(), check);
  }
  const float amax = largest(top);
  const float inverse = amax > 1e-30F ? 127.0F / amax : 0.0F;
  const float scale = (inverse > 0.0F ? amax / 127.0F : 0.0F) + sum(check);
  int32_t sums[2] = {0, 0};
  for (int i = 0; i < 32; i += kLanes)
    sums[i / 16] += store_rounded(block->q + 32 * group + i, mul(load(x + i), splat(inverse)));
  block->scale[group] = scale;
  block->sum[group] = sums[0] + sums[1];
  block->group_sum[2 * group] = scale * static_cast<float>(sums[0]);
  block->group_sum[2 * group + 1] = scale * static_cast<float>(sums[1]);
}

void quantise(const float* x, int64_t count, QuantBlock* blocks, int64_t stride) {
  for (int64_t start = 0; start < count; start += kPanelDepth, blocks += stride) {
    for (int group = 0; group < kPanelDepth / 32; ++group) {
      const int64_t rest = count - start - 32 * group;
      if (rest <= 0) break;  // a dot product never reads beyond the depth of the row
      quantise_group(x + start + 32 * group, rest < 32 ? static_cast<int>(rest) : 32, blocks, group);
    }
  }
}

// ---- weights -------------------------------------------------------------------------------------------------------

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

/// Each format decodes one output: 256 values to q, its scales and minima to column `o` of the panel.
struct Q8_0 {
  static constexpr bool kSigned = true;
  static constexpr bool kMinima = false;
  static constexpr int kGroup = 32;
  static void decode(const UnpackArgs& a, const uint8_t* w, uint8_t* q, Panel* p, int o) {
    for (int g = 0; g < a.depth / 32; ++g, w += 34) {
      p->scale[g][o] = half_to_float(load_u16(w));
      for (int i = 0; i < 32; ++i) q[32 * g + i] = static_cast<uint8_t>(w[2 + i] + kSignedBias);
    }
  }
};

struct MxFp4 {
  static constexpr bool kSigned = true;
  static constexpr bool kMinima = false;
  static constexpr int kGroup = 32;
  /// Half of 2^(e - 127), because the values below are doubled.
  static float scale(uint8_t e) {
    const uint32_t bits = e == 255 ? 0x7fc00000U : e < 2 ? 0x00200000U << e : static_cast<uint32_t>(e - 1) << 23;
    float x;
    memcpy(&x, &bits, 4);
    return x;
  }
  static void decode(const UnpackArgs& a, const uint8_t* w, uint8_t* q, Panel* p, int o) {
    static const int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    for (int g = 0; g < a.depth / 32; ++g, w += 17) {
      p->scale[g][o] = scale(w[0]);
      for (int i = 0; i < 16; ++i) {
        q[32 * g + i] = static_cast<uint8_t>(values[w[1 + i] & 15] + kSignedBias);
        q[32 * g + 16 + i] = static_cast<uint8_t>(values[w[1 + i] >> 4] + kSignedBias);
      }
    }
  }
};

struct Iq2Xxs {
  static constexpr bool kSigned = true;
  static constexpr bool kMinima = false;
  static constexpr int kGroup = 32;
  static void decode(const UnpackArgs& a, const uint8_t* w, uint8_t* q, Panel* p, int o) {
    const float d = half_to_float(load_u16(w));
    for (int g = 0; g < 8; ++g) {
      const uint8_t* packed = w + 2 + 8 * g;
      const uint32_t word = load_u32(packed + 4);
      p->scale[g][o] = d * (0.5F + static_cast<float>(word >> 28)) * 0.25F;
      for (int octet = 0; octet < 4; ++octet) {
        // Negating eight bytes at once: no entry is zero, so (m ^ -1) + 1 never carries into the next byte.
        const uint64_t minus = a.iq2.signs[(word >> (7 * octet)) & 127];
        uint64_t value = a.iq2.grid[packed[octet]] ^ minus;
        value += minus & 0x0101010101010101U;
        if (kSignedBias != 0) value ^= 0x8080808080808080U;
        memcpy(q + 32 * g + 8 * octet, &value, 8);
      }
    }
  }
};

struct Q4K {
  static constexpr bool kSigned = false;
  static constexpr bool kMinima = true;
  static constexpr int kGroup = 32;
  static void decode(const UnpackArgs&, const uint8_t* w, uint8_t* q, Panel* p, int o) {
    const float d = half_to_float(load_u16(w));
    const float dmin = half_to_float(load_u16(w + 2));
    const uint8_t* s = w + 4;
    for (int j = 0; j < 8; ++j) {
      // The first four sub-blocks have their 6 bits in one byte; the others borrow the upper two bits of those bytes.
      const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
      const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
      p->scale[j][o] = d * static_cast<float>(scale);
      p->min[j][o] = dmin * static_cast<float>(minimum);
    }
    for (int pair = 0; pair < 4; ++pair) {
      const uint8_t* quants = w + 16 + 32 * pair;
      for (int i = 0; i < 32; ++i) q[64 * pair + i] = quants[i] & 15;
      for (int i = 0; i < 32; ++i) q[64 * pair + 32 + i] = static_cast<uint8_t>(quants[i] >> 4);
    }
  }
};

struct Q2K {
  static constexpr bool kSigned = false;
  static constexpr bool kMinima = true;
  static constexpr int kGroup = 16;
  static void decode(const UnpackArgs&, const uint8_t* w, uint8_t* q, Panel* p, int o) {
    const float d = half_to_float(load_u16(w + 80));
    const float dmin = half_to_float(load_u16(w + 82));
    for (int j = 0; j < 16; ++j) {
      p->scale[j][o] = d * static_cast<float>(w[j] & 15);
      p->min[j][o] = dmin * static_cast<float>(w[j] >> 4);
    }
    for (int half = 0; half < 2; ++half) {
      const uint8_t* quants = w + 16 + 32 * half;
      for (int shift = 0; shift < 4; ++shift)
        for (int i = 0; i < 32; ++i)
          q[128 * half + 32 * shift + i] = static_cast<uint8_t>((quants[i] >> (2 * shift)) & 3);
    }
  }
};

template <typename Format>
void unpack(const UnpackArgs& a, Panel* panel) {
  alignas(64) uint8_t rows[kTileOutputs][kPanelDepth];
  for (int o = 0; o < a.outputs; ++o) Format::decode(a, a.weights + o * a.stride, rows[o], panel, o);
  for (int o = a.outputs; o < kTileOutputs; ++o) {
    memset(rows[o], 0, kPanelDepth);
    for (int g = 0; g < 16; ++g) panel->scale[g][o] = panel->min[g][o] = 0.0F;
  }
  transpose_panel(rows[0], a.depth / 4, panel->q[0][0]);
}

// ---- panel times activations ---------------------------------------------------------------------------------------

/// One group of kGroup inputs, R rows, one vector of outputs.
template <typename Format, int R>
inline void group_dot(const Panel& panel, const QuantBlock* const* x, int group, int lane, F32 (&acc)[R]) {
  constexpr int fours = Format::kGroup / 4;
  constexpr int shift = 32 / Format::kGroup;  // groups in one activation group
  const int first = group * fours;
  I32 dot[R];
  for (int r = 0; r < R; ++r)
    dot[r] = splat_int(Format::kSigned && kSignedBias != 0 ? -kSignedBias * x[r]->sum[group / shift] : 0);
  for (int k = 0; k < fours; ++k) {
    const I32 w = load_panel(panel.q[first + k][lane]);
    for (int r = 0; r < R; ++r) {
      const I32 four = splat_four(x[r]->q + 4 * (first + k));
      dot[r] = Format::kSigned ? dot_signed(dot[r], w, four) : dot_unsigned(dot[r], w, four);
    }
  }
  const F32 scale = load(panel.scale[group] + lane);
  for (int r = 0; r < R; ++r)
    acc[r] = madd(mul(to_float(dot[r]), splat(x[r]->scale[group / shift])), scale, acc[r]);
  if (Format::kMinima) {
    const F32 minimum = load(panel.min[group] + lane);
    for (int r = 0; r < R; ++r) {
      const float* sums = x[r]->group_sum;
      const float s = Format::kGroup == 16 ? sums[group] : sums[2 * group] + sums[2 * group + 1];
      acc[r] = nmadd(minimum, splat(s), acc[r]);
    }
  }
}

template <typename Format, int R>
inline void panel_rows(const PanelDotArgs& a, int row) {
  const QuantBlock* x[R];
  for (int r = 0; r < R; ++r) x[r] = a.x + a.index[row + r];
  for (int lane = 0; lane < kTileOutputs; lane += kLanes) {
    F32 acc[R];
    for (int r = 0; r < R; ++r) acc[r] = load(a.out + (row + r) * kTileOutputs + lane);
    for (int group = 0; group < a.depth / Format::kGroup; ++group) group_dot<Format, R>(*a.panel, x, group, lane, acc);
    for (int r = 0; r < R; ++r) store(a.out + (row + r) * kTileOutputs + lane, acc[r]);
  }
}

template <typename Format>
void panel_dot(const PanelDotArgs& a) {
  int row = 0;
  for (; row + kPanelRows <= a.count; row += kPanelRows) panel_rows<Format, kPanelRows>(a, row);
  for (; row < a.count; ++row) panel_rows<Format, 1>(a, row);
}

}  // namespace
}  // namespace ds4::cpu
