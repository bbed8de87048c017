// Small kernels over rows: look-up, norms, heads, the router's choice.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "backend/cuda/matrix.h"

namespace ds4::cuda {

/// streams[r][k] = table[tokens[r]] for every stream k.
void embed_rows(const Matrix& table, const std::int32_t* tokens, int rows, int streams, float* to, cudaStream_t stream);

/// RMSNorm (§2.3); y may be x. y_half and y_low as in HcMix, or null.
void norm_rows(const float* x, const float* weight, float eps, std::int64_t rows, int width, float* y, __half* y_half,
               __half* y_low, cudaStream_t stream);

/// Per head: x rsqrt(mean(x^2) + eps), then rotation of the last 2 * pairs values (§2.5 steps 3-4). In place, and as
/// halves.
void finish_heads(float* q, __half* q_half, const std::int32_t* positions, const float* frequencies, int pairs,
                  int heads, int width, float eps, std::int64_t rows, cudaStream_t stream);

/// The router's choice (§2.9) from its logits [rows, experts].
struct RouteChoice {
  const float* logits;
  const float* low_logits;            // to be added, over kLowScale; or null
  const float* bias;                  // null in hash-routed layers
  const std::int32_t* token_experts;  // [vocab, used], hash-routed layers
  const std::int32_t* tokens;
  int experts;
  int used;
  int rows;
  float scale;
  std::int32_t* chosen;  // out [rows, used]
  float* weights;        // out [rows, used]
};
void choose_experts(const RouteChoice& p, cudaStream_t stream);

/// Experts whose matrices are not tiled, or whose gate and up differ: exact, slow. Scratch hidden [rows * used + rows,
/// ..].
struct FileExperts {
  Matrix gate, up, down, shared_gate, shared_up, shared_down;
  const float* x;
  const std::int32_t* experts;
  const float* weights;
  int rows;
  int used;
  float limit;
  float shared_limit;
  float* hidden;         // [rows * used, expert_ff]
  float* shared_hidden;  // [rows, shared_ff]
  float* y;
};
void file_experts(const FileExperts& e, cudaStream_t stream);

}  // namespace ds4::cuda
