// Any bytes as a prompt of segments, and any bytes as changes to the tables of a vocabulary.
//
// Input: records of (kind, length, payload). Kinds 0..2 are segments of the prompt (marker, trusted, untrusted), 3..5
// replace a token, a type or a merge at the index that the first payload byte names.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "tokenizer/test_vocabulary.h"
#include "tokenizer/tokenizer.h"

namespace {

using namespace ds4;

const Tokenizer::Tables& base_tables() {
  static const Tokenizer::Tables kTables = testing_data::small_tables(
      {"a a", "aa aa", "aaaa aaaa", "Ġ Ġ", "ĠĠ ĠĠ", "Ġ a", "e r", "U s", "Us er", "Ċ Ċ", "ï ½", "ï½ ľ"},
      {"<｜User｜>", "<｜Assistant｜>", "｜DSML｜", "<think>", "</think>", "<a", "<ab", "<abcd", "b>"});
  return kTables;
}

struct Input {
  Prompt prompt;
  Tokenizer::Tables tables;
  bool changed_tables = false;
};

void change(Input& input, int kind, std::string_view payload) {
  if (payload.empty()) return;
  input.changed_tables = true;
  const auto index = static_cast<unsigned char>(payload[0]);
  payload.remove_prefix(1);
  auto& [tokens, types, merges, bos, eos] = input.tables;
  // From the end, where merged and added tokens are.
  if (kind == 3)
    tokens[tokens.size() - 1 - index] = payload;
  else if (kind == 4)
    types[types.size() - 1 - index] = payload.empty() ? 1 : static_cast<signed char>(payload[0]);
  else
    merges[index % merges.size()] = payload;
}

Input parse(std::string_view data) {
  Input out{{}, base_tables()};
  while (data.size() >= 2) {
    const int kind = static_cast<unsigned char>(data[0]) % 6;
    const std::size_t length = std::min<std::size_t>(static_cast<unsigned char>(data[1]), data.size() - 2);
    const std::string_view payload = data.substr(2, length);
    data.remove_prefix(2 + length);
    if (kind < 3)
      out.prompt.push_back({static_cast<SegmentKind>(kind), std::string(payload)});
    else
      change(out, kind, payload);
  }
  return out;
}

/// Every byte of the prompt comes back, and no added token holds a byte of an untrusted segment.
void check_tokens(const Tokenizer& tokenizer, const Prompt& prompt, const std::vector<TokenId>& ids) {
  std::string text;
  std::string untrusted;  // '1' for each such byte
  for (const PromptSegment& segment : prompt) {
    text += segment.bytes;
    untrusted.append(segment.bytes.size(), segment.kind == SegmentKind::kUntrusted ? '1' : '0');
  }
  DS4_CHECK(tokenizer.decode(ids) == text);
  std::size_t at = 0;
  for (const TokenId id : ids) {
    const std::size_t length = tokenizer.token_bytes(id).size();
    DS4_CHECK(length > 0);
    if (tokenizer.is_added(id)) DS4_CHECK(untrusted.substr(at, length).find('1') == std::string::npos);
    at += length;
  }
}

void check_prompt(const Tokenizer& tokenizer, const Prompt& prompt) {
  const auto result = tokenizer.encode(prompt);
  if (!result.ok()) {
    bool bad_marker = false;
    for (const PromptSegment& segment : prompt) {
      bad_marker |= segment.kind == SegmentKind::kMarker && !tokenizer.added_token(segment.bytes).has_value();
    }
    DS4_CHECK(bad_marker);
    DS4_CHECK(is_printable_utf8(result.error().message));
    return;
  }
  check_tokens(tokenizer, prompt, *result);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Tokenizer kTokenizer = testing_data::must_build(base_tables());
  const Input input = parse({reinterpret_cast<const char*>(data), size});
  check_prompt(kTokenizer, input.prompt);
  if (!input.changed_tables) return 0;
  const auto other = Tokenizer::from_tables(input.tables, "fuzz");
  if (other.ok())
    check_prompt(*other, input.prompt);
  else
    DS4_CHECK(is_printable_utf8(other.error().message));
  return 0;
}
