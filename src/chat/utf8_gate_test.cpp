#include "chat/utf8_gate.h"

#include <gtest/gtest.h>

#include <utility>

namespace ds4::chat {
namespace {

#define FFFD "\xEF\xBF\xBD"

TEST(Utf8Gate, ReplacesEachMaximalBeginningOnce) {
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"ab\u00e9\u4e2d\U0001F600", "ab\u00e9\u4e2d\U0001F600"},
      {"\x80", FFFD},
      {"\xC0\xAF", FFFD FFFD},
      {"\xE0\x80\x80", FFFD FFFD FFFD},
      {"\xED\xA0\x80", FFFD FFFD FFFD},
      {"\xF4\x90\x80\x80", FFFD FFFD FFFD FFFD},
      {"\xF5", FFFD},
      {"\xE4\xB8", FFFD},
      {"\xE4\xB8X", FFFD "X"},
      {"\xF0\x9F\x98\xE4\xB8\xAD", FFFD "\u4e2d"},
      {"\xF0\x9F\xF0\x9F\x98\x80", FFFD "\U0001F600"},
  };
  for (const auto& [bytes, expected] : cases) {
    EXPECT_EQ(valid_utf8(bytes), expected);
    Utf8Gate gate;  // byte by byte
    std::string out;
    for (const char c : bytes) gate.push({&c, 1}, out);
    gate.finish(out);
    EXPECT_EQ(out, expected);
  }
}

TEST(Utf8Gate, AnUnfinishedCharacterWaits) {
  Utf8Gate gate;
  std::string out;
  gate.push("a\xF0\x9F\x98", out);
  EXPECT_EQ(out, "a");
  gate.push("\x80", out);
  EXPECT_EQ(out, "a\U0001F600");
}

}  // namespace
}  // namespace ds4::chat
