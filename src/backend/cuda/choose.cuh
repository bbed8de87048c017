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

/// Before the logits are there: the biases come from far away.
__device__ inline void begin_choice(const RouteChoice& p, const ChoiceSpace& space) {
  for (int e = threadIdx.x % 32; e < p.experts; e += 32) space.ranked[e] = p.bias == nullptr ? 0.0F : p.bias[e];
}

/// Selection by repeated maximum: `used` is small. Leaves experts and weights in `chosen` and `weights`, [used], which may lie
/// anywhere; they are complete for the warp.
__device__ inline void choose_row(const RouteChoice& p, int row, const ChoiceSpace& space, std::int32_t* chosen, float* weights) {
  const int lane = threadIdx.x % 32;
  for (int e = lane; e < p.experts; e += 32) {
    const std::int64_t at = static_cast<std::int64_t>(row) * p.experts + e;
    const float logit = p.low_logits == nullptr ? p.logits[at] : p.logits[at] + p.low_logits[at] / kLowScale;
    space.score[e] = sqrtf(softplus(logit));
    space.ranked[e] += space.score[e];
  }
  __syncwarp();
  float sum = 0;
  for (int i = 0; i < p.used; ++i) {
    int best = 0;
    if (p.token_experts != nullptr) {
      best = p.token_experts[static_cast<std::int64_t>(p.tokens[row]) * p.used + i];
    } else {
      float value = -INFINITY;
      best = p.experts;
      for (int e = lane; e < p.experts; e += 32)
        if (space.ranked[e] > value) value = space.ranked[e], best = e;
      for (int step = 16; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(~0u, value, step);
        const int other_best = __shfl_xor_sync(~0u, best, step);
        if (other > value || (other == value && other_best < best)) value = other, best = other_best;
      }
      best = min(best, p.experts - 1);  // all NaN: the weights carry it on
      if (lane == 0) space.ranked[best] = -INFINITY;
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
