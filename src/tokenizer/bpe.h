// Byte-pair encoding of one piece: repeatedly merge the adjacent pair of lowest rank, the leftmost of equals, until no
// pair is in the table. MergeTable is immutable once filled and shared; PieceEncoder is the scratch of one caller.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace ds4 {

struct MergeRule {
  std::uint32_t rank;
  TokenId result;
};

/// (left, right) -> (rank, result). Open addressing with linear probing: one cache line for most lookups.
class MergeTable {
 public:
  /// Room for `count` merges; add() never grows the table.
  explicit MergeTable(std::size_t count);
  /// False when the pair is there already.
  bool add(TokenId left, TokenId right, MergeRule rule);
  /// The rule of a pair, or nullptr.
  const MergeRule* find(TokenId left, TokenId right) const;

 private:
  struct Slot {
    std::uint64_t pair = kFree;
    MergeRule rule{};
  };
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};  // ids are not negative, so no pair looks like this
  std::size_t slot_of(std::uint64_t pair) const;
  std::vector<Slot> slots_;
  int shift_;
};

/// Symbols of a piece form a linked list; a heap holds every pair that has a rule, and entries that a merge made stale
/// are dropped when they surface. n symbols cost at most 3n pushes, so the time is O(n log n) for any text.
class PieceEncoder {
 public:
  explicit PieceEncoder(const MergeTable& merges) : merges_(merges) {}
  /// Appends the tokens of the piece to `out`; `symbols` are the tokens of its single bytes.
  void encode(std::span<const TokenId> symbols, std::vector<TokenId>& out);
  /// Table lookups so far: the measure of work that tests bound.
  std::uint64_t lookups() const { return lookups_; }

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  struct Symbol {
    TokenId id;             // -1 once merged into its left neighbour
    std::uint32_t previous;
    std::uint32_t next;
    MergeRule rule;         // of the pair (this, next); rank kNone when there is none
  };
  void encode_part(std::span<const TokenId> symbols, std::vector<TokenId>& out);
  /// Looks up the pair that starts at `at`; its heap entry, or kNone in the rank bits when no rule has it.
  bool refresh(std::uint32_t at);
  void merge(std::uint32_t at);

  const MergeTable& merges_;
  std::vector<Symbol> symbols_;
  std::vector<std::uint64_t> heap_;  // rank in the high half, position in the low one: the order of merging
  std::uint64_t lookups_ = 0;
};

}  // namespace ds4
