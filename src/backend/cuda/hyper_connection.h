// Manifold-constrained hyper-connections on the card (§2.2), in two kernels a sub-layer: hc_sums reads the streams
// (after mixing the sub-layer's output into them, if there is one), hc_mix does the rest, the norm included; or in one,
// hc_step, for very few rows. With few rows post and comb come from hc_controls: nobody needs them before the sub-layer
// ends, and the iterations take time.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backend/cuda/matrix.h"
#include "backend/cuda/products.h"

namespace ds4::cuda {

inline constexpr int kMaxStreams = 4;
inline constexpr int kHcSlices = 64;  // the columns of a stream, for sums of few rows
inline constexpr int kManyHcSlices = 8;
inline constexpr int kManyHcRows = 64;
/// Sums of one row and slice: controls, then the products of every two streams.
inline constexpr int kMaxHcSums = (2 + kMaxStreams) * kMaxStreams + kMaxStreams * (kMaxStreams + 1) / 2;

struct HcPost {
  const float* o = nullptr;  // [rows, d]; null: nothing to mix in
  ExpertOutputs experts;     // to be added to o
  const float* post = nullptr;
  const float* comb = nullptr;
  bool any() const { return o != nullptr; }
};

struct HcSums {
  float* streams;                  // [.., hc, d]; written when post.o is set
  const std::int32_t* source_row;  // which row of streams; null: its own
  HcPost post;
  Matrix fn;  // [controls, hc * d], as in the file
  int controls;
  int streams_count;
  int hidden;
  int rows;
  float* sums;  // out [rows, slices, kMaxHcSums]
};
/// The number of slices.
int hc_sums(const HcSums& p, cudaStream_t stream);
/// False, and nothing done, where its kernel does not fit: few rows, other shapes (hc_sums_many.cu).
bool hc_sums_of_many(const HcSums& p, cudaStream_t stream);

struct HcMix {
  const float* streams;
  const std::int32_t* source_row;
  const float* sums;
  int slices;
  bool leaves_controls;  // to hc_controls
  const float* base;     // [controls]
  const float* scale;    // [3]; head: [1]
  bool head;
  int controls;
  int streams_count;
  int hidden;
  int rows;
  int iterations;
  float hc_eps;
  float rms_eps;
  float* y;                  // out [rows, d]
  float* post;               // out [rows, hc]; not for the head
  float* comb;               // out [rows, hc, hc]
  const float* norm_weight;  // [d]: y is normalised (§2.3); null: it is not
  __half* y_half;            // out as well, or null
  __half* y_low;             // what the halves leave of y, times kLowScale; or null
};
void hc_mix(const HcMix& p, cudaStream_t stream);
void hc_controls(const HcMix& p, cudaStream_t stream);

/// Both as one kernel, a cluster a row, and the sums left for hc_controls(): [rows, kHcStepBlocks, kMaxHcSums]. Where
/// hc_step_fits(): cards with such clusters, up to kHcStepRows rows of four streams, f16 weights. Its sums have another
/// order than those of more rows: last bits of a row may differ between batches of four and of five.
inline constexpr int kHcStepRows = 4;
inline constexpr int kHcStepBlocks = 16;
bool hc_step_fits(const HcSums& p);
void hc_step(const HcSums& sums, const HcMix& mix, cudaStream_t stream);

/// streams[k] = post[k] o + sum_j comb[j][k] streams[j], alone.
void hc_post(float* streams, const HcPost& post, int streams_count, int hidden, int rows, cudaStream_t stream);

}  // namespace ds4::cuda
