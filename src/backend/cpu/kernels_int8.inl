// Kernel bodies of the int8 path: activations to int8, panels times activations. Included by table_*.cpp after the
// primitives of one instruction set. Integer sums are exact, so the instruction sets differ only in how floats are
// rounded: the order of the float sums is the same in all of them, and a matrix unit gives the same bits.
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
  uint32_t sums[2] = {0, 0};  // of what is not finite they say nothing, and may go round
  for (int i = 0; i < 32; i += kLanes)
    sums[i / 16] += static_cast<uint32_t>(store_rounded(block->q + 32 * group + i, mul(load(x + i), splat(inverse))));
  block->scale[group] = scale;
  block->offset[group] = static_cast<int32_t>(0U - static_cast<uint32_t>(kSignedBias) * (sums[0] + sums[1]));
  block->group_sum[2 * group] = scale * static_cast<float>(static_cast<int32_t>(sums[0]));
  block->group_sum[2 * group + 1] = scale * static_cast<float>(static_cast<int32_t>(sums[1]));
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

// ---- panel times activations ---------------------------------------------------------------------------------------

/// How the integer sums of a format become floats. Signed: a scale per group. Q4_K: minima besides. Q2_K: the small
/// scales are in the quants, so that a block of 256 needs the scale of its output once.
enum class Scaling { kSigned, kMinima, kOnce };

template <PanelFormat format>
constexpr Scaling scaling_of() {
  return format == kPanelQ2_K ? Scaling::kOnce : format == kPanelQ4_K ? Scaling::kMinima : Scaling::kSigned;
}

/// The sum of one group of one row, scaled: what both the vector kernels and the matrix unit do with integer sums.
template <Scaling scaling>
inline F32 add_group(F32 acc, I32 dot, const QuantBlock& x, int group, F32 scale) {
  if (scaling == Scaling::kOnce) return madd(to_float(dot), splat(x.scale[group]), acc);
  return madd(mul(to_float(dot), splat(x.scale[group])), scale, acc);
}

/// What is left when all groups are in: the minima. All rows and panels take a step together, so that they share what
/// is loaded and none waits for the sum of its own step before.
template <Scaling scaling, int R, int P>
inline void subtract_minima(F32 (&part)[P][R], const QuantBlock* const (&x)[R], const Panel* panels, int lane,
                            int groups) {
  if (scaling == Scaling::kSigned) return;
  const int steps = scaling == Scaling::kOnce ? 2 * groups : groups;
  for (int g = 0; g < steps; ++g) {
    F32 sums[R];
    for (int r = 0; r < R; ++r)
      sums[r] =
          splat(scaling == Scaling::kOnce ? x[r]->group_sum[g] : x[r]->group_sum[2 * g] + x[r]->group_sum[2 * g + 1]);
    for (int p = 0; p < P; ++p) {
      const F32 minimum = load(panels[p].min[g] + lane);
      for (int r = 0; r < R; ++r) part[p][r] = nmadd(minimum, sums[r], part[p][r]);
    }
  }
}

/// R rows, P panels, one vector of outputs of each.
template <Scaling scaling, int R, int P>
inline void panel_rows(const PanelDotArgs& a, int first_panel, int row) {
  const Panel* panels = a.panels + first_panel;
  float* results = a.out + first_panel * a.panel_stride + row * kTileOutputs;
  const QuantBlock* x[R];
  for (int r = 0; r < R; ++r) x[r] = a.x + (row + r) * a.step;
  const int groups = a.depth / 32;
  for (int lane = 0; lane < kTileOutputs; lane += kLanes) {
    F32 part[P][R];
    for (int p = 0; p < P; ++p)
      for (int r = 0; r < R; ++r)
        part[p][r] = scaling == Scaling::kOnce ? zero() : load(results + p * a.panel_stride + r * kTileOutputs + lane);
    for (int g = 0; g < groups; ++g) {
      I32 dot[P][R];
      for (int r = 0; r < R; ++r) {
        const I32 start = splat_int(scaling == Scaling::kSigned && kSignedBias != 0 ? x[r]->offset[g] : 0);
        for (int p = 0; p < P; ++p) dot[p][r] = start;
      }
      for (int k = 0; k < 8; ++k) {
        I32 w[P];
        for (int p = 0; p < P; ++p) w[p] = load_panel(panels[p].q + (8 * g + k) * 4 * kTileOutputs + 4 * lane);
        for (int r = 0; r < R; ++r) {
          const I32 four = splat_four(x[r]->q + 4 * (8 * g + k));
          for (int p = 0; p < P; ++p)
            dot[p][r] =
                scaling == Scaling::kSigned ? dot_signed(dot[p][r], w[p], four) : dot_unsigned(dot[p][r], w[p], four);
        }
      }
      for (int p = 0; p < P; ++p) {
        const F32 scale = scaling == Scaling::kOnce ? zero() : load(panels[p].scale[g] + lane);
        for (int r = 0; r < R; ++r) part[p][r] = add_group<scaling>(part[p][r], dot[p][r], *x[r], g, scale);
      }
    }
    if (scaling == Scaling::kOnce)
      for (int p = 0; p < P; ++p) {
        const F32 scale = load(panels[p].scale[0] + lane);
        for (int r = 0; r < R; ++r)
          part[p][r] = madd(part[p][r], scale, load(results + p * a.panel_stride + r * kTileOutputs + lane));
      }
    subtract_minima<scaling, R, P>(part, x, panels, lane, groups);
    for (int p = 0; p < P; ++p)
      for (int r = 0; r < R; ++r) store(results + p * a.panel_stride + r * kTileOutputs + lane, part[p][r]);
  }
}

/// R rows, all panels: kPanelPair at once, which share the loading of the activations.
template <Scaling scaling, int R>
inline void all_panels(const PanelDotArgs& a, int row) {
  int p = 0;
  for (; p + kPanelPair <= a.panel_count; p += kPanelPair) panel_rows<scaling, R, kPanelPair>(a, p, row);
  for (; p < a.panel_count; ++p) panel_rows<scaling, R, 1>(a, p, row);
}

template <Scaling scaling, int R>
inline void some_rows(const PanelDotArgs& a, int row, int rows) {
  if (rows == R) all_panels<scaling, R>(a, row);
  else if constexpr (R > 1) some_rows<scaling, R - 1>(a, row, rows);
}

template <PanelFormat format>
void panel_dot(const PanelDotArgs& a) {
  for (int row = 0; row < a.count;) {
    // The last rows in two halves rather than one full step and a row or two.
    const int left = a.count - row;
    const int rows = left >= 2 * kPanelRows ? kPanelRows : left > kPanelRows ? (left + 1) / 2 : left;
    some_rows<scaling_of<format>(), kPanelRows>(a, row, rows);
    row += rows;
  }
}

}  // namespace
}  // namespace ds4::cpu
