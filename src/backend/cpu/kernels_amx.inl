// Panels times activations on the matrix unit. A tile register takes 16 rows of activations by 32 inputs, or 32 inputs of
// 16 outputs as a panel holds them; their product is exact integers, which are then scaled like those of the vector
// kernels, in the same order: not one bit differs. Included by table_amx.cpp after kernels.inl.
namespace ds4::cpu {
namespace {

constexpr int kTileRows = 16;

/// What the unit is told about its eight registers: 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 32, 32, 64, 64};
  uint8_t rows[16] = {};
  explicit TileConfig(int count) {
    for (int i = 0; i < 6; ++i) rows[i] = static_cast<uint8_t>(count);
    rows[6] = rows[7] = 8;
  }
};

using TileSums = int32_t[kPanelDepth / 32][kTileRows][kTileOutputs];

/// The integer sums of all groups for the rows that the registers are set to.
inline void multiply_groups(const PanelDotArgs& a, int row, TileSums& sums) {
  const auto* x = reinterpret_cast<const char*>((a.x + row * a.step)->q);
  const auto* w = reinterpret_cast<const char*>(a.panel->q);
  const auto x_stride = static_cast<size_t>(a.step) * sizeof(QuantBlock);
  constexpr size_t kLine = 64;
  // Two groups at a time, in registers of their own: nothing waits for a sum to leave.
  for (int g = 0; g < a.depth / 32; g += 2) {
    _tile_zero(0);
    _tile_loadd(4, x + 32 * g, x_stride);
    _tile_loadd(6, w + 512 * g, kLine);
    _tile_dpbssd(0, 4, 6);
    _tile_stored(0, sums[g], kLine);
    if (g + 1 == a.depth / 32) break;
    _tile_zero(1);
    _tile_loadd(5, x + 32 * g + 32, x_stride);
    _tile_loadd(7, w + 512 * g + 512, kLine);
    _tile_dpbssd(1, 5, 7);
    _tile_stored(1, sums[g + 1], kLine);
  }
}

template <Scaling scaling>
inline void scale_sums(const PanelDotArgs& a, int first, int rows, const TileSums& sums) {
  const int groups = a.depth / 32;
  for (int r = 0; r < rows; ++r) {
    const QuantBlock& x = a.x[(first + r) * a.step];
    float* out = a.out + (first + r) * kTileOutputs;
    const F32 before = load(out);
    F32 part = scaling == Scaling::kOnce ? zero() : before;
    for (int g = 0; g < groups; ++g)
      part = add_group<scaling>(part, _mm512_load_si512(sums[g][r]), x, g,
                                scaling == Scaling::kOnce ? zero() : load(a.panel->scale[g]));
    store(out, finish_row<scaling>(before, part, x, *a.panel, 0, groups));
  }
}

template <PanelFormat format>
void wide_dot(const PanelDotArgs& a) {
  constexpr Scaling scaling = scaling_of<format>();
  alignas(64) TileSums sums[2];
  int loaded = 0;  // rows that the registers are set to
  int before = 0;  // rows of the tile whose sums wait to be scaled
  int number = 0;
  for (int row = 0; row < a.count; row += kTileRows, ++number) {
    const int rows = a.count - row < kTileRows ? a.count - row : kTileRows;
    if (rows != loaded) {
      const TileConfig config(rows);
      _tile_loadconfig(&config);
      loaded = rows;
    }
    multiply_groups(a, row, sums[number % 2]);
    // The unit works on these rows while the ones before are scaled.
    if (before != 0) scale_sums<scaling>(a, row - before, before, sums[(number + 1) % 2]);
    before = rows;
  }
  scale_sums<scaling>(a, a.count - before, before, sums[(number + 1) % 2]);
}

constexpr KernelTable make_amx_table() {
  KernelTable table = make_table("amx");
  table.wide_rows = 5;
  table.unpack_wide[kPanelQ8_0] = unpack_q8_0<0>;
  table.unpack_wide[kPanelMXFP4] = unpack_mxfp4<0>;
  table.unpack_wide[kPanelIQ2_XXS] = unpack_iq2_xxs<0>;
  table.unpack_wide[kPanelQ4_K] = unpack_q4_k;
  table.unpack_wide[kPanelQ2_K] = unpack_q2_k;
  table.wide_dot[kPanelQ8_0] = wide_dot<kPanelQ8_0>;
  table.wide_dot[kPanelMXFP4] = wide_dot<kPanelMXFP4>;
  table.wide_dot[kPanelIQ2_XXS] = wide_dot<kPanelIQ2_XXS>;
  table.wide_dot[kPanelQ4_K] = wide_dot<kPanelQ4_K>;
  table.wide_dot[kPanelQ2_K] = wide_dot<kPanelQ2_K>;
  return table;
}

}  // namespace
}  // namespace ds4::cpu
