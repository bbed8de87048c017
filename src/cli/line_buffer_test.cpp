#include "cli/line_buffer.h"

#include <gtest/gtest.h>

namespace ds4::cli {
namespace {

constexpr const char* kFamily = "\U0001F468\u200D\U0001F469\u200D\U0001F467";  // one picture of three people
constexpr const char* kAccent = "e\u0301";                                     // one letter of two code points

TEST(LineBuffer, MovesAndErasesByWhatAPersonSees) {
  LineBuffer buffer;
  buffer.insert(std::string("a") + kAccent + kFamily + "b");
  buffer.left();
  buffer.left();
  EXPECT_EQ(buffer.cursor(), 1 + std::string(kAccent).size());
  buffer.erase_right();
  EXPECT_EQ(buffer.text(), std::string("a") + kAccent + "b");
  buffer.erase_left();
  EXPECT_EQ(buffer.text(), "ab");
  EXPECT_EQ(buffer.cursor(), 1u);
}

TEST(LineBuffer, NothingHappensAtTheEnds) {
  LineBuffer buffer;
  buffer.left();
  buffer.right();
  buffer.erase_left();
  buffer.erase_right();
  buffer.erase_word();
  buffer.word_left();
  buffer.word_right();
  EXPECT_TRUE(buffer.empty());
  EXPECT_FALSE(buffer.up());
  EXPECT_FALSE(buffer.down());
}

TEST(LineBuffer, WordsAndLines) {
  LineBuffer buffer;
  buffer.set("one two  three\nfour");
  buffer.home();
  EXPECT_EQ(buffer.cursor(), 15u);
  buffer.left();
  buffer.word_left();
  EXPECT_EQ(buffer.cursor(), 9u);
  buffer.erase_word();
  EXPECT_EQ(buffer.text(), "one three\nfour");
  buffer.erase_to_end();
  EXPECT_EQ(buffer.text(), "one \nfour");
  buffer.erase_to_home();
  EXPECT_EQ(buffer.text(), "\nfour");
  buffer.word_right();
  EXPECT_EQ(buffer.cursor(), 5u);
}

TEST(LineBuffer, UpAndDownKeepTheColumn) {
  LineBuffer buffer;
  buffer.set("abcdef\n\xE6\x97\xA5\xE6\x9C\xAC\nxyz");  // the middle line is two wide characters
  EXPECT_TRUE(buffer.up());
  EXPECT_EQ(buffer.cursor(), 7u + 6u);  // column 3 lies inside the second: behind it
  EXPECT_TRUE(buffer.up());
  EXPECT_EQ(buffer.cursor(), 4u);
  EXPECT_FALSE(buffer.up());
  EXPECT_EQ(buffer.cursor(), 4u);
  EXPECT_TRUE(buffer.down());
  EXPECT_TRUE(buffer.down());
  EXPECT_FALSE(buffer.down());
}

TEST(LineBuffer, InvalidBytesAreCharactersOfTheirOwn) {
  LineBuffer buffer;
  buffer.insert("a\xFF\xC3");
  buffer.left();
  buffer.left();
  EXPECT_EQ(buffer.cursor(), 1u);
}

TEST(DisplayWidth, CountsColumns) {
  EXPECT_EQ(display_width("abc"), 3);
  EXPECT_EQ(display_width("\xE6\x97\xA5"), 2);
  EXPECT_EQ(display_width(kAccent), 1);
  EXPECT_EQ(display_width(kFamily), 2);
  EXPECT_EQ(display_width("\t"), 1);
}

}  // namespace
}  // namespace ds4::cli
