#include "engine/state_store.h"

#include <gtest/gtest.h>

#include "engine/fake_token_model.h"

namespace ds4 {
namespace {

using Ids = std::vector<TokenId>;

Ids ids(std::int64_t count, TokenId first = 0) {
  Ids out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = (first + static_cast<TokenId>(i * 7)) % 50;
  return out;
}

Ids joined(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class StateStoreTest : public ::testing::Test {
 protected:
  static FakeOptions options() {
    FakeOptions out;
    out.max_tracks = 20;
    return out;
  }
  void put(const Ids& tokens, bool end = false) {
    auto track = std::move(model.new_track()).value();
    Timeline history;
    for (std::size_t at = 0; at < tokens.size(); at += 32) {
      const auto chunk = std::span(tokens).subspan(at, std::min<std::size_t>(32, tokens.size() - at));
      const TrackStep step{track.get(), chunk, {}};
      ASSERT_TRUE(model.forward(std::span(&step, 1), {}).ok());
    }
    for (const TokenId token : tokens) history.append(token, false);
    store.put(history, std::move(track), end);
  }
  FakeTokenModel model{options()};
  StateStore store{model, 3};
};

TEST_F(StateStoreTest, TheLongestStartWinsAndGoesOnToServe) {
  put(ids(100));
  put(joined(ids(100), ids(50, 1)));
  const Ids target = joined(ids(100), joined(ids(50, 1), ids(10, 2)));
  EXPECT_EQ(store.reach(target), 150);
  const StateStore::Start start = store.take(target);
  EXPECT_EQ(start.history.size(), 150);
  EXPECT_EQ(start.track->length(), 150);
  EXPECT_EQ(store.size(), 2);
  EXPECT_EQ(store.reach(joined(ids(100), ids(50, 3))), 100);
  EXPECT_EQ(store.reach(ids(80)), 80);  // within the window that can be taken back
  EXPECT_EQ(store.reach(ids(20)), 0);
}

TEST_F(StateStoreTest, TheEndOfAnAnswerIsTakenByTheNextTurn) {
  put(ids(100), true);
  const Ids target = joined(ids(100), ids(10, 1));
  EXPECT_EQ(store.reach(target), 100);
  EXPECT_EQ(store.take(target).track->length(), 100);
  EXPECT_EQ(store.size(), 0);
  put(ids(100), true);
  EXPECT_EQ(store.reach(ids(90)), 90);  // a branch: the end may still be continued
  EXPECT_EQ(store.take(ids(90)).history.size(), 90);
  EXPECT_EQ(store.size(), 1);
}

TEST_F(StateStoreTest, WhatCostsLeastToLoseGoesFirst) {
  put(ids(100));
  put(joined(ids(100), ids(10, 1)));  // ten tokens behind the one before
  put(ids(200, 5));
  put(ids(150, 9));
  EXPECT_EQ(store.size(), 3);
  EXPECT_EQ(store.reach(joined(ids(100), ids(10, 1))), 100);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(store.reach(ids(100)), 100);  // nobody asks for the others
  put(ids(60, 11));
  EXPECT_EQ(store.reach(ids(100)), 100);
  EXPECT_TRUE(store.reach(ids(200, 5)) == 0 || store.reach(ids(150, 9)) == 0);
  while (store.evict()) {
  }
  EXPECT_EQ(model.tracks, 0);
}

TEST_F(StateStoreTest, AFreshTrackIsWorthAPoint) {
  FakeOptions few;
  few.max_tracks = 1;
  FakeTokenModel small(few);
  StateStore narrow(small, 3);
  auto first = narrow.fresh();
  ASSERT_TRUE(first.ok());
  Timeline history;
  history.append(1, false);
  const TokenId token = 1;
  const TrackStep step{first->get(), std::span(&token, 1), {}};
  ASSERT_TRUE(small.forward(std::span(&step, 1), {}).ok());
  narrow.put(history, std::move(first).value(), false);
  EXPECT_EQ(narrow.size(), 1);
  EXPECT_TRUE(narrow.fresh().ok());
  EXPECT_EQ(narrow.size(), 0);
}

}  // namespace
}  // namespace ds4
