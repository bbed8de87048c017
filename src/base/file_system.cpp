#include "base/file_system.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <system_error>
#include <utility>

#include "base/text.h"

namespace ds4 {

namespace {

Error io_error(const std::string& path, std::string_view what, int error) {
  return Error{ErrorCode::kIo,
               cat(escaped(path, 4096), ": cannot ", what, ": ", std::generic_category().message(error))};
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

class RealOutputFile : public OutputFile {
 public:
  RealOutputFile(std::string path, Descriptor file) : path_(std::move(path)), file_(std::move(file)) {}

  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
    // Linux writes at most 2 GiB less a page in one call.
    constexpr std::size_t kMaxPiece = 1u << 30;
    while (!bytes.empty()) {
      const std::size_t piece = std::min(bytes.size(), kMaxPiece);
      const ssize_t written = ::pwrite(file_.get(), bytes.data(), piece, static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0)
        return io_error(path_, cat("write ", piece, " bytes at byte ", offset), written < 0 ? errno : ENOSPC);
      offset += static_cast<std::uint64_t>(written);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    return {};
  }

  Status truncate(std::uint64_t size) override {
    const bool possible = size <= static_cast<std::uint64_t>(std::numeric_limits<off_t>::max());
    if (possible && ::ftruncate(file_.get(), static_cast<off_t>(size)) == 0) return {};
    return io_error(path_, cat("make it ", size, " bytes long"), possible ? errno : EFBIG);
  }

  Status sync() override {
    if (::fsync(file_.get()) != 0) return io_error(path_, "sync", errno);
    return {};
  }

 private:
  std::string path_;
  Descriptor file_;
};

class RealFileSystem : public FileSystem {
 public:
  Result<std::unique_ptr<OutputFile>> create(const std::string& path) override {
    DS4_ASSIGN_OR_RETURN(Descriptor file, open_locked(path, O_CREAT));
    if (::ftruncate(file.get(), 0) != 0) return io_error(path, "empty", errno);
    return std::unique_ptr<OutputFile>(std::make_unique<RealOutputFile>(path, std::move(file)));
  }

  Result<std::unique_ptr<OutputFile>> reopen(const std::string& path) override {
    DS4_ASSIGN_OR_RETURN(Descriptor file, open_locked(path, 0));
    return std::unique_ptr<OutputFile>(std::make_unique<RealOutputFile>(path, std::move(file)));
  }

  Status rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) return io_error(from, cat("rename to ", escaped(to, 4096)), errno);
    return {};
  }

  Status remove(const std::string& path) override {
    if (::unlink(path.c_str()) != 0) return io_error(path, "remove", errno);
    return {};
  }

  Status sync_parent(const std::string& path) override {
    const std::size_t slash = path.rfind('/');
    const std::string parent = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
    const Descriptor directory(::open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory.get() < 0) return io_error(parent, "open", errno);
    // Some network file systems cannot sync a directory and say EINVAL; their renames are durable by themselves.
    if (::fsync(directory.get()) != 0 && errno != EINVAL) return io_error(parent, "sync", errno);
    return {};
  }

 private:
  static Result<Descriptor> open_locked(const std::string& path, int flags) {
    // O_NONBLOCK: a pipe without a reader must fail, not hang. No O_TRUNC: the content may belong to a running writer
    // until the lock is ours.
    Descriptor file(::open(path.c_str(), flags | O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666));
    if (file.get() < 0) return io_error(path, (flags & O_CREAT) != 0 ? "create" : "open", errno);
    struct stat opened{};
    if (::fstat(file.get(), &opened) != 0) return io_error(path, "stat", errno);
    if (!S_ISREG(opened.st_mode))
      return Error{ErrorCode::kIo, cat(escaped(path, 4096), ": expected a regular file, found a device or pipe")};
    // A file system without locks is no reason to refuse.
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return busy(path);
    // The holder of the lock may have renamed the file between our open and our lock: then it is not ours to empty.
    struct stat named{};
    if (::stat(path.c_str(), &named) != 0 || named.st_ino != opened.st_ino || named.st_dev != opened.st_dev)
      return busy(path);
    return file;
  }

  static Error busy(const std::string& path) {
    return Error{ErrorCode::kIo, cat(escaped(path, 4096), ": another process is writing this file")};
  }
};

}  // namespace

FileSystem& FileSystem::real() {
  static RealFileSystem instance;
  return instance;
}

}  // namespace ds4
