#include "bench/address_space.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/text.h"

namespace ds4::bench {

namespace {

Error system_error(std::string_view what, std::uint64_t bytes) {
  return Error{ErrorCode::kOutOfMemory, cat(what, " ", human_bytes(bytes), ": ", std::strerror(errno))};
}

class DiskFile final : public OutputFile {
 public:
  explicit DiskFile(std::unique_ptr<AddressSpace>& file) : file_(file) {}

  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
    DS4_CHECK(file_ != nullptr && offset + bytes.size() <= file_->bytes().size());
    if (!bytes.empty()) std::memcpy(file_->bytes().data() + offset, bytes.data(), bytes.size());
    return {};
  }
  Status truncate(std::uint64_t size) override {
    DS4_ASSIGN_OR_RETURN(AddressSpace space, AddressSpace::reserve(size, AddressSpace::Pages::kSmall));
    file_ = std::make_unique<AddressSpace>(std::move(space));
    return {};
  }
  Status sync() override { return {}; }

 private:
  std::unique_ptr<AddressSpace>& file_;
};

}  // namespace

std::uint64_t system_page() { return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)); }

Result<AddressSpace> AddressSpace::reserve(std::uint64_t bytes, Pages pages) {
  DS4_CHECK(bytes > 0);
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return system_error("cannot reserve addresses for", bytes);
#if defined(MADV_HUGEPAGE)
  ::madvise(data, bytes, pages == Pages::kHuge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);  // best effort
#endif
  AddressSpace space;
  space.data_ = static_cast<std::byte*>(data);
  space.size_ = bytes;
  return space;
}

AddressSpace::~AddressSpace() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Result<SharedPool> SharedPool::create(std::uint64_t bytes) {
  const int descriptor = ::memfd_create("ds4-pool", MFD_CLOEXEC);
  if (descriptor < 0 || ::ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) {
    const Error error = system_error("cannot make a pool of", bytes);
    if (descriptor >= 0) ::close(descriptor);
    return error;
  }
  auto space = AddressSpace::reserve(bytes, AddressSpace::Pages::kSmall);
  if (!space.ok()) {
    ::close(descriptor);
    return std::move(space).error();
  }
  SharedPool pool(std::move(space).value(), descriptor);
  if (::mmap(pool.bytes().data(), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, descriptor, 0) == MAP_FAILED)
    return system_error("cannot map a pool of", bytes);
  return pool;
}

SharedPool::SharedPool(SharedPool&& other) noexcept
    : space_(std::move(other.space_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

SharedPool::~SharedPool() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status SharedPool::map(std::span<std::byte> to, std::uint64_t offset) const {
  DS4_CHECK(offset % system_page() == 0 && to.size() % system_page() == 0 && offset + to.size() <= bytes().size());
  void* at = ::mmap(to.data(), to.size(), PROT_READ, MAP_SHARED | MAP_FIXED, descriptor_, static_cast<off_t>(offset));
  if (at == MAP_FAILED) return system_error("a larger pool needs fewer views; cannot map another one of", to.size());
  return {};
}

Result<std::unique_ptr<OutputFile>> MemoryDisk::create(const std::string&) {
  return std::unique_ptr<OutputFile>(std::make_unique<DiskFile>(file_));
}

AddressSpace MemoryDisk::take() {
  DS4_CHECK(file_ != nullptr);
  return std::move(*file_);
}

}  // namespace ds4::bench
