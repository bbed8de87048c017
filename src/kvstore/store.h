// The KV store: states of conversations in a directory, for this process and those to come
// (docs/formats/kv-store.md). Knows tokens and bytes, no model.
//
// Lookups answer from memory and may be called by any thread. Whatever touches the disk happens on the store's own
// thread `ds4-kv`: save() hands bytes over and returns, load() calls back. The disk is allowed to fail: what cannot be
// written is not stored, what does not verify is removed and not used, and each kind of trouble is one warning.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "kvstore/file_format.h"
#include "kvstore/folder.h"
#include "kvstore/record_log.h"
#include "kvstore/tree.h"

namespace ds4::kvstore {

/// What the store did with a state that it was given.
struct SaveReport {
  std::uint64_t position = 0;
  std::uint64_t blocks = 0;  // written; the others were there
  std::uint64_t bytes = 0;
  double seconds = 0;
};

struct StoreOptions {
  std::uint64_t budget = std::uint64_t{4096} << 20;
  Key identity{};
  std::string label;
  std::uint64_t block_bytes = 0;  // payloads of this identity
  std::uint64_t point_bytes = 0;
  /// Bytes that may wait for the disk; a state that would exceed them and is not alone is not stored.
  std::uint64_t max_queue = std::uint64_t{256} << 20;
  /// Records that are kept beside the states, outside of the budget; those that others kept are given to `record`.
  std::uint64_t record_budget = 0;
  /// After an error of the disk nothing is written for so long.
  double pause_seconds = 60;
  /// Called by the store's thread, or by open().
  std::function<void(const std::string&)> warn;
  std::function<void(const SaveReport&)> saved;
  std::function<void(std::string_view)> record;
};

struct StoreStats {
  std::uint64_t bytes = 0, blocks = 0, points = 0;  // in the directory, as far as known
  std::uint64_t queued_bytes = 0;
  std::uint64_t written_bytes = 0, written_blocks = 0, written_points = 0;
  std::uint64_t reused_blocks = 0;  // of stored states, that were there already
  std::uint64_t dropped = 0;        // states not stored: the disk failed, or the queue was full
  std::uint64_t restores = 0, restored_tokens = 0, restored_bytes = 0;
  std::uint64_t missed = 0;    // loads that failed
  std::uint64_t rejected = 0;  // files that did not verify
  std::uint64_t evicted = 0, evicted_bytes = 0;
  std::uint64_t records_found = 0, records_kept = 0;
};

/// A state on its way to the disk: the blocks that the store does not know, in order, and the point after the last one.
struct NewState {
  struct NewBlock {
    Key key{};
    Key before{};
    std::uint64_t position = 0;
    BlockTokens tokens{};
    SampledBits sampled{};
    std::vector<std::byte> rows;
  };
  std::vector<NewBlock> blocks;
  std::uint64_t reused = 0;  // blocks below that are known
  Key key{};                 // of the point
  std::uint64_t position = 0;
  std::vector<std::byte> point;
};

/// A state from the disk; every byte has been checked.
struct LoadedState {
  std::vector<std::int32_t> tokens;
  std::vector<bool> sampled;
  struct Piece {
    std::vector<std::byte> file;
    std::size_t payload_at = 0;
    std::span<const std::byte> payload() const { return std::span(file).subspan(payload_at); }
  };
  std::vector<Piece> blocks;
  Piece point;
};

class Store {
 public:
  /// Reads what is there and starts the thread.
  static Result<std::unique_ptr<Store>> open(std::unique_ptr<Folder> folder, StoreOptions options);
  /// What waits is dropped: flush() first.
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  const Key& identity() const { return options_.identity; }
  std::uint64_t block_bytes() const { return options_.block_bytes; }
  Tree::Found longest(std::span<const std::int32_t> tokens) const;
  /// As Tree::walk over the blocks of this identity. `visit` must not call the store.
  void walk(const std::function<bool(std::size_t, const Block&)>& visit) const;
  /// On the disk, or on its way there.
  bool knows_block(const Key& key) const;
  bool knows_point(const Key& key) const;

  /// A record (record_log.h) on its way to the disk. What cannot be kept is left out.
  void keep_record(std::string record);

  /// False when nothing can be stored now.
  bool writable() const;
  void save(NewState state);
  /// `done` is called by the store's thread, or, when the store ends first, by its destructor.
  void load(const Key& point, std::function<void(Result<LoadedState>)> done);
  /// This state made the model fail: it is removed.
  void forget(const Key& point, const std::string& why);
  /// Waits until what was handed over is on the disk; false when that takes longer than `seconds`.
  bool flush(double seconds);

  StoreStats stats() const;

 private:
  struct Load {
    Key key;
    std::function<void(Result<LoadedState>)> done;  // null: not to be loaded but removed
    std::string unusable;                           // then this is why
  };
  using Clock = std::chrono::steady_clock;

  Store(std::unique_ptr<Folder> folder, StoreOptions options);
  void run();
  void serve_loads();
  Result<LoadedState> read_state(const Key& key);
  Result<LoadedState::Piece> read_piece(Kind kind, const Key& key, std::uint64_t payload_bytes, Head& head);
  void reject(Kind kind, const Key& key, const std::string& why, bool remove);
  void write_state(NewState state);
  void write_records();
  Status write_file(Head head, std::span<const std::byte> payload);
  bool make_room(std::uint64_t bytes, std::span<const Key> keep);
  Status scan();
  void sweep_temporary(const std::vector<Folder::Entry>& entries);
  void add(const Folder::Entry& entry);
  void fail(const std::string& what);
  void warn(const std::string& text) const;

  const std::unique_ptr<Folder> folder_;
  const StoreOptions options_;

  // The store's thread only.
  std::uint64_t temporary_ = 0;              // number of the next temporary file
  std::unordered_set<std::string> ignored_;  // files that could not be read, while this process lives
  std::vector<Folder::Entry> other_;         // of another version
  bool said_too_large_ = false;
  RecordLog log_;
  std::uint64_t unscanned_ = 0;  // bytes written since the last scan

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable work_, idle_;
  Tree tree_;
  std::uint64_t other_bytes_ = 0;  // of files of other versions, temporary ones and those that cannot be read
  std::unordered_set<Key, KeyHash> coming_blocks_, coming_points_;
  std::deque<NewState> saves_;
  std::deque<Load> loads_;
  std::vector<std::string> records_;
  bool busy_ = false;
  bool stop_ = false;
  Clock::time_point paused_until_{};
  StoreStats stats_;

  std::thread thread_;
};

}  // namespace ds4::kvstore
