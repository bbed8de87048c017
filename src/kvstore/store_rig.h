// For tests of the store: states whose bytes follow from their tokens, saved, and held against what comes back.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <future>
#include <vector>

#include "kvstore/store.h"

namespace ds4::kvstore {

inline constexpr std::size_t kRows = 100, kPointBytes = 240;

/// What a model would compute: bytes that depend on the history alone.
inline std::vector<std::byte> bytes_of(const Key& key, std::size_t size, std::uint8_t salt) {
  std::vector<std::byte> out(size);
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<std::byte>(key[i % 32] + i / 32 + salt);
  return out;
}

using Tokens = std::vector<std::int32_t>;
/// `count` blocks of tokens that depend on `seed` from block `from` on.
inline Tokens history(std::size_t blocks, std::int32_t seed = 0, std::size_t from = 0) {
  Tokens out(blocks * kBlockTokens);
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<std::int32_t>(i * 31 % 977) + (i >= from * kBlockTokens ? 1000 * seed : 0);
  return out;
}

inline StoreOptions options(std::uint64_t budget = std::uint64_t{1} << 30) {
  StoreOptions out;
  out.budget = budget;
  out.identity.fill(7);
  out.label = "test";
  out.block_bytes = kRows;
  out.point_bytes = kPointBytes;
  return out;
}

inline void save(Store& store, const Tokens& tokens) {
  NewState state;
  Key key = store.identity();
  for (std::size_t at = 0; at < tokens.size(); at += kBlockTokens) {
    const auto part = std::span(tokens).subspan(at).first<kBlockTokens>();
    const Key before = key;
    key = block_key(before, part);
    if (store.knows_block(key)) {
      ++state.reused;
      continue;
    }
    NewState::NewBlock& block = state.blocks.emplace_back();
    block.key = key;
    block.before = before;
    block.position = at + kBlockTokens;
    std::ranges::copy(part, block.tokens.begin());
    block.sampled[0] = key[0];
    block.rows = bytes_of(key, kRows, 0);
  }
  if (store.knows_point(key)) return;
  state.key = key;
  state.position = tokens.size();
  state.point = bytes_of(key, kPointBytes, 1);
  store.save(std::move(state));
}

inline Result<LoadedState> load(Store& store, const Key& key) {
  std::promise<Result<LoadedState>> promise;
  store.load(key, [&](Result<LoadedState> state) { promise.set_value(std::move(state)); });
  return promise.get_future().get();
}

/// Loads the longest beginning of `tokens` and holds every byte against what was computed. How long it was.
inline std::size_t restore(Store& store, const Tokens& tokens) {
  while (true) {
    const Tree::Found found = store.longest(tokens);
    if (found.position == 0) return 0;
    const Result<LoadedState> state = load(store, found.key);
    if (!state.ok()) continue;  // what is broken is forgotten: this ends
    EXPECT_EQ(state->tokens.size(), found.position);
    EXPECT_TRUE(std::ranges::equal(state->tokens, std::span(tokens).first(found.position)));
    Key key = store.identity();
    for (std::size_t b = 0; b < state->blocks.size(); ++b) {
      key = block_key(key, std::span(tokens).subspan(b * kBlockTokens).first<kBlockTokens>());
      EXPECT_TRUE(std::ranges::equal(state->blocks[b].payload(), bytes_of(key, kRows, 0)));
      for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(state->sampled[b * kBlockTokens + i], (key[0] >> i & 1) != 0);
    }
    EXPECT_TRUE(std::ranges::equal(state->point.payload(), bytes_of(key, kPointBytes, 1)));
    return found.position;
  }
}

inline bool deep() { return std::getenv("DS4_DEEP") != nullptr; }

}  // namespace ds4::kvstore
