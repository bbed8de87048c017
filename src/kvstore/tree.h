// What lies in the directory, in memory: blocks by key, each with the one before it, and the points that stand on them.
// A forest: the blocks of one identity are one tree. Also says what to remove when room is needed.
//
// Plain data without locks: the Store guards it.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "kvstore/file_format.h"

namespace ds4::kvstore {

struct KeyHash {
  std::size_t operator()(const Key& key) const {
    std::size_t out = 0;
    std::memcpy(&out, key.data(), sizeof out);
    return out;
  }
};

struct Block {
  Key identity{};
  Key before{};
  std::uint64_t position = 0;
  BlockTokens tokens{};
  SampledBits sampled{};
  std::uint64_t bytes = 0;  // of the file
  double modified = 0;
  std::string label;
};

struct Point {
  std::uint64_t position = 0;
  std::uint64_t bytes = 0;
  double used = 0;  // seconds since 1970
  unsigned uses = 0;
};

class Tree {
 public:
  void add_block(const Head& head, std::uint64_t bytes, double modified);
  void add_point(const Head& head, std::uint64_t bytes, double modified);
  void erase(Kind kind, const Key& key);

  const Block* block(const Key& key) const;
  /// The blocks that come after a block, or after an identity.
  std::span<const Key> after(const Key& key) const;
  Point* point(const Key& key);
  const Point* point(const Key& key) const { return const_cast<Tree*>(this)->point(key); }
  const std::unordered_map<Key, Block, KeyHash>& blocks() const { return blocks_; }
  const std::unordered_map<Key, Point, KeyHash>& points() const { return points_; }
  std::uint64_t bytes() const { return bytes_; }

  /// The longest beginning of `tokens` that ends in a point, with all its blocks.
  struct Found {
    std::uint64_t position = 0;  // 0: none
    Key key{};
  };
  Found longest(const Key& identity, std::span<const std::int32_t> tokens) const;
  /// The keys from the first block to `key`; empty when one is missing.
  std::vector<Key> chain(const Key& key) const;
  /// Depth first from the roots of `identity`: `visit(depth, block)` says whether to go on with what follows the block.
  void walk(const Key& identity, const std::function<bool(std::size_t, const Block&)>& visit) const;

  /// Files to remove, in order, so that at least `bytes` become free; fewer when no more may go. What leads to `keep`
  /// stays.
  std::vector<NamedFile> choose_victims(std::uint64_t bytes, std::span<const Key> keep, double now) const;

 private:
  std::unordered_map<Key, Block, KeyHash> blocks_;
  std::unordered_map<Key, std::vector<Key>, KeyHash>
      after_;  // the blocks that name this one (or an identity) as before
  std::unordered_map<Key, Point, KeyHash> points_;
  std::uint64_t bytes_ = 0;
};

}  // namespace ds4::kvstore
