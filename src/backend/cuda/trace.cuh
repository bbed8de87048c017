// When the kernels of a step came and when they had what they waited for, in a build of its own (cmake
// -DDS4_CUDA_TRACE=ON): the kernels of a replayed step start before the last one has ended, and no op is timed alone.
//
// Thread 0 of a kernel's first block leaves both times, and where in the source it waited, at a place that follows from
// the time: nobody counts, and two kernels of the same 32 ns overwrite each other. A backend that goes writes what is
// there to the file that DS4_CUDA_TRACE_OUT names: a line an entry with the nanosecond at which it was ready, that at
// which it came, the hash of the file's name, the line and the number of blocks. bench/phases.py makes tables of it.
#pragma once

#include <cuda_runtime_api.h>

#ifdef DS4_CUDA_TRACE
#include <cstdio>
#include <cstdlib>
#include <vector>
#endif

namespace ds4::cuda {

#ifdef DS4_CUDA_TRACE

inline std::vector<void (*)(std::FILE*)> trace_writers;  // one a source file with kernels

struct TraceEntry {
  unsigned long long ready, came;
  unsigned file, line, blocks, unused;
};
constexpr unsigned kTraceEntries = 1U << 20;
static __device__ TraceEntry trace_entries[kTraceEntries];

namespace {
[[maybe_unused]] const bool trace_writer_known = [] {
  trace_writers.push_back([](std::FILE* out) {
    std::vector<TraceEntry> entries(kTraceEntries);
    if (cudaMemcpyFromSymbol(entries.data(), trace_entries, sizeof(TraceEntry) * kTraceEntries) != cudaSuccess) return;
    for (const TraceEntry& e : entries)
      if (e.ready != 0) std::fprintf(out, "%llu %llu %u %u %u\n", e.ready, e.came, e.file, e.line, e.blocks);
  });
  return true;
}();
}  // namespace

inline void write_trace() {
  const char* path = std::getenv("DS4_CUDA_TRACE_OUT");
  std::FILE* out = path == nullptr ? nullptr : std::fopen(path, "w");
  if (out == nullptr) return;
  for (auto* write : trace_writers) write(out);
  std::fclose(out);
}

/// Of a path's last part.
consteval unsigned name_hash(const char* path) {
  unsigned hash = 0;
  for (; *path != 0; ++path) hash = *path == '/' ? 0 : hash * 31 + static_cast<unsigned char>(*path);
  return hash;
}

/// Made where a kernel begins to wait.
class Waiting {
 public:
  __device__ __forceinline__ explicit Waiting(unsigned file = name_hash(__builtin_FILE()),
                                              unsigned line = __builtin_LINE())
      : first_(threadIdx.x == 0 && blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0), file_(file), line_(line) {
    if (first_) came_ = now();
  }
  __device__ __forceinline__ void ready() const {
    if (!first_) return;
    const unsigned long long time = now();
    trace_entries[(time >> 5) % kTraceEntries] = {time, came_, file_, line_, gridDim.x * gridDim.y * gridDim.z, 0};
  }

 private:
  __device__ static unsigned long long now() {
    unsigned long long time;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time)::"memory");
    return time;
  }
  bool first_;
  unsigned file_, line_;
  unsigned long long came_ = 0;
};

#else

inline void write_trace() {}
struct Waiting {
  __device__ void ready() const {}
};

#endif

}  // namespace ds4::cuda
