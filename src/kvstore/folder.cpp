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

  using Folder::read;
  Result<std::optional<std::vector<std::byte>>> read(const std::string& name, std::uint64_t most,
                                                     std::uint64_t from) override {
    const Descriptor file(::openat(directory_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (file.get() < 0) {
      if (errno == ENOENT) return std::optional<std::vector<std::byte>>();
      return failure(name, "open", errno);
    }
    struct stat found{};
    if (::fstat(file.get(), &found) != 0) return failure(name, "stat", errno);
    if (!S_ISREG(found.st_mode)) return failure(name, "read", EINVAL);
    const auto size = static_cast<std::uint64_t>(found.st_size);
    std::vector<std::byte> bytes(std::min(most, size - std::min(from, size)));
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t got =
          ::pread(file.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(from + done));
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
    return write_all(std::move(file), name, pieces);
  }

  Status append(const std::string& name, Pieces pieces) override {
    Descriptor file(::openat(directory_.get(), name.c_str(),
                             O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
    if (file.get() < 0) return failure(name, "open", errno);
    struct stat found{};
    if (::fstat(file.get(), &found) != 0) return failure(name, "stat", errno);
    if (!S_ISREG(found.st_mode)) return failure(name, "append", EINVAL);
    return write_all(std::move(file), name, pieces);
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
  Status write_all(Descriptor file, const std::string& name, Pieces pieces) const {
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

  Error failure(const std::string& name, std::string_view what, int error) const {
    return Error{ErrorCode::kIo, cat(escaped(path_, 4096), name.empty() ? "" : "/", escaped(name, 4096), ": cannot ",
                                     what, ": ", std::generic_category().message(error))};
  }

  const std::string path_;
  const Descriptor directory_;
};

}  // namespace

Result<std::unique_ptr<Folder>> Folder::open(const std::string& path, Use use) {
  const auto refuse = [&](std::string_view expected, std::string_view found) {
    return Error{ErrorCode::kIo, cat(escaped(path, 4096), ": expected ", expected, ", found ", found)};
  };
  const auto said = [](int error) { return std::generic_category().message(error); };
  if (use == Use::kReadAndWrite && ::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return refuse("a directory, or one that can be made", said(errno));
  Descriptor directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() < 0) return refuse("a directory that can be read", said(errno));
  struct stat found{};
  if (::fstat(directory.get(), &found) != 0) return refuse("a directory that can be read", said(errno));
  if (found.st_uid != ::geteuid())
    return refuse(cat("a directory of this user (", ::geteuid(), ")"), cat("one of user ", found.st_uid));
  if ((found.st_mode & S_IWOTH) != 0) {
    constexpr const char* kOctal = "01234567";
    const std::string mode = {kOctal[found.st_mode >> 6 & 7], kOctal[found.st_mode >> 3 & 7],
                              kOctal[found.st_mode & 7]};
    return refuse("a directory that only its owner writes to", cat("mode ", mode, ": chmod o-w helps"));
  }
  const int access = use == Use::kRead ? R_OK | X_OK : R_OK | W_OK | X_OK;
  if (::faccessat(directory.get(), ".", access, AT_EACCESS) != 0)
    return refuse(use == Use::kRead ? "a directory that can be read" : "a directory that can be written to",
                  said(errno));
  return std::unique_ptr<Folder>(std::make_unique<RealFolder>(path, std::move(directory)));
}

}  // namespace ds4::kvstore
