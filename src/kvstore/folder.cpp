#include "kvstore/folder.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "base/text.h"

namespace ds4::kvstore {

namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() { close(); }
  int get() const { return fd_; }
  int close() { return fd_ < 0 ? 0 : ::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

struct HeldLock : Folder::Lock {
  explicit HeldLock(Descriptor f) : file(std::move(f)) {}
  Descriptor file;
};

class RealFolder final : public Folder {
 public:
  RealFolder(std::string path, Descriptor directory) : path_(std::move(path)), directory_(std::move(directory)) {}

  const std::string& path() const override { return path_; }

  Result<std::vector<Entry>> list(const std::function<bool(std::string_view)>& wanted) override {
    const int copy = ::openat(directory_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR* stream = copy < 0 ? nullptr : ::fdopendir(copy);
    if (stream == nullptr) {
      const int error = errno;
      if (copy >= 0) ::close(copy);
      return failure("", "list", error);
    }
    std::vector<Entry> out;
    errno = 0;
    while (const dirent* entry = ::readdir(stream)) {
      if (entry->d_type != DT_REG && entry->d_type != DT_UNKNOWN) continue;
      if (!wanted(entry->d_name)) continue;
      struct stat found{};
      // Gone in between: another process removed it.
      if (::fstatat(directory_.get(), entry->d_name, &found, AT_SYMLINK_NOFOLLOW) != 0) continue;
      if (!S_ISREG(found.st_mode)) continue;
      out.push_back({entry->d_name, static_cast<std::uint64_t>(found.st_size),
                     static_cast<double>(found.st_mtim.tv_sec) + 1e-9 * static_cast<double>(found.st_mtim.tv_nsec)});
      errno = 0;
    }
    const int error = errno;
    ::closedir(stream);
    if (error != 0) return failure("", "list", error);
    return out;
  }

  Result<std::optional<std::vector<std::byte>>> read(const std::string& name, std::uint64_t most) override {
    const Descriptor file(::openat(directory_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (file.get() < 0) {
      if (errno == ENOENT) return std::optional<std::vector<std::byte>>();
      return failure(name, "open", errno);
    }
    struct stat found{};
    if (::fstat(file.get(), &found) != 0) return failure(name, "stat", errno);
    if (!S_ISREG(found.st_mode)) return failure(name, "read", EINVAL);
    std::vector<std::byte> bytes(std::min(most, static_cast<std::uint64_t>(found.st_size)));
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t got = ::read(file.get(), bytes.data() + done, bytes.size() - done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return failure(name, "read", errno);
      if (got == 0) break;
      done += static_cast<std::size_t>(got);
    }
    bytes.resize(done);
    return std::optional(std::move(bytes));
  }

  Status write(const std::string& name, Pieces pieces) override {
    Descriptor file(
        ::openat(directory_.get(), name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.get() < 0) return failure(name, "create", errno);
    static_cast<void>(::flock(file.get(), LOCK_EX | LOCK_NB));  // see abandoned(); nobody else knows this name yet
    for (std::span<const std::byte> piece : pieces) {
      while (!piece.empty()) {
        const ssize_t written = ::write(file.get(), piece.data(), piece.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return failure(name, "write", written < 0 ? errno : ENOSPC);
        piece = piece.subspan(static_cast<std::size_t>(written));
      }
    }
    if (::fsync(file.get()) != 0) return failure(name, "sync", errno);
    if (file.close() != 0 && errno != EINTR) return failure(name, "close", errno);
    return {};
  }

  Status rename(const std::string& from, const std::string& to) override {
    if (::renameat(directory_.get(), from.c_str(), directory_.get(), to.c_str()) != 0)
      return failure(from, cat("rename to ", to), errno);
    return {};
  }

  Status sync() override {
    // Some network file systems cannot sync a directory and say EINVAL; their renames are durable by themselves.
    if (::fsync(directory_.get()) != 0 && errno != EINVAL) return failure("", "sync", errno);
    return {};
  }

  Status remove(const std::string& name) override {
    if (::unlinkat(directory_.get(), name.c_str(), 0) != 0 && errno != ENOENT) return failure(name, "remove", errno);
    return {};
  }

  Status touch(const std::string& name) override {
    if (::utimensat(directory_.get(), name.c_str(), nullptr, AT_SYMLINK_NOFOLLOW) != 0)
      return failure(name, "touch", errno);
    return {};
  }

  bool abandoned(const std::string& name) override {
    const Descriptor file(::openat(directory_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    return file.get() >= 0 && ::flock(file.get(), LOCK_EX | LOCK_NB) == 0;
  }

  std::unique_ptr<Lock> try_lock(const std::string& name) override {
    Descriptor file(
        ::openat(directory_.get(), name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
    if (file.get() < 0 || ::flock(file.get(), LOCK_EX | LOCK_NB) != 0) return nullptr;
    return std::make_unique<HeldLock>(std::move(file));
  }

 private:
  Error failure(const std::string& name, std::string_view what, int error) const {
    return Error{ErrorCode::kIo, cat(escaped(path_, 4096), name.empty() ? "" : "/", escaped(name, 4096), ": cannot ",
                                     what, ": ", std::generic_category().message(error))};
  }

  const std::string path_;
  const Descriptor directory_;
};

}  // namespace

Result<std::unique_ptr<Folder>> Folder::open(const std::string& path) {
  const auto refuse = [&](std::string_view what, ErrorCode code = ErrorCode::kIo) {
    return Error{code, cat(escaped(path, 4096), ": ", what)};
  };
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return refuse(cat("cannot make this directory: ", std::generic_category().message(errno)));
  Descriptor directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) return refuse(cat("cannot open: ", std::generic_category().message(errno)));
  struct stat found{};
  if (::fstat(directory.get(), &found) != 0) return refuse(std::generic_category().message(errno));
  if (found.st_uid != ::geteuid()) return refuse("expected a directory of this user, found one of another");
  if ((found.st_mode & S_IWOTH) != 0) return refuse("expected a directory that only its owner writes to: chmod o-w");
  return std::unique_ptr<Folder>(std::make_unique<RealFolder>(path, std::move(directory)));
}

}  // namespace ds4::kvstore
