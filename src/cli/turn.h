// One prompt in, one answer out, with progress and speed. Used by the one-shot mode and by the chat.
#pragma once

#include <functional>
#include <variant>
#include <vector>

#include "cli/console.h"
#include "engine/engine.h"

namespace ds4::cli {

using PromptInput = std::variant<Prompt, std::vector<TokenId>>;

struct Turn {
  SyncReport sync;
  GenerateReport generate;
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

/// sync() with a progress line; Ctrl-C ends it with kCancelled.
Result<SyncReport> sync_with_progress(Console& console, Session& session, const PromptInput& prompt);

/// Runs the turn; `options.cancel` is set to Ctrl-C. An interrupted answer is a Turn that says so, an interrupted
/// prefill an Error.
Result<Turn> run_turn(Console& console, Session& session, const PromptInput& prompt, GenerateOptions options);

/// Tokens per second on stderr, and why the answer stopped when it was not the model's decision.
void report_turn(Console& console, const Turn& turn, const GenerateOptions& options, std::int64_t context);

/// A seed from the clock, for runs that were not given one.
std::uint64_t seed_from_clock();

}  // namespace ds4::cli
