// What `ds4` tells about a model's numbers: tokens of a prompt, logits, logprobs, perplexity. Files are written whole:
// one that cannot be is an Error.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "cli/console.h"
#include "engine/engine.h"

namespace ds4::cli {

/// One line per token on stdout: id, tab, its bytes escaped.
void dump_tokens(Console& console, const Tokenizer* tokenizer, std::span<const TokenId> tokens);

/// f32, little-endian, [tokens][vocab]: the logits after each token.
Status dump_logits(Console& console, Session& session, std::span<const TokenId> tokens, const std::string& path);

/// JSON: the greedy continuation of the synced session, with the `top` most probable tokens of each step.
Status dump_logprobs(Console& console, Session& session, const Engine& engine, std::int64_t max_tokens,
                     std::int64_t top, const std::string& path);

/// "tokens=... scored=... nll=... avg_nll=... ppl=..." on stdout. The first 32 tokens are context and not scored.
Status perplexity(Console& console, Session& session, std::span<const TokenId> tokens, std::int64_t max_scored);

}  // namespace ds4::cli
