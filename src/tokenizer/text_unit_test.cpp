#include "tokenizer/text_unit.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace ds4 {
namespace {

TEST(TextUnit, InvalidBytesAreUnitsOfTheirOwn) {
  const std::vector<std::string> bad = {"\x80",
                                        "\xBF",
                                        "\xC0\x80",
                                        "\xC1\xBF",
                                        "\xC3",
                                        "\xC3(",
                                        "\xE0\x80\x80",
                                        "\xE0\x9F\xBF",
                                        "\xE4\xBD",
                                        "\xE4(\xA0",
                                        "\xED\xA0\x80",
                                        "\xED\xBF\xBF",
                                        "\xF0\x80\x80\x80",
                                        "\xF0\x8F\xBF\xBF",
                                        "\xF0\x9F\x98",
                                        "\xF0\x9F(\x80",
                                        "\xF4\x90\x80\x80",
                                        "\xF5\x80\x80\x80",
                                        "\xF8\x88\x80\x80\x80",
                                        "\xFE",
                                        "\xFF"};
  for (const std::string& text : bad) {
    const TextUnit unit = text_unit_at(text, 0);
    EXPECT_EQ(unit.length, 1) << testing::PrintToString(text);
    EXPECT_EQ(unit.properties, 0) << testing::PrintToString(text);
  }
}

TEST(TextUnit, Properties) {
  const auto at = [](std::string_view text) {
    const TextUnit unit = text_unit_at(text, 0);
    EXPECT_EQ(unit.length, text.size());
    return int{unit.properties};
  };
  EXPECT_EQ(at("a"), kLetter);
  EXPECT_EQ(at("\u0301"), kMark);
  EXPECT_EQ(at("½"), kNumber);
  EXPECT_EQ(at("｜"), kPunctuation);
  EXPECT_EQ(at(" "), kSpace);
  EXPECT_EQ(at("\n"), kSpace | kNewline);
  EXPECT_EQ(at("\u0085"), kSpace);
  EXPECT_EQ(at("\u3000"), kSpace);
  EXPECT_EQ(at("\u200B"), 0);
  EXPECT_EQ(at("\u4E00"), kLetter | kCjk);
  EXPECT_EQ(at("\u9FA6"), kLetter);
  EXPECT_EQ(at("\u3040"), kCjk);  // not assigned, but in the range of the rule
  EXPECT_EQ(at("\U0010FFFF"), 0);
  EXPECT_EQ(at(std::string_view("\0", 1)), 0);
}

}  // namespace
}  // namespace ds4
