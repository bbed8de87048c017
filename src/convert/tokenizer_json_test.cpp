#include "convert/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/text.h"

namespace ds4 {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Result<Tokenizer::Tables> parse(const std::string& json) {
  CheckpointConfig config;
  config.vocab_size = 6;
  config.bos_token_id = 3;
  config.eos_token_id = 4;
  return parse_tokenizer_json(json, "tokenizer.json", config);
}

TEST(TokenizerJson, TablesInIdOrder) {
  for (const char* merges : {R"(["a b"])", R"([["a","b"]])"}) {
    const auto tables =
        parse(cat(R"({"model":{"type":"BPE","vocab":{"b":1,"a":0,"ab":2},"merges":)", merges,
                  R"(},"added_tokens":[{"id":3,"content":"<s>","special":true},{"id":5,"content":"<u>"}]})"));
    ASSERT_TRUE(tables.ok()) << tables.error().message;
    EXPECT_THAT(tables->tokens, ElementsAre("a", "b", "ab", "<s>", "<unused4>", "<u>"));
    EXPECT_THAT(tables->types, ElementsAre(1, 1, 1, 3, 5, 4));
    EXPECT_THAT(tables->merges, ElementsAre("a b"));
    EXPECT_EQ(tables->bos, 3);
    EXPECT_EQ(tables->eos, 4);
  }
}

TEST(TokenizerJson, AddedTokensMayRepeatTheVocabulary) {
  const auto tables =
      parse(R"({"model":{"vocab":{"<s>":0},"merges":[]},"added_tokens":[{"id":0,"content":"<s>","special":true}]})");
  ASSERT_TRUE(tables.ok()) << tables.error().message;
  EXPECT_EQ(tables->types[0], 3);
}

TEST(TokenizerJson, SaysWhatIsWrong) {
  const auto error = [](const std::string& json) {
    return parse(json).ok() ? std::string() : parse(json).error().message;
  };
  EXPECT_THAT(error("{"), HasSubstr("tokenizer.json: expected a JSON object"));
  EXPECT_THAT(error("{}"), HasSubstr("model.vocab: expected an object"));
  EXPECT_THAT(error(R"({"model":{"type":"Unigram"}})"), HasSubstr("model: expected an object of type BPE"));
  EXPECT_THAT(error(R"({"model":{"vocab":{"a":6},"merges":[]}})"),
              HasSubstr("token a: expected an id below vocab_size (6)"));
  EXPECT_THAT(error(R"({"model":{"vocab":{"a":-1},"merges":[]}})"), HasSubstr("token a: expected an id"));
  EXPECT_THAT(error(R"({"model":{"vocab":{"a":1,"b":1},"merges":[]}})"),
              HasSubstr("token b: id 1 is that of another token"));
  EXPECT_THAT(error(R"({"model":{"vocab":{"a":1}}})"), HasSubstr("model.merges: expected a list"));
  EXPECT_THAT(error(R"({"model":{"vocab":{},"merges":["a b",["a"]]}})"),
              HasSubstr("model.merges: entry 1: expected two"));
  EXPECT_THAT(error(R"({"model":{"vocab":{},"merges":[["a b","c"]]}})"), HasSubstr("entry 0: expected two pieces"));
  EXPECT_THAT(error(R"({"model":{"vocab":{},"merges":[]},"added_tokens":[{"id":1}]})"),
              HasSubstr("added_tokens: entry 0"));
  EXPECT_THAT(error(R"({"model":{"vocab":{"a":1},"merges":[]},"added_tokens":[{"id":1,"content":"b"}]})"),
              HasSubstr("id 1 is that of token a, too"));
}

}  // namespace
}  // namespace ds4
