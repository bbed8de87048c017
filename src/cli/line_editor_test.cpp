#include "cli/line_editor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <random>
#include <vector>

namespace ds4::cli {
namespace {

using Kind = Key::Kind;
using Outcome = LineEditor::Outcome;

/// Just enough of a terminal to see what the editor draws.
class Screen {
 public:
  explicit Screen(int width) : width_(width) {}

  void show(const std::string& bytes) {
    for (std::size_t at = 0; at < bytes.size();) {
      if (bytes[at] == '\r') {
        column_ = 0;
        ++at;
      } else if (bytes[at] == '\n') {
        ++row_;
        ++at;
      } else if (bytes[at] == '\x1b') {
        std::size_t end = at + 2;
        while (std::isdigit(static_cast<unsigned char>(bytes[end])) != 0) ++end;
        const int count = end > at + 2 ? std::stoi(bytes.substr(at + 2, end - at - 2)) : 1;
        switch (bytes[end]) {
          case 'A': row_ -= count; break;
          case 'B': row_ += count; break;
          case 'C': column_ += count; break;
          case 'J': clear_below(); break;
          default: ADD_FAILURE() << "unknown sequence " << bytes[end];
        }
        at = end + 1;
      } else {
        const std::size_t next = next_border(bytes, at);
        put(bytes.substr(at, next - at));
        at = next;
      }
      EXPECT_GE(row_, 0);
      EXPECT_LE(column_, width_) << "the picture is wider than the terminal";
    }
  }

  std::vector<std::string> rows() const {
    std::vector<std::string> out;
    for (const auto& cells : cells_) {
      std::string line;
      for (const auto& cell : cells) line += cell;
      while (line.ends_with(' ')) line.pop_back();
      out.push_back(line);
    }
    while (!out.empty() && out.back().empty()) out.pop_back();
    return out;
  }
  std::pair<int, int> cursor() const { return {row_, column_}; }

 private:
  void put(const std::string& cluster) {
    auto& cells = line(row_);
    const int width = display_width(cluster);
    if (static_cast<int>(cells.size()) < column_ + width) cells.resize(static_cast<std::size_t>(column_ + width), " ");
    cells[static_cast<std::size_t>(column_)] = cluster;
    if (width == 2) cells[static_cast<std::size_t>(column_ + 1)] = "";
    column_ += width;
  }
  void clear_below() {
    line(row_).resize(static_cast<std::size_t>(std::min<int>(column_, static_cast<int>(line(row_).size()))));
    cells_.resize(static_cast<std::size_t>(row_ + 1));
  }
  std::vector<std::string>& line(int row) {
    if (static_cast<int>(cells_.size()) <= row) cells_.resize(static_cast<std::size_t>(row + 1));
    return cells_[static_cast<std::size_t>(row)];
  }

  int width_;
  int row_ = 0, column_ = 0;
  std::vector<std::vector<std::string>> cells_;
};

using Rows = std::vector<std::string>;

TEST(LineEditor, DrawsWithWrapsAndContinuationLines) {
  const History history("");
  LineEditor editor("> ", history);
  Screen screen(8);
  editor.press({Kind::kText, "abcdefgh"});
  screen.show(editor.draw(8));
  EXPECT_EQ(screen.rows(), (Rows{"> abcdef", "gh"}));
  EXPECT_EQ(screen.cursor(), (std::pair{1, 2}));
  editor.press({Kind::kText, "\\"});
  editor.press({Kind::kEnter});
  editor.press({Kind::kText, "x"});
  screen.show(editor.draw(8));
  EXPECT_EQ(screen.rows(), (Rows{"> abcdef", "gh", "  x"}));
  editor.press({Kind::kUp});
  screen.show(editor.draw(8));
  EXPECT_EQ(screen.cursor(), (std::pair{0, 3}));
  editor.press({Kind::kInterrupt});
  screen.show(editor.draw(8));
  EXPECT_EQ(screen.rows(), (Rows{">"}));
}

TEST(LineEditor, AWideCharacterDoesNotStraddleTheEdge) {
  const History history("");
  LineEditor editor("> ", history);
  Screen screen(5);
  editor.press({Kind::kText, "ab\xE6\x97\xA5"});
  screen.show(editor.draw(5));
  EXPECT_EQ(screen.rows(), (Rows{"> ab", "\xE6\x97\xA5"}));
  editor.press({Kind::kLeft});
  screen.show(editor.draw(5));
  EXPECT_EQ(screen.cursor(), (std::pair{1, 0}));
}

TEST(LineEditor, EnterAndTheEndOfInput) {
  const History history("");
  LineEditor editor("> ", history);
  EXPECT_EQ(editor.press({Kind::kInterrupt}), Outcome::kEditing);
  EXPECT_EQ(editor.press({Kind::kText, "ab"}), Outcome::kEditing);
  EXPECT_EQ(editor.press({Kind::kHome}), Outcome::kEditing);
  EXPECT_EQ(editor.press({Kind::kEndOfFile}), Outcome::kEditing);
  EXPECT_EQ(editor.text(), "b");
  EXPECT_EQ(editor.press({Kind::kEnter}), Outcome::kDone);
  editor.press({Kind::kDelete});
  EXPECT_EQ(editor.press({Kind::kEndOfFile}), Outcome::kLeave);
}

TEST(LineEditor, RecallsAndReturnsToTheDraft) {
  History history("");
  ASSERT_TRUE(history.add("first").ok());
  ASSERT_TRUE(history.add("second\nwith two lines").ok());
  LineEditor editor("> ", history);
  editor.press({Kind::kText, "draft"});
  editor.press({Kind::kUp});
  EXPECT_EQ(editor.text(), "second\nwith two lines");
  editor.press({Kind::kUp});  // within the entry
  EXPECT_EQ(editor.text(), "second\nwith two lines");
  editor.press({Kind::kUp});
  EXPECT_EQ(editor.text(), "first");
  editor.press({Kind::kUp});
  EXPECT_EQ(editor.text(), "first");
  editor.press({Kind::kDown});
  editor.press({Kind::kDown});
  EXPECT_EQ(editor.text(), "draft");
}

TEST(LineEditorProperty, WhatIsDrawnOverTheOldPictureIsWhatAFreshScreenShows) {
  History history("");
  ASSERT_TRUE(history.add("an older entry that is rather long").ok());
  ASSERT_TRUE(history.add("two\nlines").ok());
  const Key keys[] = {{Kind::kText, "a"},
                      {Kind::kText, "word "},
                      {Kind::kText, "\xE6\x97\xA5\xE6\x9C\xAC"},
                      {Kind::kPaste, "x\ny\n"},
                      {Kind::kText, "e\xCC\x81"},
                      {Kind::kLeft},
                      {Kind::kRight},
                      {Kind::kUp},
                      {Kind::kDown},
                      {Kind::kHome},
                      {Kind::kEnd},
                      {Kind::kBackspace},
                      {Kind::kDelete},
                      {Kind::kKillWord},
                      {Kind::kWordLeft},
                      {Kind::kKillRest},
                      {Kind::kTab},
                      {Kind::kText, "\xFF"}};
  for (std::uint32_t seed = 0; seed < 100; ++seed) {
    std::mt19937 random(seed);
    const int width = std::uniform_int_distribution<int>(6, 30)(random);
    LineEditor editor("> ", history);
    Screen screen(width);
    for (int step = 0; step < 60; ++step) {
      editor.press(keys[std::uniform_int_distribution<std::size_t>(0, std::size(keys) - 1)(random)]);
      screen.show(editor.draw(width));
      Screen fresh(width);
      LineEditor other("> ", history);
      other.press({Kind::kPaste, editor.text()});
      other.press({Kind::kHome});
      while (other.cursor() > editor.cursor()) other.press({Kind::kLeft});
      while (other.cursor() < editor.cursor()) other.press({Kind::kRight});
      fresh.show(other.draw(width));
      ASSERT_EQ(screen.rows(), fresh.rows()) << "seed " << seed << " step " << step;
      ASSERT_EQ(screen.cursor(), fresh.cursor()) << "seed " << seed << " step " << step;
    }
  }
}

}  // namespace
}  // namespace ds4::cli
