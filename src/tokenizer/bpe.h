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
  /// Room for `count` merges of ranks below `count`; add() never grows the table.
  explicit MergeTable(std::size_t count);
  /// False when the pair is there already. Ranks must be distinct.
  bool add(TokenId left, TokenId right, MergeRule rule);
  /// The rule of a pair, or nullptr.
  const MergeRule* find(TokenId left, TokenId right) const;
  std::size_t rank_count() const { return rank_count_; }

 private:
  struct Slot {
    std::uint64_t pair = kFree;
    MergeRule rule{};
  };
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};  // ids are not negative, so no pair looks like this
  std::size_t slot_of(std::uint64_t pair) const;
  std::vector<Slot> slots_;
  std::size_t rank_count_;
  int shift_;
};

/// Words are short: their lowest rank is found by looking at all pairs. Long pieces (a run of a million spaces, a text
/// without a single cut) keep the positions of all pairs in one bucket for each rank, and a heap of the ranks that have
/// one: n symbols need at most 3n lookups and O(n log n) time, whatever the text is.
///
/// A bucket is in order without sorting. Every occurrence of a token comes of the same merges, since the merges inside
/// its text do not depend on what is around it; they run from left to right, so the occurrences of a pair appear from
/// left to right too. This needs tokens to be distinct texts, which Vocabulary ensures.
class PieceEncoder {
 public:
  explicit PieceEncoder(const MergeTable& merges) : merges_(merges) {}
  /// Appends the tokens of the piece to `out`; `symbols` are the tokens of its single bytes.
  void encode(std::span<const TokenId> symbols, std::vector<TokenId>& out);
  /// Table lookups plus positions taken from buckets so far: the measure of work that tests bound.
  std::uint64_t work() const { return work_; }

 private:
  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  struct Symbol {
    TokenId id;
    std::uint32_t previous;
    std::uint32_t next;
    MergeRule rule;  // of the pair (this, next); rank kNone when there is none
  };
  struct Bucket {
    std::vector<std::uint32_t> positions;  // of pairs of one rank; those before `taken` are done
    std::size_t taken = 0;
  };
  MergeRule rule_of(TokenId left, TokenId right);
  void encode_short(std::span<const TokenId> symbols, std::vector<TokenId>& out);
  void encode_long(std::span<const TokenId> symbols, std::vector<TokenId>& out);
  /// Looks up the pair that starts at `at` and puts it into the bucket of its rank.
  void enter(std::uint32_t at);
  void merge(std::uint32_t at);
  void open_bucket(std::uint32_t rank);
  void close_lowest_bucket();

  const MergeTable& merges_;
  std::vector<Symbol> symbols_;           // of the piece; a linked list in long ones
  std::vector<std::uint32_t> bucket_of_;  // by rank; kNone: none is open
  std::vector<Bucket> buckets_;
  std::vector<std::uint32_t> free_buckets_;
  std::vector<std::uint32_t> open_ranks_;  // a heap, the lowest first
  std::uint64_t work_ = 0;
};

}  // namespace ds4
