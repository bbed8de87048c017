// Making KV rows on the card: window rows (§2.5 steps 5-7) and compressed rows (§2.6). Segments of at most kRewindSlack
// rows write the rings of their tail at once; longer ones when nobody reads the old rows any more.
#pragma once

#include <cuda_runtime_api.h>

#include "backend/cuda/batch.cuh"
#include "backend/cuda/matrix.h"

namespace ds4::cuda {

struct WindowRows {
  const float* kv;      // [rows, head_dim], before the norm
  const float* weight;  // [head_dim]
  const float* frequencies;
  int pairs;
  int head_dim;
  float eps;
  KvFormat format;
  Rows ring;
  std::byte* fresh;  // the rows of this batch, encoded
  Rows fresh_rows;   // how they lie there
};
void make_window_rows(const Batch& batch, const WindowRows& p, cudaStream_t stream);
/// The rows of long segments reach the ring.
void store_window_rows(const Batch& batch, const WindowRows& p, cudaStream_t stream);

/// A StateRing of backend/kv_layout.h.
struct States {
  std::uint64_t offset;
  int slots;
  int width;
  __device__ float* z(std::byte* tail, std::int64_t position) const {
    return reinterpret_cast<float*>(tail + offset) +
           static_cast<std::int64_t>(static_cast<unsigned>(position) % static_cast<unsigned>(slots)) * width;
  }
  __device__ float* g(std::byte* tail, std::int64_t position) const {
    return z(tail, position) + static_cast<std::int64_t>(slots) * width;
  }
};

struct CompressRows {
  const float* z;  // [rows, width]
  const float* g;  // [rows, width], without the position bias
  Matrix ape;      // [ratio, width]
  const float* norm;
  const float* frequencies;
  int pairs;
  int ratio;
  int row_width;
  float eps;
  KvFormat format;
  bool indexer;
  States states;
  Rows store;
};
void compress_rows(const Batch& batch, const CompressRows& p, bool long_segments, cudaStream_t stream);

}  // namespace ds4::cuda
