// Bytes on their way to the L2 cache before the kernel that reads them begins. It changes no result.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ds4::cuda {

/// One thread asks for `bytes`, a multiple of 16, at an address that is one. Cards before compute capability 9.0 have no
/// such request and go without.
__device__ __forceinline__ void fetch_ahead(const std::byte* data, std::uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(data), "r"(bytes) : "memory");
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace ds4::cuda
