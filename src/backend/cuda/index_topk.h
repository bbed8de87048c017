// The CSA indexer on the card (§2.7): queries, scores of all visible rows, the best of them.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "backend/cuda/batch.cuh"

namespace ds4::cuda {

struct IndexTopk {
  float* queries;             // [rows, heads, dim] as multiplied; finished in place
  const float* head_weights;  // [rows, heads], unscaled
  const float* frequencies;
  int pairs;
  int heads;
  int dim;
  int topk;
  int ratio;
  KvFormat format;
  Rows store;
  std::int64_t max_visible;  // no row of the batch sees more
  float* scores;             // scratch [score_rows, max_visible rounded up to 128]
  std::uint32_t* maxima;     // scratch of the selection for as many scores
  __half* half_queries;      // scratch [rows, heads, dim], in the order of the tensor cores
  int score_rows;            // rows scored at a time
  std::int32_t* selected;    // out [rows, topk]
  std::int32_t* count;       // out [rows]
  bool exact;                // f32 scores; otherwise tensor cores where the shape fits

  /// Otherwise everything visible is kept, and nobody needs queries.
  bool selects() const { return max_visible > topk; }
};
/// The queries, in place and as halves. They need no keys.
void index_queries(const Batch& batch, const IndexTopk& p, cudaStream_t stream);
void index_topk(const Batch& batch, const IndexTopk& p, cudaStream_t stream);

}  // namespace ds4::cuda
