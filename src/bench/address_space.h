// A range of addresses that takes memory only where it is written, and pieces of which can be views of a smaller pool:
// a model file of any size can be looked at as if it were there. Move-only owners; any thread may read, and different
// threads may write different bytes. All errors are kOutOfMemory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/file_system.h"
#include "base/result.h"

namespace ds4::bench {

class AddressSpace {
 public:
  enum class Pages { kSmall, kHuge };  // kSmall: as the page cache maps a file

  static Result<AddressSpace> reserve(std::uint64_t bytes, Pages pages);
  AddressSpace(AddressSpace&& other) noexcept { swap(other); }
  AddressSpace& operator=(AddressSpace&& other) noexcept {
    swap(other);
    return *this;
  }
  ~AddressSpace();

  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  AddressSpace() = default;
  void swap(AddressSpace& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Memory that can be mapped more than once.
class SharedPool {
 public:
  static Result<SharedPool> create(std::uint64_t bytes);
  SharedPool(SharedPool&& other) noexcept;
  SharedPool& operator=(SharedPool&&) = delete;
  ~SharedPool();

  std::span<std::byte> bytes() const { return space_.bytes(); }
  /// Makes `to`, whole system pages inside an AddressSpace, a read-only view of this pool from `offset` on.
  Status map(std::span<std::byte> to, std::uint64_t offset) const;

 private:
  SharedPool(AddressSpace space, int descriptor) : space_(std::move(space)), descriptor_(descriptor) {}
  AddressSpace space_;
  int descriptor_ = -1;
};

/// A disk that holds one file, in an AddressSpace: what a gguf::Writer writes to it can be parsed in place.
class MemoryDisk final : public FileSystem {
 public:
  Result<std::unique_ptr<OutputFile>> create(const std::string& path) override;
  Result<std::unique_ptr<OutputFile>> reopen(const std::string& path) override {
    return Error{ErrorCode::kIo, path + ": a disk in memory holds no earlier file"};
  }
  Status rename(const std::string&, const std::string&) override { return {}; }
  Status remove(const std::string&) override { return {}; }
  Status sync_parent(const std::string&) override { return {}; }

  /// The file, once it is written.
  AddressSpace take();

 private:
  std::unique_ptr<AddressSpace> file_;
};

/// Bytes of a system page.
std::uint64_t system_page();

}  // namespace ds4::bench
