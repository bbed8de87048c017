// Launching kernels so that the next one on the stream may begin before the last one has ended (programmatic dependent
// launch, compute capability 9.0): its blocks take the places that become free, fetch weights, and wait where they need
// what the last kernel wrote. On older cards the same calls are plain launches.
//
// Every kernel launched here calls wait_for_previous() in every thread before it reads or writes anything that another
// kernel touches, and before it returns; weights and the step's Batch, which lie there before the step's first kernel
// begins, it may read earlier.
//
// A step runs every kernel once a layer, and the code of all of them does not fit a multiprocessor's caches: what
// stands between two waits is short, loops that are no inner loops are not unrolled, rare formats are calls.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

#include "backend/cuda/trace.cuh"

namespace ds4::cuda {

__device__ __forceinline__ void wait_for_previous([[maybe_unused]] const Waiting waiting = Waiting()) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
  waiting.ready();
}

/// More shared memory than every kernel has, on the card at hand. One that cannot grant it fails the launch.
template <typename Kernel>
void allow_shared(Kernel* kernel, std::size_t bytes) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

/// What the calling thread's card can do (Device::select()).
inline thread_local bool early_launch = false;
inline thread_local int cluster_blocks = 0;  // the most blocks of a cluster

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared, cudaStream_t stream,
            Arguments&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early_launch ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...);
}

/// The same with `blocks` neighbouring blocks as a cluster.
template <typename... Parameters, typename... Arguments>
void launch_cluster(void (*kernel)(Parameters...), dim3 grid, unsigned threads, unsigned blocks, std::size_t shared,
                    cudaStream_t stream, Arguments&&... arguments) {
  if (blocks > 8) cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {blocks, 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...);
}

}  // namespace ds4::cuda
