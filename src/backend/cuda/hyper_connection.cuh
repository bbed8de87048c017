// What the kernels of the hyper-connections share.
#pragma once

#include "backend/cuda/hyper_connection.h"

namespace ds4::cuda {

/// Mixes one column of all streams; `x` in and out.
__device__ inline void mix_column(float (&x)[kMaxStreams], float o, const float* post, const float* comb, int n) {
  float mixed[kMaxStreams];
  for (int k = 0; k < kMaxStreams; ++k) {
    if (k >= n) continue;
    float sum = post[k] * o;
    for (int j = 0; j < kMaxStreams; ++j)
      if (j < n) sum += comb[j * n + k] * x[j];
    mixed[k] = sum;
  }
  for (int k = 0; k < kMaxStreams; ++k)
    if (k < n) x[k] = mixed[k];
}

}  // namespace ds4::cuda
