#include "tokenizer/bpe.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <functional>
#include <map>
#include <optional>
#include <string>

#include "base/text.h"

namespace ds4 {
namespace {

using Ids = std::vector<TokenId>;

/// A table in which token ids are indexes of strings, so that results are what joining gives.
struct Merges {
  std::vector<std::string> tokens;
  std::map<std::pair<TokenId, TokenId>, MergeRule> rules;

  static Merges of_letters(int letters) {
    Merges out;
    for (int i = 0; i < letters; ++i) out.tokens.push_back(std::string(1, static_cast<char>('a' + i)));
    return out;
  }
  TokenId id_of(const std::string& text) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] == text) return static_cast<TokenId>(i);
    }
    tokens.push_back(text);
    return static_cast<TokenId>(tokens.size() - 1);
  }
  void add(TokenId left, TokenId right) {
    const auto rank = static_cast<std::uint32_t>(rules.size());
    const TokenId result = id_of(tokens[left] + tokens[right]);
    rules.emplace(std::pair(left, right), MergeRule{rank, result});
  }
  MergeTable table() const {
    MergeTable out(rules.size());
    for (const auto& [pair, rule] : rules) EXPECT_TRUE(out.add(pair.first, pair.second, rule));
    return out;
  }
};

/// The definition, word for word.
Ids by_definition(const Merges& merges, Ids symbols) {
  while (true) {
    std::optional<std::size_t> best;
    std::uint32_t best_rank = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto rule = merges.rules.find({symbols[i], symbols[i + 1]});
      if (rule == merges.rules.end() || (best && rule->second.rank >= best_rank)) continue;
      best = i;
      best_rank = rule->second.rank;
    }
    if (!best) return symbols;
    symbols[*best] = merges.rules.at({symbols[*best], symbols[*best + 1]}).result;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(*best) + 1);
  }
}

Ids encode(const MergeTable& table, const Ids& symbols) {
  Ids out;
  PieceEncoder(table).encode(symbols, out);
  return out;
}

TEST(PieceEncoder, AgreesWithTheDefinitionOnRandomVocabularies) {
  EXPECT_TRUE(rc::check([] {
    const int letters = *rc::gen::inRange(1, 5);
    Merges merges = Merges::of_letters(letters);
    const int count = *rc::gen::inRange(0, 60);
    for (int i = 0; i < count; ++i) {
      const auto any = rc::gen::inRange<TokenId>(0, static_cast<TokenId>(merges.tokens.size()));
      const TokenId left = *any, right = *any;
      if (merges.tokens[left].size() + merges.tokens[right].size() > 24) continue;
      if (merges.rules.count({left, right}) == 0) merges.add(left, right);
    }
    const MergeTable table = merges.table();
    PieceEncoder encoder(table);  // one for all pieces: nothing may leak from one to the next
    for (int piece = 0; piece < 4; ++piece) {
      const auto size = *rc::gen::inRange<std::size_t>(0, 200);
      const Ids symbols = *rc::gen::container<Ids>(size, rc::gen::inRange<TokenId>(0, letters));
      Ids out;
      encoder.encode(symbols, out);
      RC_ASSERT(out == by_definition(merges, symbols));
    }
  }));
}

TEST(PieceEncoder, LowestRankThenLeftmost) {
  Merges merges = Merges::of_letters(3);
  merges.add(1, 2);  // bc before ab
  merges.add(0, 1);
  merges.add(0, 0);
  const MergeTable table = merges.table();
  EXPECT_EQ(encode(table, {0, 1, 2}), (Ids{0, merges.id_of("bc")}));
  EXPECT_EQ(encode(table, {0, 0, 0}), (Ids{merges.id_of("aa"), 0}));
  EXPECT_EQ(encode(table, {}), Ids{});
  EXPECT_EQ(encode(table, {2}), Ids{2});
}

/// A quarter of a million symbols: anything quadratic would need 10^10 steps.
TEST(PieceEncoder, WorkIsLinearInThePiece) {
  Merges merges = Merges::of_letters(2);
  for (std::string text = "a"; text.size() <= 64; text += text) {  // a, aa, aaaa: every level merges everything again
    merges.add(merges.id_of(text), merges.id_of(text));
  }
  merges.add(0, 1);
  for (std::string text = "ab"; text.size() <= 40; text += "b")
    merges.add(merges.id_of(text), 1);  // a chain to the right
  for (std::string text = "b"; text.size() <= 40; text = cat("b", text))
    merges.add(1, merges.id_of(text));  // and to the left
  const MergeTable table = merges.table();
  const std::size_t count = 1 << 18;
  std::uint32_t random = 1;
  const std::vector<std::function<TokenId(std::size_t)>> shapes = {
      [](std::size_t) { return 0; },
      [](std::size_t) { return 1; },
      [](std::size_t i) { return i % 2 == 0 ? 0 : 1; },
      [](std::size_t i) { return i % 41 == 0 ? 0 : 1; },
      [](std::size_t i) { return i % 41 == 40 ? 0 : 1; },
      [&](std::size_t) { return static_cast<TokenId>((random = random * 1103515245 + 12345) >> 16 & 1); }};
  for (const auto& shape : shapes) {
    Ids symbols(count);
    for (std::size_t i = 0; i < count; ++i) symbols[i] = shape(i);
    Ids out;
    PieceEncoder encoder(table);
    encoder.encode(symbols, out);
    EXPECT_LT(encoder.work(), 6 * count);
    std::size_t letters = 0;
    for (const TokenId id : out) letters += merges.tokens[id].size();
    EXPECT_EQ(letters, count);
  }
}

TEST(MergeTable, FindsWhatWasAdded) {
  MergeTable table(1000);
  for (TokenId i = 0; i < 1000; ++i) ASSERT_TRUE(table.add(i % 10, i, {static_cast<std::uint32_t>(i), i + 1}));
  EXPECT_FALSE(table.add(3, 13, {0, 0}));
  for (TokenId i = 0; i < 1000; ++i) {
    ASSERT_NE(table.find(i % 10, i), nullptr);
    EXPECT_EQ(table.find(i % 10, i)->result, i + 1);
    EXPECT_EQ(table.find(i % 10 + 1, i), nullptr);
  }
  EXPECT_EQ(MergeTable(0).find(0, 0), nullptr);
}

}  // namespace
}  // namespace ds4
