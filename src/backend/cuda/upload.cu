#include "backend/cuda/upload.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/cpus.h"
#include "base/text.h"

namespace ds4::cuda {

Uploader::Uploader(Device& device) : device_(device), pool_(std::min(default_thread_count(), 16), "ds4-load") {}

Result<std::unique_ptr<Uploader>> Uploader::create(Device& device) {
  std::unique_ptr<Uploader> uploader(new Uploader(device));
  DS4_RETURN_IF_ERROR(uploader->allocate());
  return Result<std::unique_ptr<Uploader>>(std::move(uploader));
}

Status Uploader::allocate() {
  for (int i = 0; i < kPieces; ++i) {
    const auto at = static_cast<std::size_t>(i);
    void* pinned = nullptr;
    if (const cudaError_t e = cudaMallocHost(&pinned, kPieceBytes); e != cudaSuccess) {
      if (e != cudaErrorMemoryAllocation && !device_.check(e, "pinning host memory")) return device_.status();
      cudaGetLastError();
      return Error{ErrorCode::kOutOfMemory,
                   cat("cannot pin ", human_bytes(kPieceBytes), " of host memory for loading weights")};
    }
    pinned_[at] = static_cast<std::byte*>(pinned);
    DS4_ASSIGN_OR_RETURN(void* staging, device_.allocate(kPieceBytes, "loading weights"));
    staging_[at] = static_cast<std::byte*>(staging);
    device_.check(cudaEventCreateWithFlags(&free_[at], cudaEventDisableTiming), "event");
  }
  DS4_ASSIGN_OR_RETURN(void* largest, device_.allocate(sizeof(std::uint32_t), "loading weights"));
  largest_ = static_cast<std::uint32_t*>(largest);
  return device_.status();
}

Uploader::~Uploader() {
  cudaStreamSynchronize(device_.stream());
  for (std::byte* p : pinned_) cudaFreeHost(p);
  for (std::byte* p : staging_) cudaFree(p);
  for (cudaEvent_t e : free_)
    if (e != nullptr) cudaEventDestroy(e);
  cudaFree(largest_);
}

int Uploader::fill(const std::byte* from, std::size_t bytes) {
  const int piece = next_;
  next_ = (next_ + 1) % kPieces;
  const auto at = static_cast<std::size_t>(piece);
  device_.check(cudaEventSynchronize(free_[at]), "waiting for a copy");
  pool_.run([&](int index, int count) {
    const Share share = share_of(static_cast<std::int64_t>(bytes), index, count, 4096);
    std::memcpy(pinned_[at] + share.first, from + share.first, static_cast<std::size_t>(share.last - share.first));
  });
  return piece;
}

Result<float> Uploader::load(const HostWeight& weight, const Matrix& matrix, std::byte* to) {
  const cudaStream_t stream = device_.stream();
  if (!matrix.tiled) {
    const std::size_t bytes = weight.bytes();
    for (std::size_t at = 0; at < bytes; at += kPieceBytes) {
      const std::size_t size = std::min(kPieceBytes, bytes - at);
      const auto piece = static_cast<std::size_t>(fill(weight.data + at, size));
      device_.check(cudaMemcpyAsync(to + at, pinned_[piece], size, cudaMemcpyHostToDevice, stream), "copying a weight");
      device_.check(cudaEventRecord(free_[piece], stream), "event");
    }
    DS4_RETURN_IF_ERROR(device_.status());
    return 0.0F;
  }
  device_.check(cudaMemsetAsync(largest_, 0, sizeof(std::uint32_t), stream), "packing");
  // Matrices whose rows fill whole tiles lie end to end, so that many small ones travel together.
  Matrix whole = matrix;
  std::int64_t parts = matrix.count;
  if (matrix.out % kTileRows == 0) {
    whole.out *= whole.count;
    parts = 1;
  }
  const auto rows_at_once = static_cast<std::int64_t>(kPieceBytes / matrix.row_bytes) / kTileRows * kTileRows;
  if (rows_at_once == 0)
    return Error{ErrorCode::kBadModel,
                 cat("a weight with rows of ", matrix.row_bytes, " bytes is too wide for the card")};
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::byte* from = weight.data + static_cast<std::uint64_t>(part * whole.out) * matrix.row_bytes;
    std::byte* tiles = to + static_cast<std::uint64_t>(part) * matrix.matrix_bytes;
    for (std::int64_t row = 0; row < whole.out; row += rows_at_once) {
      const std::int64_t rows = std::min(rows_at_once, whole.out - row);
      const std::size_t bytes = static_cast<std::size_t>(rows) * matrix.row_bytes;
      const auto piece =
          static_cast<std::size_t>(fill(from + static_cast<std::uint64_t>(row) * matrix.row_bytes, bytes));
      device_.check(cudaMemcpyAsync(staging_[piece], pinned_[piece], bytes, cudaMemcpyHostToDevice, stream),
                    "copying a weight");
      pack_rows(matrix, staging_[piece], rows,
                tiles + static_cast<std::uint64_t>(row / kTileRows * matrix.column_tiles()) * matrix.tile_bytes,
                largest_, stream);
      device_.launched("packing");
      device_.check(cudaEventRecord(free_[piece], stream), "event");
    }
  }
  std::uint32_t bits = 0;
  device_.check(cudaMemcpyAsync(&bits, largest_, sizeof(bits), cudaMemcpyDeviceToHost, stream), "packing");
  device_.check(cudaStreamSynchronize(stream), "packing");
  DS4_RETURN_IF_ERROR(device_.status());
  return std::bit_cast<float>(bits);
}

}  // namespace ds4::cuda
