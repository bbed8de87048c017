// The seam in front of the operating system for files that are written. Code that must survive a full disk or a failing
// one takes a FileSystem; the real one is FileSystem::real(), tests pass a FaultyFileSystem (faulty_file_system.h).
//
// A file that must appear whole or not at all is written under another name, synced, renamed, and its directory synced.
// A FileSystem may be used from any thread. An OutputFile belongs to its owner; write_at() calls to disjoint ranges may
// run in parallel. All errors are kIo and name the path and what the system said.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace ds4 {

/// An open file, closed on destruction.
class OutputFile {
 public:
  virtual ~OutputFile() = default;
  /// Writes all of `bytes` at `offset`, or fails; after a failure any part of them may have been written.
  virtual Status write_at(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
  /// Makes the file `size` bytes long; new bytes are a hole of zeros.
  virtual Status truncate(std::uint64_t size) = 0;
  /// Returns when everything written is on the disk.
  virtual Status sync() = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  static FileSystem& real();

  /// An empty file for writing; whatever it held is gone. Never a link, pipe or device, and never a file that another
  /// OutputFile, in any process, holds open.
  virtual Result<std::unique_ptr<OutputFile>> create(const std::string& path) = 0;
  /// The same for a file that exists, with what it holds.
  virtual Result<std::unique_ptr<OutputFile>> reopen(const std::string& path) = 0;
  /// Replaces `to` if it exists.
  virtual Status rename(const std::string& from, const std::string& to) = 0;
  virtual Status remove(const std::string& path) = 0;
  /// Makes a rename of `path` durable: syncs the directory that holds it.
  virtual Status sync_parent(const std::string& path) = 0;
};

}  // namespace ds4
