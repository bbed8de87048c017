#include "eval/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/text.h"

namespace ds4::eval {
namespace {

using ::testing::HasSubstr;

const ModelFile& nano() {
  static const ModelFile file = open_model_file(cat(DS4_SOURCE_DIR, "/models/ds4-nano.gguf")).value();
  return file;
}

/// What counts of a document, as text.
std::string counted_text(const Document& document) {
  std::vector<TokenId> kept;
  for (std::size_t i = 0; i < document.tokens.size(); ++i)
    if (document.counted[i] != 0) kept.push_back(document.tokens[i]);
  return nano().tokenizer->decode(kept);
}

constexpr std::string_view kChats =
    "===== DS4_IMATRIX_PROMPT 1\n"
    "<｜begin▁of▁sentence｜>Be brief.<｜User｜>One?<｜Assistant｜></think>1<｜end▁of▁sentence｜>"
    "<｜User｜>Two?<｜Assistant｜><think>It is 2.</think>2<｜end▁of▁sentence｜>\n"
    "===== DS4_IMATRIX_PROMPT 2\n"
    "<｜User｜>Three?<｜Assistant｜>a plain <think>3";

TEST(Dataset, OnlyAnswersCount) {
  const auto documents = parse_dataset(kChats, *nano().tokenizer, true, "chats.txt");
  ASSERT_TRUE(documents.ok()) << documents.error().message;
  ASSERT_EQ(documents->size(), 2U);
  EXPECT_NE((*documents)[0].tokens[0], nano().tokenizer->bos()) << "every document gets one";
  EXPECT_EQ(counted_text((*documents)[0]), "1<｜end▁of▁sentence｜>It is 2.</think>2<｜end▁of▁sentence｜>");
  EXPECT_EQ(counted_text((*documents)[1]), "a plain <think>3") << "an answer that was cut, and a late <think>";
}

TEST(Dataset, EverythingCountsOtherwise) {
  const auto documents = parse_dataset(kChats, *nano().tokenizer, false, "chats.txt");
  ASSERT_TRUE(documents.ok()) << documents.error().message;
  EXPECT_TRUE((*documents)[0].counted.empty());
  EXPECT_EQ(nano().tokenizer->decode((*documents)[1].tokens), "<｜User｜>Three?<｜Assistant｜>a plain <think>3");
  const auto one = parse_dataset("just text", *nano().tokenizer, false, "t");
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->size(), 1U);
}

TEST(Dataset, NothingToScore) {
  const Tokenizer& tokenizer = *nano().tokenizer;
  EXPECT_THAT(parse_dataset(" \n", tokenizer, false, "a.txt").error().message,
              HasSubstr("a.txt: expected text, found none in 0 documents"));
  EXPECT_THAT(parse_dataset("just text", tokenizer, true, "a.txt").error().message,
              HasSubstr("a.txt: expected answers, each after <｜Assistant｜>, found none in 1 documents"));
}

TEST(Dataset, Limit) {
  std::vector<Document> documents = {{{1, 2, 3}}, {{4, 5, 6}, {0, 1, 1}}, {{7}}};
  limit_documents(documents, 5);
  EXPECT_EQ(documents[0].tokens.size(), 3U);
  EXPECT_EQ(documents[1].tokens, (std::vector<TokenId>{4, 5}));
  EXPECT_EQ(documents[1].counted, (std::vector<std::uint8_t>{0, 1}));
  EXPECT_TRUE(documents[2].tokens.empty());
}

}  // namespace
}  // namespace ds4::eval
