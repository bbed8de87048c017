// Panels times activations on the matrix unit. A tile register takes 16 rows of activations by 32 inputs, or 32 inputs
// of 16 outputs as a panel holds them; their product is exact integers, which are then scaled like those of the vector
// kernels, in the same order: not one bit differs. Included by table_amx.cpp after kernels.inl.
//
// A product takes 17 cycles, loading a register 25 and storing one 25 (measured on Emerald Rapids): so two registers of
// rows meet two of weights, and the sums of one step are scaled while the unit works on the next. Its sums are stored
// only after that: loads that follow stores to addresses 4096 bytes apart would wait for them.
namespace ds4::cpu {
namespace {

constexpr int kTileRows = 16;

/// The eight registers: sums of rows a and b with weights 0 and 1 (0 to 3), rows a and b (4, 5), weights (6, 7).
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 32, 32, 64, 64};
  uint8_t rows[16] = {};
  TileConfig(int a, int b) {
    rows[0] = rows[1] = rows[4] = static_cast<uint8_t>(a);
    rows[2] = rows[3] = rows[5] = static_cast<uint8_t>(b == 0 ? a : b);
    rows[6] = rows[7] = 8;
  }
};

using TileSums = int32_t[2][2][kTileRows][kTileOutputs];  // [panel][a or b]

/// One group: a's rows, and b's if B is 2, times P panels.
template <int B, int P>
inline void multiply(const char* a, const char* b, size_t stride, const char* w, const char* second_w) {
  constexpr size_t kLine = 64;
  _tile_zero(0);
  _tile_loadd(4, a, stride);
  _tile_loadd(6, w, kLine);
  _tile_dpbssd(0, 4, 6);
  if constexpr (P == 2) {
    _tile_zero(1);
    _tile_loadd(7, second_w, kLine);
    _tile_dpbssd(1, 4, 7);
  }
  if constexpr (B == 2) {
    _tile_zero(2);
    _tile_loadd(5, b, stride);
    _tile_dpbssd(2, 5, 6);
    if constexpr (P == 2) {
      _tile_zero(3);
      _tile_dpbssd(3, 5, 7);
    }
  }
}

template <int B, int P>
inline void store_sums(TileSums& sums) {
  constexpr size_t kLine = 64;
  _tile_stored(0, sums[0][0], kLine);
  if constexpr (P == 2) _tile_stored(1, sums[1][0], kLine);
  if constexpr (B == 2) _tile_stored(2, sums[0][1], kLine);
  if constexpr (B == 2 && P == 2) _tile_stored(3, sums[1][1], kLine);
}

/// One group of up to 32 rows with up to two panels.
struct WideStep {
  int row = 0;
  int rows = 0;
  int panel = 0;
  int panels = 0;
  int group = 0;
};

/// Adds the sums of a step to the results.
inline void scale_step(const PanelDotArgs& a, const WideStep& s, const TileSums& sums) {
  for (int p = 0; p < s.panels; ++p) {
    const F32 scale = load(a.panels[s.panel + p].scale[s.group]);
    float* out = a.out + (s.panel + p) * a.panel_stride + s.row * kTileOutputs;
    const QuantBlock* x = a.x + s.row * a.step;
    const int32_t* sum = sums[p][0][0];  // b's rows follow a's
    for (int r = 0; r < s.rows; ++r, x += a.step)
      store(out + r * kTileOutputs,
            add_group<Scaling::kSigned>(load(out + r * kTileOutputs), _mm512_load_si512(sum + r * kTileOutputs), *x,
                                        s.group, scale));
  }
}

/// Lets the unit begin a step, scales the one before, stores the sums of the new one.
template <int B, int P>
inline void take_step(const PanelDotArgs& a, const WideStep& s, const WideStep& before, TileSums& sums) {
  const auto stride = static_cast<size_t>(a.step) * sizeof(QuantBlock);
  const auto* x = reinterpret_cast<const char*>(a.x[s.row * a.step].q) + 32 * s.group;
  const auto* w = reinterpret_cast<const char*>(a.panels[s.panel].q) + 512 * s.group;
  const auto* second = P == 2 ? reinterpret_cast<const char*>(a.panels[s.panel + 1].q) + 512 * s.group : w;
  multiply<B, P>(x, x + kTileRows * stride, stride, w, second);
  scale_step(a, before, sums);
  store_sums<B, P>(sums);
}

/// For signed weights.
void wide_dot(const PanelDotArgs& a) {
  alignas(64) TileSums sums;
  WideStep before;  // without panels: nothing to scale
  int loaded = 0;   // rows that the registers are set to
  for (int row = 0; row < a.count; row += 2 * kTileRows) {
    const int rows = a.count - row < 2 * kTileRows ? a.count - row : 2 * kTileRows;
    if (rows != loaded) {
      const TileConfig config(rows < kTileRows ? rows : kTileRows, rows > kTileRows ? rows - kTileRows : 0);
      _tile_loadconfig(&config);
      loaded = rows;
    }
    for (int panel = 0; panel < a.panel_count; panel += 2)
      for (int group = 0; group < a.depth / 32; ++group) {
        const WideStep step{row, rows, panel, panel + 1 < a.panel_count ? 2 : 1, group};
        if (rows > kTileRows && step.panels == 2) take_step<2, 2>(a, step, before, sums);
        else if (rows > kTileRows) take_step<2, 1>(a, step, before, sums);
        else if (step.panels == 2) take_step<1, 2>(a, step, before, sums);
        else take_step<1, 1>(a, step, before, sums);
        before = step;
      }
  }
  scale_step(a, before, sums);
}

constexpr KernelTable make_amx_table() {
  KernelTable table = make_table("amx");
  table.wide_rows = 24;  // below that the vector kernels are as fast
  table.unpack_wide[kPanelQ8_0] = unpack_q8_0<0>;
  table.unpack_wide[kPanelMXFP4] = unpack_mxfp4<0>;
  table.unpack_wide[kPanelIQ2_XXS] = unpack_iq2_xxs<0>;
  table.wide_dot[kPanelQ8_0] = table.wide_dot[kPanelMXFP4] = table.wide_dot[kPanelIQ2_XXS] = wide_dot;
  return table;
}

}  // namespace
}  // namespace ds4::cpu
