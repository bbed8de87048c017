// The directory of the KV store: the seam between the store and the operating system, so that tests can fill the disk,
// break it, and cut the power (simulated_folder.h). Names are plain file names; nothing outside the directory is ever
// touched, no link followed, nothing but regular files read or listed.
//
// A Folder belongs to one Store and is used by one thread at a time. Errors are kIo and name the file and what the
// system said.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ds4::kvstore {

class Folder {
 public:
  struct Entry {
    std::string name;
    std::uint64_t bytes = 0;
    double modified = 0;  // seconds since 1970
  };
  struct Lock {
    virtual ~Lock() = default;
  };
  using Pieces = std::span<const std::span<const std::byte>>;

  virtual ~Folder() = default;
  enum class Use { kRead, kReadAndWrite };
  /// Made if missing (its parent must exist), only for this user. One of somebody else, one that others may write to,
  /// or one that this user may not use, is an Error.
  static Result<std::unique_ptr<Folder>> open(const std::string& path, Use use = Use::kReadAndWrite);

  virtual const std::string& path() const = 0;
  /// The regular files whose names are `wanted`.
  virtual Result<std::vector<Entry>> list(const std::function<bool(std::string_view)>& wanted) = 0;
  /// `most` bytes of a file from `from` on, fewer when it is shorter; nullopt when there is none.
  virtual Result<std::optional<std::vector<std::byte>>> read(const std::string& name, std::uint64_t most,
                                                             std::uint64_t from) = 0;
  Result<std::optional<std::vector<std::byte>>> read(const std::string& name, std::uint64_t most) {
    return read(name, most, 0);
  }
  /// A new file of these pieces, synced. After an error any part of it may be there.
  virtual Status write(const std::string& name, Pieces pieces) = 0;
  /// These pieces behind what the file has, synced; the file is made if missing. After an error any part of them may be
  /// there. Whoever appends holds a lock that all who append agree on.
  virtual Status append(const std::string& name, Pieces pieces) = 0;
  virtual Status rename(const std::string& from, const std::string& to) = 0;
  /// Makes renames and removals durable.
  virtual Status sync() = 0;
  /// A file that is gone already is no error.
  virtual Status remove(const std::string& name) = 0;
  /// Sets the time of modification to now.
  virtual Status touch(const std::string& name) = 0;
  /// True when nobody is writing this file: a writer holds a lock on it.
  virtual bool abandoned(const std::string& name) = 0;
  /// Held until destroyed; null when another process has it.
  virtual std::unique_ptr<Lock> try_lock(const std::string& name) = 0;
};

}  // namespace ds4::kvstore
