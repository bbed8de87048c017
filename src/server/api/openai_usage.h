// Token counts and timings in the words of OpenAI's and llama.cpp's answers.
#pragma once

#include "server/api/answer.h"
#include "server/api/json_reader.h"

namespace ds4::server {

inline Json openai_usage(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.answer_tokens},
          {"total_tokens", usage.prompt_tokens + usage.answer_tokens},
          {"prompt_tokens_details",
           {{"cached_tokens", usage.cached_tokens}, {"cache_write_tokens", usage.prompt_tokens - usage.cached_tokens}}},
          {"completion_tokens_details", {{"reasoning_tokens", usage.reasoning_tokens}}}};
}

inline Json timings(const Usage& usage) {
  const auto rate = [](std::int64_t tokens, double seconds) {
    return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
  };
  const std::int64_t computed = usage.prompt_tokens - usage.cached_tokens;
  return {{"queue_ms", usage.queue_seconds * 1e3},
          {"cache_n", usage.cached_tokens},
          {"prompt_n", computed},
          {"prompt_ms", usage.prompt_seconds * 1e3},
          {"prompt_per_second", rate(computed, usage.prompt_seconds)},
          {"predicted_n", usage.answer_tokens},
          {"predicted_ms", usage.answer_seconds * 1e3},
          {"predicted_per_second", rate(usage.answer_tokens, usage.answer_seconds)}};
}

}  // namespace ds4::server
