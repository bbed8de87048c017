#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/text.h"

namespace ds4 {

namespace {
/// Closes the descriptor on every way out of open().
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};
}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path) {
  const auto refuse = [&](std::string_view what) {
    return Error{ErrorCode::kIo, cat(escaped(path, 4096), ": ", what)};
  };
  // O_NONBLOCK: opening a FIFO without a writer must not hang; regular files ignore it.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return refuse(cat("cannot open: ", std::strerror(errno)));
  struct stat info{};
  if (::fstat(file.fd, &info) != 0) return refuse(cat("cannot stat: ", std::strerror(errno)));
  if (!S_ISREG(info.st_mode)) return refuse("expected a regular file, found a directory, device or pipe");
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size == 0) return MappedFile(path, nullptr, 0);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) return refuse(cat("cannot map ", size, " bytes: ", std::strerror(errno)));
  return MappedFile(path, static_cast<const std::byte*>(data), size);
}

void MappedFile::release(std::span<const std::byte> part) const {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<std::uintptr_t>(part.data()) + page - 1) / page * page;
  const auto end = (reinterpret_cast<std::uintptr_t>(part.data()) + part.size()) / page * page;
  // Pages of a file that is mapped shared and read-only: nothing but their place in memory is lost.
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace ds4
