#include "backend/cuda/device.h"

#include <utility>

#include "backend/cuda/launch.cuh"
#include "backend/cuda/many_rows.h"
#include "base/text.h"

namespace ds4::cuda {

namespace {

thread_local int selected = -1;

__global__ void probe_kernel() {}

/// Of the current card; 16 where it takes more than every card with clusters does, whatever a block needs: the probe's
/// blocks take more than half of a multiprocessor, so that they lie on as many. Parts of a card may have fewer
/// together.
int largest_cluster(std::size_t shared_of_multiprocessor) {
  const std::size_t alone = shared_of_multiprocessor / 2 + 1024;
  allow_shared(probe_kernel, alone);
  cudaLaunchAttribute size{};
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim = {16, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(16);
  config.blockDim = dim3(256);
  config.dynamicSmemBytes = alone;
  config.attrs = &size;
  config.numAttrs = 1;
  int clusters = 0;
  const bool fits =
      cudaFuncSetAttribute(probe_kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess &&
      cudaOccupancyMaxActiveClusters(&clusters, probe_kernel, &config) == cudaSuccess && clusters > 0;
  cudaGetLastError();  // a refusal is no fault
  return fits ? 16 : 8;
}

Error no_device(std::string why) { return Error{ErrorCode::kNoDevice, cat("cuda: ", why)}; }

}  // namespace

Result<Device> Device::open(int ordinal) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found == cudaErrorInsufficientDriver)
    return no_device("no usable NVIDIA driver (libcuda.so.1 is missing or older than this build needs)");
  if (found != cudaSuccess) return no_device(cudaGetErrorString(found));
  if (ordinal < 0 || ordinal >= count) return no_device(cat("expected a card in 0..", count - 1, ", found ", ordinal));
  Device device;
  device.ordinal_ = ordinal;
  if (const cudaError_t e = cudaGetDeviceProperties(&device.properties_, ordinal); e != cudaSuccess)
    return no_device(cudaGetErrorString(e));
  device.name_ = device.properties_.name;
  if (device.capability() < 80)
    return no_device(cat(device.name_, " has compute capability ", device.properties_.major, ".",
                         device.properties_.minor, ", expected 8.0 (A100, RTX 30) or newer"));
  if (const cudaError_t e = cudaSetDevice(ordinal); e != cudaSuccess) return no_device(cudaGetErrorString(e));
  selected = -1;  // until select()
  cudaFuncAttributes code{};
  if (const cudaError_t e = cudaFuncGetAttributes(&code, probe_kernel); e != cudaSuccess)
    return no_device(cudaGetErrorString(e));
  device.code_ = code.ptxVersion;
  device.cluster_blocks_ = largest_cluster(device.shared_of_multiprocessor());
  device.select();
  if (const cudaError_t e = cudaStreamCreateWithFlags(&device.stream_, cudaStreamNonBlocking); e != cudaSuccess)
    return no_device(cudaGetErrorString(e));
  return Result<Device>(std::move(device));
}

void Device::select() const {
  if (selected == ordinal_) return;
  cudaSetDevice(ordinal_);  // it was possible in open()
  selected = ordinal_;
  // A card for which there is no machine code runs what its driver makes of code for an older one (cmake/cuda.cmake).
  const bool own_code = code_ == 0 || code_ >= 90;
  early_launch = capability() >= 90 && own_code;
  cluster_blocks = early_launch ? cluster_blocks_ : 0;
  has_warpgroups = capability() == 90 && own_code;
}

Device::Device(Device&& other) noexcept
    : ordinal_(other.ordinal_),
      stream_(std::exchange(other.stream_, nullptr)),
      properties_(other.properties_),
      cluster_blocks_(other.cluster_blocks_),
      code_(other.code_),
      name_(std::move(other.name_)),
      fault_(std::move(other.fault_)) {}

Device::~Device() {
  if (stream_ == nullptr) return;
  select();
  cudaStreamDestroy(stream_);
  if (fault_.empty()) return;
  cudaDeviceReset();  // whether it helped is for whoever opens the card next to find out
  cudaGetLastError();
  selected = -1;
}

bool Device::check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return true;
  if (fault_.empty()) fault_ = cat(name_, ": ", what, ": ", cudaGetErrorString(code));
  return false;
}

Status Device::status() const {
  if (fault_.empty()) return {};
  return Error{ErrorCode::kNoDevice, fault_};
}

Result<void*> Device::allocate(std::size_t bytes, const char* what) {
  select();
  void* memory = nullptr;
  const cudaError_t e = cudaMalloc(&memory, bytes == 0 ? 1 : bytes);
  if (e == cudaSuccess) return memory;
  if (e != cudaErrorMemoryAllocation) {
    check(e, what);
    return status().error();
  }
  cudaGetLastError();  // a refusal is not a fault
  std::size_t free = 0;
  std::size_t total = 0;
  cudaMemGetInfo(&free, &total);
  return Error{ErrorCode::kOutOfMemory, cat(name_, ": ", what, " needs ", human_bytes(bytes), ", ", human_bytes(free),
                                            " of ", human_bytes(total), " are free")};
}

std::uint64_t Device::taken(std::uint64_t bytes) {
  constexpr std::uint64_t kPage = std::uint64_t{2} << 20;
  return bytes <= kPage / 2 ? bytes : (bytes + kPage - 1) / kPage * kPage;
}

void Device::release(void* memory) { cudaFree(memory); }

}  // namespace ds4::cuda
