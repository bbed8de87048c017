// For tests: a FileSystem that passes every call on to another one, and fails the one it is told to. A failing write
// first writes half of its bytes, as a full disk does.
//
//   FaultyFileSystem disk(FileSystem::real());
//   disk.fail(FaultyFileSystem::Call::kWrite, 3, "No space left on device");   // the third write
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/file_system.h"
#include "base/text.h"

namespace ds4 {

class FaultyFileSystem : public FileSystem {
 public:
  enum class Call { kCreate, kWrite, kTruncate, kSync, kRename, kRemove, kSyncParent };

  explicit FaultyFileSystem(FileSystem& below) : below_(below) {}

  /// The `nth` such call from now on (1 is the next) fails with `reason`; the others pass.
  void fail(Call call, int nth, std::string reason) {
    const std::lock_guard lock(mutex_);
    faults_[call] = {counts_[call] + nth, std::move(reason)};
  }
  int count(Call call) const {
    const std::lock_guard lock(mutex_);
    const auto at = counts_.find(call);
    return at == counts_.end() ? 0 : at->second;
  }

  Result<std::unique_ptr<OutputFile>> create(const std::string& path) override {
    DS4_RETURN_IF_ERROR(check(Call::kCreate, path));
    DS4_ASSIGN_OR_RETURN(std::unique_ptr<OutputFile> file, below_.create(path));
    return std::unique_ptr<OutputFile>(std::make_unique<FaultyFile>(*this, path, std::move(file)));
  }
  Result<std::unique_ptr<OutputFile>> reopen(const std::string& path) override {
    DS4_RETURN_IF_ERROR(check(Call::kCreate, path));
    DS4_ASSIGN_OR_RETURN(std::unique_ptr<OutputFile> file, below_.reopen(path));
    return std::unique_ptr<OutputFile>(std::make_unique<FaultyFile>(*this, path, std::move(file)));
  }
  Status rename(const std::string& from, const std::string& to) override {
    DS4_RETURN_IF_ERROR(check(Call::kRename, from));
    return below_.rename(from, to);
  }
  Status remove(const std::string& path) override {
    DS4_RETURN_IF_ERROR(check(Call::kRemove, path));
    return below_.remove(path);
  }
  Status sync_parent(const std::string& path) override {
    DS4_RETURN_IF_ERROR(check(Call::kSyncParent, path));
    return below_.sync_parent(path);
  }

 private:
  class FaultyFile : public OutputFile {
   public:
    FaultyFile(FaultyFileSystem& disk, std::string path, std::unique_ptr<OutputFile> below)
        : disk_(disk), path_(std::move(path)), below_(std::move(below)) {}
    Status write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
      auto checked = disk_.check(Call::kWrite, path_);
      if (checked.ok()) return below_->write_at(offset, bytes);
      DS4_RETURN_IF_ERROR(below_->write_at(offset, bytes.first(bytes.size() / 2)));
      return checked;
    }
    Status truncate(std::uint64_t size) override {
      DS4_RETURN_IF_ERROR(disk_.check(Call::kTruncate, path_));
      return below_->truncate(size);
    }
    Status sync() override {
      DS4_RETURN_IF_ERROR(disk_.check(Call::kSync, path_));
      return below_->sync();
    }

   private:
    FaultyFileSystem& disk_;
    std::string path_;
    std::unique_ptr<OutputFile> below_;
  };

  struct Fault {
    int at = 0;
    std::string reason;
  };

  Status check(Call call, const std::string& path) {
    const std::lock_guard lock(mutex_);
    const int number = ++counts_[call];
    const auto fault = faults_.find(call);
    if (fault == faults_.end() || fault->second.at != number) return {};
    return Error{ErrorCode::kIo, cat(path, ": ", fault->second.reason)};
  }

  FileSystem& below_;
  mutable std::mutex mutex_;
  std::map<Call, int> counts_;
  std::map<Call, Fault> faults_;
};

}  // namespace ds4
