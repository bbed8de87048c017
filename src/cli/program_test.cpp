// The small parts of the program that need no model.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/answer_printer.h"
#include "cli/help.h"
#include "cli/model_path.h"
#include "cli/prompt_source.h"

namespace ds4::cli {
namespace {

TEST(TokenIds, AreDecimalAndSeparated) {
  EXPECT_EQ(*parse_token_ids(" 1 2,3\n40\r\n", "ids"), (std::vector<TokenId>{1, 2, 3, 40}));
  EXPECT_EQ(parse_token_ids("1 2x 3", "ids").error().message,
            "ids: at byte 2: expected a decimal token id, found \"2x\"");
  EXPECT_FALSE(parse_token_ids("1 -2", "ids").ok());
  EXPECT_FALSE(parse_token_ids("99999999999", "ids").ok());
  EXPECT_EQ(parse_token_ids(" \n", "ids").error().message, "ids: no token ids in it");
}

TEST(WithoutControls, ShowsWhatATerminalWouldObey) {
  EXPECT_EQ(without_controls("a\x1b[2Jb\r\n\tc\x07\x7f"), "a^[[2Jb^M\n\tc^G^?");
  EXPECT_EQ(without_controls("\xC2\x9B"
                             "31m \xC2\xA0\xC3\xA9"),
            "^[31m \xC2\xA0\xC3\xA9");
}

TEST(FindModel, LooksHereThenBesideTheProgram) {
  const auto folder = std::filesystem::temp_directory_path() / "ds4_find_model";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder / "tree/models");
  const auto folders = installed_model_folders((folder / "tree/build/release/bin/ds4").string());
  EXPECT_EQ(*find_model("asked.gguf", folders), "asked.gguf");
  const Result<std::string> none = find_model("", {(folder / "tree/models").string()});
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, ErrorCode::kBadModel);
  EXPECT_NE(none.error().message.find("-m FILE"), std::string::npos);

  std::ofstream(folder / "tree/models/small.gguf") << "x";
  EXPECT_EQ(*find_model("", folders), (folder / "tree/models/small.gguf").string());
  std::ofstream(folder / "tree/models/other.gguf") << "x";
  const Result<std::string> several = find_model("", folders);
  ASSERT_FALSE(several.ok());
  EXPECT_NE(several.error().message.find("other.gguf"), std::string::npos);
  std::filesystem::remove_all(folder);
}

TEST(Help, EveryTopicOfTheOverviewExists) {
  const std::string overview = *help("");
  const std::size_t list = overview.find("one of\n");
  ASSERT_NE(list, std::string::npos);
  std::istringstream topics(overview.substr(list + 7));
  int count = 0;
  for (std::string topic; topics >> topic; ++count) EXPECT_TRUE(help(topic).has_value()) << topic;
  EXPECT_GE(count, 7);
  EXPECT_FALSE(help("nonsense").has_value());
  for (std::istringstream lines(*help("all")); lines;) {
    std::string line;
    std::getline(lines, line);
    EXPECT_LE(line.size(), 100u) << line;
  }
}

}  // namespace
}  // namespace ds4::cli
