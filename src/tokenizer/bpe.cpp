#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>

namespace ds4 {

namespace {

// Positions have 32 bits. Longer pieces (gigabytes without a single cut) are encoded in parts of this length.
constexpr std::size_t kMaxPart = std::size_t{1} << 31;

std::uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

MergeTable::MergeTable(std::size_t count) {
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

bool PieceEncoder::refresh(std::uint32_t at) {
  Symbol& symbol = symbols_[at];
  symbol.rule.rank = kNone;
  if (symbol.next == kNone) return false;
  ++lookups_;
  const MergeRule* rule = merges_.find(symbol.id, symbols_[symbol.next].id);
  if (rule == nullptr) return false;
  symbol.rule = *rule;
  heap_.push_back(static_cast<std::uint64_t>(rule->rank) << 32 | at);
  return true;
}

void PieceEncoder::merge(std::uint32_t at) {
  Symbol& left = symbols_[at];
  Symbol& right = symbols_[left.next];
  left.id = left.rule.result;
  right.id = -1;
  right.rule.rank = kNone;
  left.next = right.next;
  if (left.next != kNone) symbols_[left.next].previous = at;
  if (refresh(at)) std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  if (left.previous != kNone && refresh(left.previous)) std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
}

void PieceEncoder::encode_part(std::span<const TokenId> symbols, std::vector<TokenId>& out) {
  const auto count = static_cast<std::uint32_t>(symbols.size());
  symbols_.resize(count);
  heap_.clear();
  for (std::uint32_t at = 0; at < count; ++at) {
    symbols_[at] = {symbols[at], at == 0 ? kNone : at - 1, at + 1 == count ? kNone : at + 1, {kNone, -1}};
  }
  for (std::uint32_t at = 0; at < count; ++at) refresh(at);
  std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  while (!heap_.empty()) {
    const std::uint64_t top = heap_.front();
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    heap_.pop_back();
    const auto at = static_cast<std::uint32_t>(top);
    // A rank names one pair, and the symbols of a position only grow: an equal rank means that the entry is current.
    if (symbols_[at].rule.rank == top >> 32) merge(at);
  }
  for (std::uint32_t at = 0; at != kNone; at = symbols_[at].next) out.push_back(symbols_[at].id);
}

void PieceEncoder::encode(std::span<const TokenId> symbols, std::vector<TokenId>& out) {
  while (!symbols.empty()) {
    const std::size_t part = std::min(symbols.size(), kMaxPart);
    encode_part(symbols.first(part), out);
    symbols = symbols.subspan(part);
  }
}

}  // namespace ds4
