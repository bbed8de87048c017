// The inner loops of the searching encoders, compiled once for every instruction set (block_search.inl) and chosen at
// start. All give the same bits: vectors run over sub-blocks, octets or points of the codebook, never over the terms of
// a sum, so every sum has one order whatever the width.
#pragma once

#include <cstdint>

#include "quant/encode_block.h"

namespace ds4 {

// ---- K formats: sub-blocks of codes with a scale and a minimum each
// --------------------------------------------------

/// What goes into a block: x = d * scale[j] * code - dmin * minimum[j] for sub-block j.
struct KChoice {
  float d = 0;  // in units of the block, as rounded to f16
  float dmin = 0;
  std::uint8_t scale[16];
  std::uint8_t minimum[16];
  std::uint8_t code[kSuperBlock];  // in the order of the values
};

// ---- IQ2_XXS: octets that are points of a codebook
// -------------------------------------------------------------------
//
// With magnitudes b = |x|, the error of point g at scale u is  sum w (b - u g)^2 = sum w b^2 - 2 u a + u^2 q,  where
// a = sum w b g and q = sum w g^2. Signs are free but for their parity: an octet with an odd number of minus signs must
// flip one, at a cost of 4 u w b g, which is least where w b g is. That is a smaller a: the choice is exact.

inline constexpr int kGridPoints = 256;
inline constexpr int kOctets = 32;  // of a block
inline constexpr int kProbes = 8;   // scales at which candidates are looked for

/// a and q of every point.
struct GridFit {
  alignas(64) float a[kGridPoints];
  alignas(64) float q[kGridPoints];
};

/// a and q of the candidates of all octets.
struct GridCandidates {
  alignas(64) float a[kProbes][kOctets];
  alignas(64) float q[kProbes][kOctets];
};

/// The codebook as floats: at[i][point] is entry i of the point, in {8, 25, 43}.
struct GridValues {
  alignas(64) float at[8][kGridPoints];
};
extern const GridValues kGridValues;

struct BlockSearch {
  const char* name;
  void (*q2_k)(const ScaledBlock& block, KChoice& choice);
  void (*q4_k)(const ScaledBlock& block, KChoice& choice);
  /// `weighted` is w * |x|; `odd` says that one sign must flip.
  void (*grid_fit)(const float* weighted, const float* weights, bool odd, GridFit& out);
  /// For each of `count` scales the point with the least u q - 2 a (to within 2^-14 of it).
  void (*grid_best)(const GridFit& fit, const float* scales, int count, std::int32_t* points);
  /// For each octet, at its scale u, the least u (u q - 2 a) of its candidates.
  void (*grid_errors)(const GridCandidates& candidates, const float* scales, float* errors);
};

/// The fastest for this machine.
const BlockSearch& block_search();

/// The number of those that this machine can run, best first; for tests.
int block_searches();
const BlockSearch& block_search(int index);

}  // namespace ds4
