// Attention over the window and the compressed rows on the card (§2.5 steps 8-10, §2.8).
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include "backend/cuda/batch.cuh"

namespace ds4::cuda {

struct Attention {
  const float* q;        // [rows, heads, head_dim]
  const __half* q_half;  // the same; null: q is as multiplied, and the kernel for few rows finishes it (§2.5 steps 3-4)
  float eps;             // of that
  const float* sinks;    // [heads]
  const float* frequencies;
  int pairs;
  int heads;
  int head_dim;
  int window;
  int ratio;  // 0: window only
  KvFormat format;
  Rows ring;
  Rows compressed;
  std::byte* fresh;  // window rows of this batch
  Rows fresh_rows;
  const std::int32_t* selected;  // [rows, topk]; null: all visible compressed rows
  const std::int32_t* count;
  int topk;
  std::int64_t max_keys;  // no row of the batch meets more
  int multiprocessors;
  std::size_t shared_of_multiprocessor;  // bytes of shared memory
  bool exact;                            // f32 products
  float* parts;                          // scratch for split keys: see attention_scratch_floats()
  float* o;                              // out [rows, heads, head_dim]
  __half* o_half;                        // the same, where the kernel for this shape writes it
};

/// The tensor core kernel takes this shape; others run in f32.
inline constexpr int kTensorHeadDim = 512;
inline constexpr int kTensorHeads = 64;
/// Rows up to which keys are split over blocks.
inline constexpr int kSplitRows = 16;

std::size_t attention_scratch_floats(int heads, int head_dim, int multiprocessors);
/// Whether q_half may be null.
bool finishes_queries(const Attention& p, int rows);
/// The tensor core shape with at most kSplitRows rows; a part of sparse_attention().
void few_attention(const Batch& batch, const Attention& p, cudaStream_t stream);
/// True when o_half was written.
bool sparse_attention(const Batch& batch, const Attention& p, cudaStream_t stream);

}  // namespace ds4::cuda
