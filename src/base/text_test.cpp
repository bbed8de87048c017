#include "base/text.h"

#include <gtest/gtest.h>

namespace ds4 {
namespace {

TEST(Text, CatPrintsEveryKind) {
  EXPECT_EQ(cat("a", 'b', 3, -4L, 5u, true, 1.5, std::string("s"), std::string_view("v")), "ab3-45true1.5sv");
  EXPECT_EQ(cat(INT64_MIN, " ", UINT64_MAX), "-9223372036854775808 18446744073709551615");
}

TEST(Text, EscapedIsSafeForATerminal) {
  EXPECT_EQ(escaped("plain ü｜"), "plain ü｜");
  EXPECT_EQ(escaped(std::string_view("\x1b[2J\n\0", 6)), "\\x1b[2J\\x0a\\x00");
  EXPECT_EQ(escaped("\xff\xc2\x85"), "\\xff\\xc2\\x85");
  EXPECT_EQ(escaped("abcdef", 3), "abc...");
}

TEST(Text, PrintableUtf8) {
  EXPECT_TRUE(is_printable_utf8(""));
  EXPECT_TRUE(is_printable_utf8("a.b\"\\ü｜😀"));
  for (const std::string_view bad : {"\n", "a\x7f", "\xff", "\xc2\x85", "\xe2\x82", "\xed\xa0\x80"})
    EXPECT_FALSE(is_printable_utf8(bad));
  EXPECT_FALSE(is_printable_utf8(std::string_view("a\0b", 3)));
}

TEST(Text, HumanBytes) {
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(86714775900ull), "80.76 GiB");
}

}  // namespace
}  // namespace ds4
