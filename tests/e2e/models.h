// The golden models as GGUF files, made with the real ds4-quantize on first use, and what the golden files say.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ds4::e2e {

/// A folder for the files of this run.
std::string work_dir();
std::string ds4_program();

/// small-odd as f32, without a tokenizer.
const std::string& token_model();
/// The same weights with a byte-level tokenizer and the markers of the chat.
const std::string& chat_model();

struct Golden {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> rows;    // positions whose logits are listed
  std::vector<float> logits;         // [rows][vocab]
  std::vector<std::int32_t> greedy;  // after the first 150 tokens
  std::size_t vocab = 0;
};
const Golden& golden();

inline constexpr std::size_t kGreedyPrompt = 150;

/// Writes `ids` as decimal text and returns the path.
std::string tokens_file(const std::string& name, const std::vector<std::int32_t>& ids);

void write_file(const std::string& path, const std::string& text);
std::string read_file(const std::string& path);

}  // namespace ds4::e2e
