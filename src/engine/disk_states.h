// States of conversations on disk, in the words of the engine: timelines and tracks on this side, keys and bytes of
// kvstore/ on the other. DiskStates is shared by all sessions of a Worker; a StateSaver belongs to one session and
// decides which of its states are worth a place.
//
// open(), match(), keep(), flush() and stats() may be called by any thread, the rest by the one that drives the model.
// The disk itself is only ever touched by the store's own thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "engine/prompt_match.h"
#include "engine/timeline.h"
#include "engine/token_model.h"
#include "kvstore/store.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

struct ModelFile;

struct DiskOptions {
  std::string folder;
  std::uint64_t budget = std::uint64_t{4096} << 20;
  std::int64_t min_tokens = 128;  // shorter states are neither saved nor loaded
  std::int64_t interval = 8192;   // tokens between points of a long prompt or answer
  std::function<void(const std::string&)> warn;
  std::function<void(const kvstore::SaveReport&)> saved;
  /// Bytes that keep() was given, in this process or another: called by open(), and by the store's thread for what
  /// other processes keep. Without it nothing of the kind is kept.
  std::function<void(std::string_view)> record;
};

/// What rows depend on besides tokens, as docs/formats/kv-store.md lists it.
kvstore::Key state_identity(const ModelFile& file, KvFormat kv, const std::string& backend, PieceSizes sizes);

class DiskStates {
 public:
  /// `label` is for people.
  static Result<std::unique_ptr<DiskStates>> open(const kvstore::Key& identity, const std::string& label,
                                                  PieceSizes sizes, DiskOptions options);
  DiskStates(std::unique_ptr<kvstore::Store> store, DiskOptions options);

  /// The stored history whose bytes carry furthest into a prompt; empty when none does.
  Timeline match(const Tokenizer& tokenizer, std::span<const PromptPiece> pieces) const;
  /// The longest stored beginning of `tokens` that is worth loading.
  kvstore::Tree::Found longest(std::span<const TokenId> tokens) const;
  kvstore::Store& store() { return *store_; }
  const DiskOptions& options() const { return options_; }
  void keep(std::string record) { store_->keep_record(std::move(record)); }
  bool flush(double seconds) { return store_->flush(seconds); }

 private:
  std::unique_ptr<kvstore::Store> store_;
  const DiskOptions options_;
};

/// The states of one session on their way to the disk. A point can be taken from a track that is up to kRewindSlack
/// tokens further, so the steps of a prompt are cut only where they would pass one by.
class StateSaver {
 public:
  explicit StateSaver(DiskStates* disk) : disk_(disk) {}  // null: nothing is saved

  /// A prompt is about to be computed; `track` holds its first `reused` tokens. The answer will be part of the next
  /// prompt, or (it is thinking that is dropped) that one parts from this at its end.
  void plan(std::span<const TokenId> prompt, std::int64_t reused, std::int64_t turn_start, bool answer_returns);
  /// Where a step that starts behind `at` tokens and would end at `end` has to end.
  std::int64_t cut(std::int64_t at, std::int64_t end) const;
  /// `track` holds the tokens of `timeline`.
  void reached(const Timeline& timeline, const Track& track);
  /// No more will come.
  void finish(const Timeline& timeline, const Track& track);

 private:
  struct Mark {
    std::int64_t at = 0;
    bool at_once = false;  // saved when it is reached; otherwise only if nothing better comes
  };
  const kvstore::Key& key(const Timeline& timeline, std::int64_t at);
  std::optional<std::vector<std::byte>> take(const Timeline& timeline, const Track& track, std::int64_t at);
  void save(const Timeline& timeline, const Track& track, std::int64_t at, std::vector<std::byte> point);

  DiskStates* disk_;
  std::vector<kvstore::Key> keys_;  // of the blocks of the timeline
  std::vector<Mark> marks_;         // not reached yet, ascending
  std::int64_t prompt_ = 0;
  bool answer_returns_ = true;
  std::int64_t held_at_ = 0;  // the last point taken but not saved
  std::vector<std::byte> held_;
};

}  // namespace ds4
