// Weights from the mapped file to the card: threads copy pieces into a ring of pinned buffers (which is what reads the
// file), the copy engine moves them, the card packs them into tiles.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <memory>

#include "backend/cuda/device.h"
#include "backend/cuda/matrix.h"
#include "base/thread_pool.h"

namespace ds4::cuda {

class Uploader {
 public:
  static constexpr std::size_t kPieceBytes = std::size_t{32} << 20;
  static constexpr int kPieces = 4;

  static Result<std::unique_ptr<Uploader>> create(Device& device);
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  /// Fills `to` (matrix_bytes() of device memory) from the host weight. Returns the largest magnitude of a tiled one.
  Result<float> load(const HostWeight& weight, const Matrix& matrix, std::byte* to);
  /// Host memory the ring takes, and device memory.
  static std::size_t pinned_bytes() { return kPieceBytes * kPieces; }

 private:
  explicit Uploader(Device& device);
  Status allocate();
  /// Waits for the next piece of the ring and fills it.
  int fill(const std::byte* from, std::size_t bytes);

  Device& device_;
  ThreadPool pool_;
  std::array<std::byte*, kPieces> pinned_{};
  std::array<std::byte*, kPieces> staging_{};
  std::array<cudaEvent_t, kPieces> free_{};
  std::uint32_t* largest_ = nullptr;
  int next_ = 0;
};

}  // namespace ds4::cuda
