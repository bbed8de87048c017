// For tests: a directory in memory that several Folders (processes) share, with a page cache that a power cut loses,
// and faults at any call. Any thread.
//
//   SimulatedDisk disk;
//   disk.fail_at(17, SimulatedDisk::Fault::kFull);   // the 17th call from now
//   auto store = Store::open(disk.folder(), options);
//   disk.cut_power(seed);                            // what was not synced may be there, cut, zeros or gone
#pragma once

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/text.h"
#include "kvstore/folder.h"

namespace ds4::kvstore {

class SimulatedDisk {
 public:
  enum class Fault {
    kError,  // the call fails and does nothing
    kFull,   // a write writes half and fails; other calls fail
    kShort,  // a read gives half of the bytes; other calls fail
    kDeath,  // the call is half done, and no later call of this process does anything
  };

  /// The `nth` call from now on (1 is the next), and with `all` every one after it.
  void fail_at(int nth, Fault fault, bool all = false) {
    const std::lock_guard lock(mutex_);
    fault_ = {calls_ + nth, fault, all};
  }
  void heal() {
    const std::lock_guard lock(mutex_);
    fault_.reset();
    dead_ = false;
  }
  int calls() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }
  std::uint64_t bytes() const {
    const std::lock_guard lock(mutex_);
    std::uint64_t all = 0;
    for (const auto& [name, file] : names_) all += file->now.size();
    return all;
  }
  std::uint64_t most_bytes() const {
    const std::lock_guard lock(mutex_);
    return most_bytes_;
  }
  std::vector<std::string> names() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> out;
    for (const auto& [name, file] : names_) out.push_back(name);
    return out;
  }
  /// For tests that damage a file.
  std::vector<std::byte>& content(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return names_.at(name)->now;
  }
  void set_modified(const std::string& name, double seconds) {
    const std::lock_guard lock(mutex_);
    names_.at(name)->modified = seconds;
  }

  /// Every process is gone and the machine comes back: files have what was synced or, by chance, more or less of what
  /// was not; names are as at the last sync, and by chance some of the changes since are there.
  void cut_power(std::uint64_t seed) {
    const std::lock_guard lock(mutex_);
    std::mt19937_64 random(seed);
    auto names = synced_names_;
    for (const auto& [name, file] : changes_) {
      if (random() % 2 == 0) continue;
      if (file == nullptr) names.erase(name);
      else names[name] = file;
    }
    for (auto& [name, file] : names) {
      if (!file->synced || *file->synced != file->now) {
        std::vector<std::byte> lost = file->now;
        // What was appended to a synced file may be lost, what was synced may not.
        const std::size_t kept = file->synced ? std::min(file->synced->size(), lost.size()) : 0;
        const std::size_t from = kept + random() % (lost.size() - kept + 1);
        if (random() % 2 == 0) lost.resize(from);
        else std::fill(lost.begin() + static_cast<std::ptrdiff_t>(from), lost.end(), std::byte{0});
        if (file->synced && random() % 2 == 0) lost = *file->synced;
        file->now = std::move(lost);
      }
      file->synced = file->now;
    }
    names_ = names;
    synced_names_ = std::move(names);
    changes_.clear();
    fault_.reset();
    dead_ = false;
  }

  std::unique_ptr<Folder> folder() { return std::make_unique<View>(*this); }

 private:
  struct Content {
    std::vector<std::byte> now;
    std::optional<std::vector<std::byte>> synced;
    double modified = 0;
  };
  struct Planned {
    int at = 0;
    Fault fault = Fault::kError;
    bool all = false;
  };
  struct SimulatedLock : Folder::Lock {
    SimulatedLock(SimulatedDisk& d, std::string n) : disk(d), name(std::move(n)) {}
    ~SimulatedLock() override {
      const std::lock_guard lock(disk.mutex_);
      disk.locks_.erase(name);
    }
    SimulatedDisk& disk;
    std::string name;
  };

  /// The fault of this call, if it has one.
  std::optional<Fault> next() {
    ++calls_;
    if (dead_) return Fault::kError;
    if (!fault_ || calls_ < fault_->at || (calls_ > fault_->at && !fault_->all)) return std::nullopt;
    if (fault_->fault == Fault::kDeath) dead_ = true;
    return fault_->fault;
  }
  static Error broken(const std::string& what) {
    return Error{ErrorCode::kIo, cat(what, ": the simulated disk fails")};
  }
  void change(const std::string& name, const std::shared_ptr<Content>& file) {
    if (file == nullptr) names_.erase(name);
    else names_[name] = file;
    changes_.emplace_back(name, file);
    std::uint64_t all = 0;
    for (const auto& [each, content] : names_) all += content->now.size();
    most_bytes_ = std::max(most_bytes_, all);
  }

  class View final : public Folder {
   public:
    explicit View(SimulatedDisk& disk) : disk_(disk) {}
    const std::string& path() const override { return path_; }

    Result<std::vector<Entry>> list(const std::function<bool(std::string_view)>& wanted) override {
      const std::lock_guard lock(disk_.mutex_);
      if (disk_.next()) return broken("list");
      std::vector<Entry> out;
      for (const auto& [name, file] : disk_.names_) {
        if (wanted(name)) out.push_back({name, file->now.size(), file->modified});
      }
      return out;
    }
    using Folder::read;
    Result<std::optional<std::vector<std::byte>>> read(const std::string& name, std::uint64_t most,
                                                       std::uint64_t from) override {
      const std::lock_guard lock(disk_.mutex_);
      const auto fault = disk_.next();
      if (fault && *fault != Fault::kShort) return broken("read");
      const auto file = disk_.names_.find(name);
      if (file == disk_.names_.end()) return std::optional<std::vector<std::byte>>();
      std::vector<std::byte> bytes = file->second->now;
      bytes.erase(bytes.begin(),
                  bytes.begin() + static_cast<std::ptrdiff_t>(std::min<std::uint64_t>(from, bytes.size())));
      bytes.resize(std::min<std::uint64_t>(fault ? bytes.size() / 2 : bytes.size(), most));
      return std::optional(std::move(bytes));
    }
    Status write(const std::string& name, Pieces pieces) override {
      const std::lock_guard lock(disk_.mutex_);
      if (disk_.next()) return broken("create");
      if (disk_.names_.contains(name)) return broken("create: it exists");
      auto file = std::make_shared<Content>();
      file->modified = now();
      for (const auto& piece : pieces) file->now.insert(file->now.end(), piece.begin(), piece.end());
      const auto fault = disk_.next();
      if (fault) file->now.resize(*fault == Fault::kError ? 0 : file->now.size() / 2);
      disk_.change(name, file);
      if (fault) return broken("write");
      if (disk_.next()) return broken("sync");
      file->synced = file->now;
      return {};
    }
    Status append(const std::string& name, Pieces pieces) override {
      const std::lock_guard lock(disk_.mutex_);
      if (disk_.next()) return broken("open");
      const auto old = disk_.names_.find(name);
      auto file = old == disk_.names_.end() ? std::make_shared<Content>() : old->second;
      if (old == disk_.names_.end()) disk_.change(name, file);
      const std::size_t before = file->now.size();
      for (const auto& piece : pieces) file->now.insert(file->now.end(), piece.begin(), piece.end());
      file->modified = now();
      const auto fault = disk_.next();
      if (fault) file->now.resize(before + (*fault == Fault::kError ? 0 : (file->now.size() - before) / 2));
      if (fault) return broken("write");
      if (disk_.next()) return broken("sync");
      file->synced = file->now;
      return {};
    }
    Status rename(const std::string& from, const std::string& to) override {
      const std::lock_guard lock(disk_.mutex_);
      const auto fault = disk_.next();
      if (fault && *fault != Fault::kDeath) return broken("rename");
      const auto file = disk_.names_.find(from);
      if (file == disk_.names_.end()) return broken("rename: no such file");
      const auto content = file->second;
      disk_.change(from, nullptr);
      disk_.change(to, content);
      if (fault) return broken("rename");
      return {};
    }
    Status sync() override {
      const std::lock_guard lock(disk_.mutex_);
      if (disk_.next()) return broken("sync of the directory");
      disk_.synced_names_ = disk_.names_;
      disk_.changes_.clear();
      return {};
    }
    Status remove(const std::string& name) override {
      const std::lock_guard lock(disk_.mutex_);
      const auto fault = disk_.next();
      if (fault && *fault != Fault::kDeath) return broken("remove");
      if (disk_.names_.contains(name)) disk_.change(name, nullptr);
      return fault ? Status(broken("remove")) : Status();
    }
    Status touch(const std::string& name) override {
      const std::lock_guard lock(disk_.mutex_);
      if (disk_.next()) return broken("touch");
      if (const auto file = disk_.names_.find(name); file != disk_.names_.end()) file->second->modified = now();
      return {};
    }
    bool abandoned(const std::string& name) override {
      const std::lock_guard lock(disk_.mutex_);
      return disk_.names_.contains(name);
    }
    std::unique_ptr<Lock> try_lock(const std::string& name) override {
      const std::lock_guard lock(disk_.mutex_);
      if (!disk_.locks_.insert(name).second) return nullptr;
      return std::make_unique<SimulatedLock>(disk_, name);
    }

   private:
    static double now() {
      return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    }
    SimulatedDisk& disk_;
    std::string path_ = "simulated";
  };

  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Content>> names_, synced_names_;
  std::vector<std::pair<std::string, std::shared_ptr<Content>>>
      changes_;  // of names since the last sync; null: removed
  std::set<std::string> locks_;
  int calls_ = 0;
  std::optional<Planned> fault_;
  bool dead_ = false;
  std::uint64_t most_bytes_ = 0;
};

}  // namespace ds4::kvstore
