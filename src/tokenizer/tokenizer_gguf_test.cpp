#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "gguf/test_file.h"
#include "tokenizer/test_vocabulary.h"

namespace ds4 {
namespace {

using gguf::ValueType;
using testing::HasSubstr;

/// The tokenizer keys of a model file; entries may be changed or left out before the file is written.
struct TokenizerKeys {
  Tokenizer::Tables tables = testing_data::small_tables({"t h", "th e"}, {"<s>", "</s>"});
  std::map<std::string, std::string> strings = {{"tokenizer.ggml.model", "gpt2"}, {"tokenizer.ggml.pre", "joyai-llm"}};
  std::map<std::string, std::uint32_t> ids = {{"tokenizer.ggml.bos_token_id", 258},
                                              {"tokenizer.ggml.eos_token_id", 259}};
  bool tokens = true, types = true, merges = true;

  Result<std::optional<Tokenizer>> open() const {
    gguf::TestFile file;
    file.header(0, strings.size() + ids.size() + tokens + types + merges);
    for (const auto& [key, value] : strings) file.string(key, value);
    for (const auto& [key, value] : ids) file.scalar(key, ValueType::kU32, value);
    if (tokens) file.array("tokenizer.ggml.tokens", ValueType::kString, tables.tokens);
    if (types) file.array("tokenizer.ggml.token_type", ValueType::kI32, tables.types);
    if (merges) file.array("tokenizer.ggml.merges", ValueType::kString, tables.merges);
    const std::vector<std::byte> bytes = file.data(0).bytes();
    auto parsed = gguf::File::parse(bytes, "model.gguf");
    if (!parsed.ok()) return parsed.error();
    return Tokenizer::from_gguf(*parsed);  // the file goes away here: a Tokenizer owns what it needs
  }
};

TEST(TokenizerGguf, ReadsTheTables) {
  for (const char* pre : {"joyai-llm", "deepseek-v3"}) {
    TokenizerKeys keys;
    keys.strings["tokenizer.ggml.pre"] = pre;
    const auto result = keys.open();
    ASSERT_TRUE(result.ok()) << result.error().message;
    ASSERT_TRUE(result->has_value());
    const Tokenizer& tokenizer = **result;
    EXPECT_EQ(tokenizer.encode_text("the<s>", true), (std::vector<TokenId>{257, 258}));
    EXPECT_EQ(tokenizer.bos(), 258);
    EXPECT_EQ(tokenizer.eos(), 259);
    EXPECT_EQ(tokenizer.vocab_size(), 260);
  }
}

TEST(TokenizerGguf, AModelWithoutTokensHasNoTokenizer) {
  TokenizerKeys keys;
  keys.tokens = keys.types = keys.merges = false;
  keys.strings.clear();
  keys.ids.clear();
  const auto result = keys.open();
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_FALSE(result->has_value());
}

TEST(TokenizerGguf, RefusesWhatItCannotUse) {
  struct Bad {
    std::function<void(TokenizerKeys&)> spoil;
    std::vector<const char*> message;
  };
  const std::vector<Bad> cases = {
      {[](TokenizerKeys& k) { k.strings["tokenizer.ggml.pre"] = "deepseek-llm"; },
       {"tokenizer.ggml.pre", "\"deepseek-llm\"", "\"joyai-llm\""}},
      {[](TokenizerKeys& k) { k.strings["tokenizer.ggml.model"] = "llama"; },
       {"tokenizer.ggml.model", "\"llama\"", "\"gpt2\""}},
      {[](TokenizerKeys& k) { k.strings.erase("tokenizer.ggml.pre"); }, {"tokenizer.ggml.pre", "no such key"}},
      {[](TokenizerKeys& k) { k.strings.erase("tokenizer.ggml.model"); }, {"tokenizer.ggml.model", "no such key"}},
      {[](TokenizerKeys& k) { k.types = false; }, {"tokenizer.ggml.token_type", "no such key"}},
      {[](TokenizerKeys& k) { k.merges = false; }, {"tokenizer.ggml.merges", "no such key"}},
      {[](TokenizerKeys& k) { k.ids.erase("tokenizer.ggml.eos_token_id"); },
       {"tokenizer.ggml.eos_token_id", "no such key"}},
      {[](TokenizerKeys& k) { k.ids["tokenizer.ggml.bos_token_id"] = 260; },
       {"tokenizer.ggml.bos_token_id", "byte", "260"}},
      {[](TokenizerKeys& k) { k.ids["tokenizer.ggml.padding_token_id"] = UINT32_MAX; },
       {"tokenizer.ggml.padding_token_id", "4294967295"}},
      {[](TokenizerKeys& k) { k.tables.types.pop_back(); }, {"tokenizer.ggml.token_type", "byte", "260", "259"}},
      {[](TokenizerKeys& k) { k.tables.tokens[257] = "th"; },
       {"tokenizer.ggml.tokens", "byte", "token 257", "token 256"}},
      {[](TokenizerKeys& k) { k.tables.merges[0] = "tt h"; }, {"tokenizer.ggml.merges", "byte", "merge 0", "\"tt\""}},
  };
  for (const Bad& bad : cases) {
    TokenizerKeys keys;
    bad.spoil(keys);
    const auto result = keys.open();
    ASSERT_FALSE(result.ok()) << bad.message[0];
    EXPECT_EQ(result.error().code, ErrorCode::kBadModel) << bad.message[0];
    EXPECT_THAT(result.error().message, HasSubstr("model.gguf"));
    for (const char* part : bad.message) EXPECT_THAT(result.error().message, HasSubstr(part));
  }
}

}  // namespace
}  // namespace ds4
