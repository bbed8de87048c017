// One card: its stream, its memory, and the first fault. CUDA errors are sticky, so after a fault every call fails; the
// first one is kept and reported by status(). A Device that had a fault resets its card when it is destroyed, without
// which nothing in this process would compute there again: nothing else may hold memory or streams of that card then.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace ds4::cuda {

class Device {
 public:
  /// Selects card `ordinal` for the calling thread.
  static Result<Device> open(int ordinal);
  /// Makes this the card that the calling thread's kernels, events and allocations go to.
  void select() const;
  Device(Device&& other) noexcept;
  Device& operator=(Device&&) = delete;
  ~Device();

  /// Remembers the first error; true when `code` is success.
  bool check(cudaError_t code, const char* what);
  /// The launch just made.
  void launched(const char* kernel) { check(cudaGetLastError(), kernel); }
  Status status() const;

  Result<void*> allocate(std::size_t bytes, const char* what);
  /// What the driver takes from the card for so many bytes: whole pages of 2 MiB, which only small allocations share.
  static std::uint64_t taken(std::uint64_t bytes);
  static void release(void* memory);

  cudaStream_t stream() const { return stream_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  std::size_t shared_of_multiprocessor() const { return properties_.sharedMemPerMultiprocessor; }
  std::size_t shared_memory() const { return properties_.sharedMemPerBlockOptin; }
  int ordinal() const { return ordinal_; }
  bool integrated() const { return properties_.integrated != 0; }  // its memory is the host's
  int capability() const { return properties_.major * 10 + properties_.minor; }
  const std::string& name() const { return name_; }

 private:
  Device() = default;
  int ordinal_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaDeviceProp properties_{};
  int cluster_blocks_ = 0;  // the most blocks of a cluster of this card
  int code_ = 0;            // the capability that the kernels on this card were written for; 0: not known
  std::string name_;
  std::string fault_;
};

}  // namespace ds4::cuda
