#include "kvstore/tree.h"

#include <algorithm>
#include <cmath>
#include <queue>

namespace ds4::kvstore {

namespace {

constexpr double kHalfLife = 6 * 3600;
/// Blocks that nothing stands on may belong to a state that another process has not finished.
constexpr double kUnfinished = 600;

/// Who needs what: counts that change as victims are chosen.
class Needs {
 public:
  Needs(const Tree& tree, std::span<const Key> keep) : tree_(tree) {
    for (const Key& key : keep) hold(key);
    // Points whose chain has a gap need nothing: they cannot be used.
    std::vector<Key> reached;
    for (const auto& [key, block] : tree.blocks()) {
      if (block.before == block.identity) reached.push_back(key);
    }
    while (!reached.empty()) {
      const Key key = reached.back();
      reached.pop_back();
      if (tree.point(key) != nullptr) hold(key);
      for (const Key& next : tree.after(key)) reached.push_back(next);
    }
  }
  bool needed(const Key& key) const { return users_.contains(key); }
  /// What goes when the point on `key` goes: its file and the blocks that only it needs.
  std::vector<NamedFile> release(const Key& key) {
    std::vector<NamedFile> files = {{Kind::kPoint, key}};
    Key at = key;
    while (--users_[at] == 0) {
      users_.erase(at);
      files.push_back({Kind::kBlock, at});
      const Block& block = *tree_.block(at);
      if (block.before == block.identity) break;
      at = block.before;
    }
    return files;
  }
  std::uint64_t bytes_of(const Key& key) const {
    std::uint64_t bytes = tree_.point(key)->bytes;
    Key at = key;
    while (users_.at(at) == 1) {
      const Block& block = *tree_.block(at);
      bytes += block.bytes;
      if (block.before == block.identity) break;
      at = block.before;
    }
    return bytes;
  }

 private:
  /// A block counts one for what stands on it and one for every needed block behind it.
  void hold(const Key& key) {
    Key at = key;
    while (users_[at]++ == 0) {
      const Block* block = tree_.block(at);
      if (block == nullptr || block->before == block->identity) break;
      at = block->before;
    }
  }
  const Tree& tree_;
  std::unordered_map<Key, int, KeyHash> users_;
};

}  // namespace

void Tree::add_block(const Head& head, std::uint64_t bytes, double modified) {
  erase(Kind::kBlock, head.key);
  blocks_[head.key] = {head.identity, head.before, head.position, head.tokens,
                       head.sampled,  bytes,       modified,      head.label};
  after_[head.before].push_back(head.key);
  bytes_ += bytes;
}

void Tree::add_point(const Head& head, std::uint64_t bytes, double modified) {
  erase(Kind::kPoint, head.key);
  points_[head.key] = {head.position, bytes, modified, 0};
  bytes_ += bytes;
}

void Tree::erase(Kind kind, const Key& key) {
  if (kind == Kind::kPoint) {
    const auto at = points_.find(key);
    if (at == points_.end()) return;
    bytes_ -= at->second.bytes;
    points_.erase(at);
    return;
  }
  const auto at = blocks_.find(key);
  if (at == blocks_.end()) return;
  bytes_ -= at->second.bytes;
  const auto siblings = after_.find(at->second.before);
  std::erase(siblings->second, key);
  if (siblings->second.empty()) after_.erase(siblings);
  blocks_.erase(at);
}

std::span<const Key> Tree::after(const Key& key) const {
  const auto at = after_.find(key);
  return at == after_.end() ? std::span<const Key>() : at->second;
}

const Block* Tree::block(const Key& key) const {
  const auto at = blocks_.find(key);
  return at == blocks_.end() ? nullptr : &at->second;
}

Point* Tree::point(const Key& key) {
  const auto at = points_.find(key);
  return at == points_.end() ? nullptr : &at->second;
}

Tree::Found Tree::longest(const Key& identity, std::span<const std::int32_t> tokens) const {
  Found found;
  Key key = identity;
  for (std::size_t at = 0; at + kBlockTokens <= tokens.size(); at += kBlockTokens) {
    const auto part = tokens.subspan(at).first<kBlockTokens>();
    key = block_key(key, part);
    const Block* next = block(key);
    if (next == nullptr || !std::ranges::equal(next->tokens, part)) break;
    const Point* here = point(key);
    if (here != nullptr && here->position == next->position) found = {next->position, key};
  }
  return found;
}

std::vector<Key> Tree::chain(const Key& key) const {
  const Block* last = block(key);
  if (last == nullptr) return {};
  std::vector<Key> keys(last->position / kBlockTokens);
  Key at = key;
  for (std::size_t i = keys.size(); i-- > 0;) {
    const Block* here = block(at);
    if (here == nullptr || here->position != (i + 1) * kBlockTokens || here->identity != last->identity) return {};
    keys[i] = at;
    at = here->before;
  }
  return at == last->identity ? keys : std::vector<Key>();
}

void Tree::walk(const Key& identity, const std::function<bool(std::size_t, const Block&)>& visit) const {
  struct Place {
    std::span<const Key> keys;
    std::size_t next;
  };
  std::vector<Place> path = {{after(identity), 0}};
  while (!path.empty()) {
    Place& here = path.back();
    if (here.next == here.keys.size()) {
      path.pop_back();
      continue;
    }
    const Key key = here.keys[here.next++];
    if (visit(path.size() - 1, *block(key))) path.push_back({after(key), 0});
  }
}

std::vector<NamedFile> Tree::choose_victims(std::uint64_t bytes, std::span<const Key> keep, double now) const {
  std::vector<NamedFile> victims;
  std::uint64_t freed = 0;
  const auto take = [&](const NamedFile& file) {
    victims.push_back(file);
    freed += file.kind == Kind::kBlock ? block(file.key)->bytes : point(file.key)->bytes;
  };
  Needs needs(*this, keep);
  std::vector<NamedFile> unfinished;
  for (const auto& [key, block] : blocks_) {
    if (needs.needed(key)) continue;
    if (std::abs(now - block.modified) < kUnfinished) unfinished.push_back({Kind::kBlock, key});
    else if (freed < bytes) take({Kind::kBlock, key});
  }
  for (const auto& [key, point] : points_) {
    if (!needs.needed(key) && freed < bytes) take({Kind::kPoint, key});
  }
  if (freed >= bytes) return victims;

  std::unordered_map<Key, bool, KeyHash> gone;
  const auto value = [&](const Key& key) {
    const Point& here = *point(key);
    std::uint64_t below = 0;
    for (Key at = block(key)->before; below == 0 && at != block(key)->identity; at = block(at)->before) {
      const Point* other = point(at);
      if (other != nullptr && !gone.contains(at)) below = other->position;
    }
    const double age = std::max(0.0, now - here.used);
    return (1.0 + here.uses) * std::exp2(-age / kHalfLife) * static_cast<double>(here.position - below) /
           static_cast<double>(std::max<std::uint64_t>(1, needs.bytes_of(key)));
  };
  using Candidate = std::pair<double, Key>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  for (const auto& [key, point] : points_) {
    if (!needs.needed(key) || std::ranges::find(keep, key) != keep.end()) continue;
    candidates.emplace(value(key), key);
  }
  while (freed < bytes && !candidates.empty()) {
    const auto [worth, key] = candidates.top();
    candidates.pop();
    // Those above one that is gone are worth more by now.
    if (const double today = value(key); today > worth) {
      candidates.emplace(today, key);
      continue;
    }
    gone[key] = true;
    for (const NamedFile& file : needs.release(key)) take(file);
  }
  for (const NamedFile& file : unfinished) {
    if (freed >= bytes) break;
    take(file);
  }
  return victims;
}

}  // namespace ds4::kvstore
