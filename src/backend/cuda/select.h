// The largest of a row of scores: the indexer's choice of rows (§2.7), the logits that a token may be drawn from
// (§2.10).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace ds4::cuda {

/// Scores whose largest stands for them while the rows that matter are looked for.
inline constexpr int kScoreGroup = 16;

/// Groups of a row of `scores`.
__host__ __device__ constexpr std::int64_t maxima_pitch(std::int64_t scores) {
  return (scores + kScoreGroup - 1) / kScoreGroup;
}

/// Rows with more scores than this take maxima: groups are looked for first, unless a larger block holds all scores.
inline constexpr int kMostHeldScores = 8192;

struct Selection {
  const float* scores;  // [rows, pitch]
  std::int64_t pitch;
  int rows;
  int topk;
  const std::int32_t* positions = nullptr;  // a row has (position + 1) / ratio scores; without, all have `visible`
  int ratio = 1;
  std::int64_t visible = 0;
  std::int64_t most;                   // no row has more scores
  std::uint32_t* maxima = nullptr;     // scratch [rows, maxima_pitch(pitch)]: sortable() of the largest of each group;
                                       // without, every score is looked at
  bool has_maxima = false;             // they are there already
  std::int32_t* selected;              // out [rows, topk]: their numbers, ascending; ties to the lower
  std::int32_t* count = nullptr;       // out [rows]: min(topk, scores)
  float* values = nullptr;             // out [rows, topk]: their scores, and
  std::int32_t* not_finite = nullptr;  // out [rows]: set to 1 where a score is not finite, otherwise left as it is
};
void select(const Selection& selection, cudaStream_t stream);

}  // namespace ds4::cuda
