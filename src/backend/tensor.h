// Views of device memory. The backend that made the memory owns it; a view is valid while its owner lives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>

#include "quant/dtype.h"

namespace ds4 {

/// f32 activations [rows, cols], dense, row-major. cols is the product of the trailing dims named beside a declaration.
struct Tensor {
  float* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

/// The same for 32-bit integers.
struct IntTensor {
  std::int32_t* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
};

/// A weight as the file holds it: [count][out][in], `in` contiguous. Vectors have out = 1.
struct HostWeight {
  DType type = DType::kF32;
  std::int64_t in = 0;
  std::int64_t out = 1;
  std::int64_t count = 1;  // experts
  const std::byte* data = nullptr;
  bool lookup = false;  // rows are fetched by number (embedding, position bias, hash routing), never multiplied
  /// If given: called by load() with bytes that will hardly be read again, so that their owner can let go of the pages.
  std::function<void(std::span<const std::byte>)> done_with = {};
  std::size_t bytes() const { return row_bytes(type, std::size_t(in)) * std::size_t(out) * std::size_t(count); }
};

/// A weight as a backend holds it. `data` and `layout` mean what the backend says; layout 0 is the file's.
struct Weight {
  DType type = DType::kF32;
  std::int64_t in = 0;
  std::int64_t out = 0;
  std::int64_t count = 0;
  const void* data = nullptr;
  std::uint32_t layout = 0;
  bool present() const { return data != nullptr; }
};

/// Owns one allocation of a backend; frees it there.
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, std::size_t bytes, std::function<void(void*)> release)
      : data_(data), bytes_(bytes), release_(std::move(release)) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) release_(data_);
  }
  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
  }
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::function<void(void*)> release_;
};

}  // namespace ds4
