// The largest of a row of scores: the indexer's choice of rows (§2.7), the logits that a token may be drawn from
// (§2.10).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace ds4::cuda {

struct Selection {
  const float* scores;  // [rows, pitch]
  std::int64_t pitch;
  int rows;
  int topk;
  const std::int32_t* positions = nullptr;  // a row has (position + 1) / ratio scores; without, all have `visible`
  int ratio = 1;
  std::int64_t visible = 0;
  std::int64_t most = 0;               // no row has more scores; 0: unknown
  std::int32_t* selected;              // out [rows, topk]: their numbers, ascending; ties to the lower
  std::int32_t* count = nullptr;       // out [rows]: min(topk, scores)
  float* values = nullptr;             // out [rows, topk]: their scores, and
  std::int32_t* not_finite = nullptr;  // out [rows]: set to 1 where a score is not finite, otherwise left as it is
};
void select(const Selection& selection, cudaStream_t stream);

}  // namespace ds4::cuda
