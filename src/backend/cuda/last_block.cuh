// Work that the last block of a kernel does for all: a small kernel less. Tickets are zero before the kernel and after it.
#pragma once

#include <cuda_runtime_api.h>

namespace ds4::cuda {

#ifdef __CUDACC__
/// By all threads of a block, when it has written what it has to: true in the block that is the last of `blocks`, which may
/// then read what all have written, past the L1 cache (__ldcg).
__device__ inline bool last_block(unsigned* ticket, unsigned blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicInc(ticket, blocks - 1) == blocks - 1;
  __syncthreads();
  if (last) __threadfence();
  return last;
}
#endif

}  // namespace ds4::cuda
