// What the flags of `ds4` say. Filled by main, read by program.cpp; plain data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "chat/render.h"
#include "engine/engine.h"

namespace ds4::cli {

struct Options {
  std::string model;  // empty: looked for, see model_path.h
  EngineOptions engine;
  bool warm_weights = false;

  std::optional<std::string> prompt;  // "-" reads standard input
  std::string prompt_file;            // "-" as well
  std::string tokens_file;            // decimal ids in place of text
  bool raw_prompt = false;            // the text alone, without chat markers
  std::string system = "You are a helpful assistant";
  chat::Thinking thinking = chat::Thinking::kThinking;

  Sampling sampling;
  bool seed_given = false;  // otherwise taken from the clock, and reported
  std::int64_t max_tokens = 50000;
  bool print_tokens = false;  // ids in place of text

  bool inspect = false;
  bool verify = false;
  bool dump_tokens = false;
  std::string dump_logits;  // files
  std::string dump_logprobs;
  std::int64_t logprobs_top_k = 20;
  std::string perplexity_file;

  std::string imatrix_dataset;
  std::string imatrix_out;
  std::int64_t imatrix_max_prompts = 0;  // 0: all
  std::int64_t imatrix_max_tokens = 0;

  bool one_shot() const { return prompt || !prompt_file.empty() || !tokens_file.empty(); }
  bool chats() const { return !one_shot() && perplexity_file.empty() && imatrix_dataset.empty(); }
};

/// Tokens of context from which Think Max is used: its long reasoning needs the room.
inline constexpr std::int64_t kThinkMaxContext = 393216;

}  // namespace ds4::cli
