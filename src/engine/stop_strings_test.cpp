#include "engine/stop_strings.h"

#include <gtest/gtest.h>

namespace ds4 {
namespace {

struct Shown {
  std::string text;
  std::string found;
};

Shown show(const std::vector<std::string>& strings, const std::string& text, std::size_t piece) {
  StopStrings stop(strings);
  Shown shown;
  for (std::size_t at = 0; at < text.size(); at += piece) {
    shown.text += stop.feed(std::string_view(text).substr(at, piece));
    // Nothing of a stop string is ever shown.
    for (const std::string& string : strings) EXPECT_EQ(shown.text.find(string), std::string::npos);
  }
  shown.text += stop.finish();
  if (stop.hit()) shown.found = stop.found();
  return shown;
}

TEST(StopStrings, TheTextBeforeTheFirstHitHoweverItIsCut) {
  struct Case {
    std::vector<std::string> strings;
    const char* text;
    const char* shown;
    const char* found;
  };
  const Case cases[] = {{{"END"}, "some text END more", "some text ", "END"},
                        {{"END"}, "no such thing EN", "no such thing EN", ""},
                        {{"aab"}, "aaaab", "aa", "aab"},
                        {{"abcd", "bc"}, "abcd", "a", "bc"},
                        {{"bc", "abc"}, "xabc", "x", "abc"},
                        {{"\n\n"}, "a\nb\n\nc", "a\nb", "\n\n"},
                        {{}, "anything", "anything", ""}};
  for (const Case& one : cases) {
    for (std::size_t piece : {1, 2, 3, 100}) {
      const Shown shown = show(one.strings, one.text, piece);
      EXPECT_EQ(shown.text, one.shown) << one.text << " by " << piece;
      EXPECT_EQ(shown.found, one.found) << one.text << " by " << piece;
    }
  }
}

TEST(StopStrings, WhatCannotBeAStopIsShownAtOnce) {
  StopStrings stop({"STOP"});
  EXPECT_EQ(stop.feed("go S"), "go ");
  EXPECT_EQ(stop.feed("T"), "");
  EXPECT_EQ(stop.feed("ay"), "STay");
}

}  // namespace
}  // namespace ds4
