// The router's choice for one row, by one warp (§2.9). A kernel of its own runs it for any number of rows; for up to
// kRowsThatChoose the experts' first kernel does, block by block: cheaper than a kernel between two others.
#pragma once

#include "backend/cuda/device_math.cuh"
#include "backend/cuda/products.h"
#include "backend/cuda/rows.h"

namespace ds4::cuda {

__device__ inline float softplus(float t) { return fmaxf(t, 0.0F) + log1pf(expf(-fabsf(t))); }

/// Shared memory of a warp that chooses: two floats an expert.
struct ChoiceSpace {
  float* score;
  float* ranked;
  __device__ ChoiceSpace(float* space, int experts) : score(space), ranked(space + experts) {}
};

/// Before the logits are there: the biases come from far away. Thread `own` of `threads` takes every so many experts,
/// here and in score_row().
__device__ inline void begin_choice(const RouteChoice& p, const ChoiceSpace& space, int own, int threads) {
#pragma unroll 1
  for (int e = own; e < p.experts; e += threads) space.ranked[e] = p.bias == nullptr ? 0.0F : p.bias[e];
}

__device__ inline void score_row(const RouteChoice& p, int row, const ChoiceSpace& space, int own, int threads) {
#pragma unroll 1
  for (int e = own; e < p.experts; e += threads) {
    const std::int64_t at = static_cast<std::int64_t>(row) * p.experts + e;
    const float logit = p.low_logits == nullptr ? p.logits[at] : p.logits[at] + p.low_logits[at] / kLowScale;
    space.score[e] = sqrtf(softplus(logit));
    space.ranked[e] += space.score[e];
  }
}

/// By one warp, when the scores are there: selection by repeated maximum, since `used` is small; ties to the lower
/// expert. Leaves experts and weights in `chosen` and `weights`, [used], which may lie anywhere; they are complete for
/// the warp.
__device__ inline void choose_scored(const RouteChoice& p, int row, const ChoiceSpace& space, std::int32_t* chosen,
                                     float* weights) {
  const int lane = threadIdx.x % 32;
  float sum = 0;
  for (int i = 0; i < p.used; ++i) {
    int best = 0;
    if (p.token_experts != nullptr) {
      best = p.token_experts[static_cast<std::int64_t>(p.tokens[row]) * p.used + i];
    } else {
      std::uint32_t value = 0;  // below every number
      auto own = static_cast<unsigned>(p.experts - 1);
      for (int e = lane; e < p.experts; e += 32) {
        const std::uint32_t ranked = sortable(space.ranked[e]);
        if (ranked > value) value = ranked, own = static_cast<unsigned>(e);
      }
      const std::uint32_t largest = __reduce_max_sync(~0u, value);
      best = static_cast<int>(__reduce_min_sync(~0u, value == largest ? own : static_cast<unsigned>(p.experts - 1)));
      if (lane == best % 32) space.ranked[best] = -INFINITY;
      __syncwarp();
    }
    sum += space.score[best];
    if (lane == 0) chosen[i] = best;
  }
  __syncwarp();
  for (int i = lane; i < p.used; i += 32) weights[i] = space.score[chosen[i]] / sum * p.scale;
  __syncwarp();
}

}  // namespace ds4::cuda
