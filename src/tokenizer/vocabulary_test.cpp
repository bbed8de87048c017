// Tables that must be refused, and those that must not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "tokenizer/test_vocabulary.h"

namespace ds4 {
namespace {

using Tables = Tokenizer::Tables;
using testing::HasSubstr;
using testing_data::small_tables;

struct BadTables {
  const char* what;
  std::function<void(Tables&)> spoil;
  std::vector<const char*> message;
};

void replace_token(Tables& tables, std::size_t id, const std::string& text) { tables.tokens[id] = text; }

const std::vector<BadTables>& bad_tables() {
  static const std::vector<BadTables> kCases = {
      {"no tokens", [](Tables& t) { t = {}; }, {"tokenizer.ggml.tokens", "256 byte symbols"}},
      {"empty token", [](Tables& t) { replace_token(t, 256, ""); }, {"tokenizer.ggml.tokens", "token 256", "empty"}},
      {"empty added token", [](Tables& t) { replace_token(t, 258, ""); }, {"token 258", "empty"}},
      {"repeated token", [](Tables& t) { replace_token(t, 257, "th"); }, {"token 257", "\"th\"", "token 256"}},
      {"added token that is a normal one", [](Tables& t) { replace_token(t, 258, "th"); }, {"token 258", "token 256"}},
      {"invalid UTF-8", [](Tables& t) { replace_token(t, 256, "t\xFF"); }, {"token 256", "UTF-8", "t\\xff"}},
      {"surrogate", [](Tables& t) { replace_token(t, 258, "\xED\xA0\x80"); }, {"token 258", "UTF-8"}},
      {"type 0", [](Tables& t) { t.types[7] = 0; }, {"tokenizer.ggml.token_type", "token 7", "found 0"}},
      {"type 7", [](Tables& t) { t.types[7] = 7; }, {"token 7", "found 7"}},
      {"too few types", [](Tables& t) { t.types.pop_back(); }, {"tokenizer.ggml.token_type", "260", "259"}},
      {"too many types", [](Tables& t) { t.types.push_back(1); }, {"tokenizer.ggml.token_type", "260", "261"}},
      {"missing byte", [](Tables& t) { replace_token(t, 'x', "xyz"); }, {"256 byte symbols", "byte 120", "\"x\""}},
      {"byte that is not normal", [](Tables& t) { t.types[' '] = 5; }, {"byte 32"}},
      {"merge without a space", [](Tables& t) { t.merges[0] = "th"; }, {"tokenizer.ggml.merges", "merge 0", "\"th\""}},
      {"merge with two spaces", [](Tables& t) { t.merges[1] = "th e x"; }, {"merge 1", "\"th e x\""}},
      {"merge without left", [](Tables& t) { t.merges[1] = " e"; }, {"merge 1"}},
      {"merge without right", [](Tables& t) { t.merges[1] = "th "; }, {"merge 1"}},
      {"empty merge", [](Tables& t) { t.merges[1] = ""; }, {"merge 1"}},
      {"absent left", [](Tables& t) { t.merges[1] = "tx e"; }, {"merge 1", "\"tx\""}},
      {"absent right", [](Tables& t) { t.merges[1] = "th ex"; }, {"merge 1", "\"ex\""}},
      {"merge of an added token", [](Tables& t) { t.merges[1] = "<s> e"; }, {"merge 1", "\"<s>\""}},
      {"repeated merge", [](Tables& t) { t.merges[1] = "t h"; }, {"merge 1", "again"}},
      {"bos beyond", [](Tables& t) { t.bos = 260; }, {"tokenizer.ggml.bos_token_id", "260"}},
      {"bos negative", [](Tables& t) { t.bos = -1; }, {"tokenizer.ggml.bos_token_id", "-1"}},
      {"eos beyond", [](Tables& t) { t.eos = 1 << 30; }, {"tokenizer.ggml.eos_token_id"}},
  };
  return kCases;
}

Tables good_tables() { return small_tables({"t h", "th e"}, {"<s>", "</s>"}); }

TEST(Vocabulary, RefusesBadTables) {
  EXPECT_TRUE(Tokenizer::from_tables(good_tables(), "good").ok());
  for (const BadTables& bad : bad_tables()) {
    Tables tables = good_tables();
    bad.spoil(tables);
    const auto result = Tokenizer::from_tables(std::move(tables), "model.gguf");
    ASSERT_FALSE(result.ok()) << bad.what;
    EXPECT_EQ(result.error().code, ErrorCode::kBadModel);
    EXPECT_THAT(result.error().message, HasSubstr("model.gguf")) << bad.what;
    for (const char* part : bad.message) EXPECT_THAT(result.error().message, HasSubstr(part)) << bad.what;
  }
}

TEST(Vocabulary, AMergeWithAnAbsentResultNeverApplies) {
  Tables tables = small_tables({}, {});
  tables.merges = {"t h", "h e"};  // neither "th" nor "he" is a token
  tables.tokens.push_back("he");
  tables.types.push_back(testing_data::kNormalType);
  const Tokenizer tokenizer = testing_data::must_build(std::move(tables));
  EXPECT_EQ(tokenizer.encode_text("the", false), (std::vector<TokenId>{'t', 256}));
}

TEST(Vocabulary, AddedTokensAreLiteralTextToo) {
  const Tokenizer tokenizer = testing_data::must_build(small_tables({}, {"Ġé"}));  // not " \xE9"
  EXPECT_EQ(tokenizer.encode_text("Ġé", true), std::vector<TokenId>{256});
  EXPECT_EQ(tokenizer.token_bytes(256), "Ġé");
}

TEST(Vocabulary, UnusedTokensAreLiteralTextAndNeverProduced) {
  Tables tables = small_tables({"t h"}, {});
  tables.tokens.insert(tables.tokens.end(), {"[PAD 1]", "xy", "｜odd｜"});
  tables.types.insert(tables.types.end(),
                      {testing_data::kUnusedType, testing_data::kUnusedType, testing_data::kNormalType});
  tables.merges.push_back("x y");  // its result is unused, so it cannot apply
  const Tokenizer tokenizer = testing_data::must_build(std::move(tables));
  EXPECT_EQ(tokenizer.token_bytes(257), "[PAD 1]");
  EXPECT_EQ(tokenizer.token_bytes(259), "｜odd｜");
  EXPECT_FALSE(tokenizer.is_added(257));
  EXPECT_FALSE(tokenizer.added_token("[PAD 1]").has_value());
  EXPECT_EQ(tokenizer.encode_text("[PAD 1]", true).size(), 7u);
  EXPECT_EQ(tokenizer.encode_text("xy", true), (std::vector<TokenId>{'x', 'y'}));
}

}  // namespace
}  // namespace ds4
