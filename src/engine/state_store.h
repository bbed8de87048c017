// Resume points: KV states that are kept after they were computed, each with the tokens it stands for. Together they
// are a tree of token histories: points with a common beginning share its pages, and whatever prompt comes next starts
// from the point that carries it furthest, whoever left it.
//
// A history is whole and immutable, so a block of it has a name that says everything: the tokens up to its end. That is
// the key under which rows can be stored outside of memory; docs/decisions/scheduler.md says how it fits together.
//
// Owned by a Worker (shared by all its sessions) or by a single Session. histories() may be called by any thread,
// everything else by the thread that drives the model. Tracks must not outlive the model.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/result.h"
#include "engine/timeline.h"
#include "engine/token_model.h"

namespace ds4 {

class DiskStates;

class StateStore {
 public:
  /// At most `capacity` points; 0 keeps none.
  StateStore(TokenModel& model, int capacity, DiskStates* disk = nullptr)
      : model_(&model), capacity_(capacity), disk_(disk) {}

  /// Where sessions leave states for later processes; may be null.
  DiskStates* disk() const { return disk_; }

  /// A prompt has come: how many of its tokens the best point carries. Points on its way are worth more from now on.
  std::int64_t reach(std::span<const TokenId> target);

  /// The same without counting it.
  std::int64_t carries(std::span<const TokenId> target) const;

  struct Start {
    std::unique_ptr<Track> track;
    Timeline history;  // what the track holds
  };
  /// A track at reach(target), which is not 0. Points on the way to `target` go on to serve, unless it is the end of an
  /// answer that goes on, or there is no track for a copy.
  Start take(std::span<const TokenId> target);
  /// A fresh track; gives up points for it when there is none left.
  Result<std::unique_ptr<Track>> fresh();
  /// The same with a state from outside.
  Result<std::unique_ptr<Track>> restore(const SequencePieces& pieces);

  /// `end`: of an answer. The next turn will take it, where a point in the middle is copied.
  void put(const Timeline& history, std::unique_ptr<Track> track, bool end);
  /// The same with a copy of `track`, if there is one to be had.
  void put_copy(const Timeline& history, const Track& track);
  /// Drops the point that is worth the least; false when there is none.
  bool evict();
  /// Drops all of them.
  void clear();

  bool has(std::span<const TokenId> history) const;
  int size() const;
  /// The timelines of all points, as they are now.
  std::vector<std::shared_ptr<const Timeline>> histories() const;

 private:
  struct Point {
    std::shared_ptr<const Timeline> history;
    std::unique_ptr<Track> track;
    bool end = false;
    std::uint64_t used = 0;  // clock_ when it last lay on the way of a prompt
  };
  std::size_t best(std::span<const TokenId> target, std::int64_t& length) const;
  std::size_t worst(std::size_t except) const;
  double value(std::size_t point) const;
  void erase(std::size_t point);

  TokenModel* model_;
  int capacity_;
  DiskStates* disk_;
  std::uint64_t clock_ = 0;   // prompts so far
  mutable std::mutex mutex_;  // guards the shape of points_ against histories()
  std::vector<Point> points_;
};

/// How many tokens at the beginning of `a` and `b` agree.
std::int64_t common_prefix(std::span<const TokenId> a, std::span<const TokenId> b);

/// The largest length at most `wanted` that `track` can be brought to without computing.
std::int64_t reachable(const Track& track, std::int64_t wanted);

}  // namespace ds4
