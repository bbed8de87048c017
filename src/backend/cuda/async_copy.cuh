// Copies to shared memory that a thread asks for and waits for later (cp.async, compute capability 8.0).
#pragma once

#include <cstdint>

namespace ds4::cuda {

__device__ inline std::uint32_t shared_at(const void* at) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(at));
}

/// kBytes is 16 or 4; beyond `valid_bytes` zeros are written.
template <int kBytes>
__device__ inline void copy_async(std::uint32_t shared, const void* global, int valid_bytes) {
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(valid_bytes));
  else asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(global), "r"(valid_bytes));
}
__device__ inline void commit_async() { asm volatile("cp.async.commit_group;"); }
template <int Left>
__device__ inline void wait_async() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Left));
}

}  // namespace ds4::cuda
