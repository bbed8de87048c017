#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace ds4 {

namespace {

// Up to here looking at all pairs is faster than keeping buckets.
constexpr std::size_t kShortPiece = 32;

// Positions have 32 bits. Longer pieces (gigabytes without a single cut) are encoded in parts of this length.
constexpr std::size_t kMaxPart = std::size_t{1} << 31;

std::uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

MergeTable::MergeTable(std::size_t count) : rank_count_(count) {
  const std::size_t slots = std::bit_ceil(std::max<std::size_t>(count, 1) * 2);
  slots_.resize(slots);
  shift_ = 64 - std::countr_zero(slots);
}

std::size_t MergeTable::slot_of(std::uint64_t pair) const {
  pair ^= pair >> 29;
  return static_cast<std::size_t>(pair * 0x9E3779B97F4A7C15u >> shift_);
}

bool MergeTable::add(TokenId left, TokenId right, MergeRule rule) {
  const std::uint64_t pair = pair_key(left, right);
  std::size_t at = slot_of(pair);
  while (slots_[at].pair != kFree) {
    if (slots_[at].pair == pair) return false;
    at = (at + 1) & (slots_.size() - 1);
  }
  slots_[at] = {pair, rule};
  return true;
}

const MergeRule* MergeTable::find(TokenId left, TokenId right) const {
  const std::uint64_t pair = pair_key(left, right);
  std::size_t at = slot_of(pair);
  while (slots_[at].pair != pair) {
    if (slots_[at].pair == kFree) return nullptr;
    at = (at + 1) & (slots_.size() - 1);
  }
  return &slots_[at].rule;
}

MergeRule PieceEncoder::rule_of(TokenId left, TokenId right) {
  ++work_;
  const MergeRule* rule = merges_.find(left, right);
  return rule != nullptr ? *rule : MergeRule{kNone, -1};
}

void PieceEncoder::encode_short(std::span<const TokenId> symbols, std::vector<TokenId>& out) {
  symbols_.resize(symbols.size());
  const auto look_up = [&](std::size_t at) {
    const bool last = at + 1 == symbols_.size();
    symbols_[at].rule = last ? MergeRule{kNone, -1} : rule_of(symbols_[at].id, symbols_[at + 1].id);
  };
  for (std::size_t at = 0; at < symbols.size(); ++at) symbols_[at].id = symbols[at];
  for (std::size_t at = 0; at < symbols.size(); ++at) look_up(at);
  while (true) {
    const auto lowest = std::min_element(symbols_.begin(), symbols_.end(),
                                         [](const Symbol& a, const Symbol& b) { return a.rule.rank < b.rule.rank; });
    if (lowest->rule.rank == kNone) break;
    const auto at = static_cast<std::size_t>(lowest - symbols_.begin());
    lowest->id = lowest->rule.result;
    symbols_.erase(lowest + 1);
    look_up(at);
    if (at > 0) look_up(at - 1);
  }
  for (const Symbol& symbol : symbols_) out.push_back(symbol.id);
}

void PieceEncoder::open_bucket(std::uint32_t rank) {
  if (free_buckets_.empty()) {
    free_buckets_.push_back(static_cast<std::uint32_t>(buckets_.size()));
    buckets_.emplace_back();
  }
  bucket_of_[rank] = free_buckets_.back();
  free_buckets_.pop_back();
  open_ranks_.push_back(rank);
  std::push_heap(open_ranks_.begin(), open_ranks_.end(), std::greater<>());
}

void PieceEncoder::close_lowest_bucket() {
  const std::uint32_t rank = open_ranks_.front();
  std::pop_heap(open_ranks_.begin(), open_ranks_.end(), std::greater<>());
  open_ranks_.pop_back();
  Bucket& bucket = buckets_[bucket_of_[rank]];
  bucket.positions.clear();
  bucket.taken = 0;
  free_buckets_.push_back(bucket_of_[rank]);
  bucket_of_[rank] = kNone;
}

void PieceEncoder::enter(std::uint32_t at) {
  Symbol& symbol = symbols_[at];
  symbol.rule = symbol.next == kNone ? MergeRule{kNone, -1} : rule_of(symbol.id, symbols_[symbol.next].id);
  const std::uint32_t rank = symbol.rule.rank;
  if (rank == kNone) return;
  if (bucket_of_[rank] == kNone) open_bucket(rank);
  buckets_[bucket_of_[rank]].positions.push_back(at);
}

void PieceEncoder::merge(std::uint32_t at) {
  Symbol& left = symbols_[at];
  Symbol& right = symbols_[left.next];
  left.id = left.rule.result;
  right.rule.rank = kNone;  // what buckets still hold of it is void
  left.next = right.next;
  if (left.next != kNone) symbols_[left.next].previous = at;
  if (left.previous != kNone) enter(left.previous);
  enter(at);
}

void PieceEncoder::encode_long(std::span<const TokenId> symbols, std::vector<TokenId>& out) {
  const auto count = static_cast<std::uint32_t>(symbols.size());
  if (bucket_of_.empty()) bucket_of_.assign(merges_.rank_count(), kNone);
  symbols_.resize(count);
  for (std::uint32_t at = 0; at < count; ++at) {
    symbols_[at] = {symbols[at], at == 0 ? kNone : at - 1, at + 1 == count ? kNone : at + 1, {kNone, -1}};
  }
  for (std::uint32_t at = 0; at < count; ++at) enter(at);
  while (!open_ranks_.empty()) {
    const std::uint32_t rank = open_ranks_.front();
    Bucket& bucket = buckets_[bucket_of_[rank]];
    if (bucket.taken == bucket.positions.size()) {
      close_lowest_bucket();
      continue;
    }
    ++work_;
    const std::uint32_t at = bucket.positions[bucket.taken++];
    // A rank names one pair and the symbols of a position only grow, so an equal rank means that the pair is still
    // there.
    if (symbols_[at].rule.rank == rank) merge(at);
  }
  for (std::uint32_t at = 0; at != kNone; at = symbols_[at].next) out.push_back(symbols_[at].id);
}

void PieceEncoder::encode(std::span<const TokenId> symbols, std::vector<TokenId>& out) {
  if (symbols.empty()) return;
  if (symbols.size() <= kShortPiece) return encode_short(symbols, out);
  while (!symbols.empty()) {
    const std::size_t part = std::min(symbols.size(), kMaxPart);
    encode_long(symbols.first(part), out);
    symbols = symbols.subspan(part);
  }
}

}  // namespace ds4
