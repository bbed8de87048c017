// A regular file mapped read-only. Move-only; the mapping lives as long as the object. Any thread may read it.
// Opening never blocks on a FIFO or a device, and anything but a regular file is refused.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "base/result.h"

namespace ds4 {

class MappedFile {
 public:
  static Result<MappedFile> open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  /// Takes whole pages inside `part` of bytes() out of this process's memory; they are read again when touched.
  void release(std::span<const std::byte> part) const;

 private:
  MappedFile(std::string path, const std::byte* data, std::size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace ds4
