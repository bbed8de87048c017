#include "cli/turn.h"

#include <unistd.h>

#include <chrono>

#include "base/rng.h"
#include "base/text.h"
#include "cli/interrupt.h"

namespace ds4::cli {

Result<SyncReport> sync_with_progress(Console& console, Session& session, const PromptInput& prompt) {
  Progress progress(console, "reading the prompt");
  SyncOptions options;
  options.cancel = &interrupted();
  options.progress = [&](std::int64_t done, std::int64_t todo) {
    progress.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(todo));
  };
  if (const Prompt* text = std::get_if<Prompt>(&prompt)) return session.sync(*text, options);
  return session.sync(std::get<std::vector<TokenId>>(prompt), options);
}

Result<Turn> run_turn(Console& console, Session& session, const PromptInput& prompt, GenerateOptions options) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  Turn turn;
  auto start = Clock::now();
  DS4_ASSIGN_OR_RETURN(turn.sync, sync_with_progress(console, session, prompt));
  turn.prefill_seconds = seconds_since(start);

  options.cancel = &interrupted();
  start = Clock::now();
  DS4_ASSIGN_OR_RETURN(turn.generate, session.generate(options));
  turn.decode_seconds = seconds_since(start);
  return turn;
}

void report_turn(Console& console, const Turn& turn, const GenerateOptions& options, std::int64_t context) {
  if (turn.generate.stop == StopReason::kContextFull) {
    console.warn(cat("the context of ", context, " tokens is full: the answer is cut; a larger -c takes more"));
  }
  if (turn.generate.stop == StopReason::kMaxTokens) {
    console.note(cat("stopped after ", turn.generate.tokens, " tokens, as -n says"));
  }
  std::string line = cat("prefill: ", rate(turn.sync.computed, turn.prefill_seconds),
                         " t/s, generation: ", rate(turn.generate.tokens, turn.decode_seconds), " t/s (",
                         turn.sync.computed, " + ", turn.generate.tokens, " tokens");
  if (turn.sync.reused > 0) line += cat(", ", turn.sync.reused, " kept");
  if (options.sampling.temperature > 0) line += cat(", seed ", options.sampling.seed);
  console.note(line + ")");
}

std::uint64_t seed_from_clock() {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  // 32 bits are enough to tell runs apart, and short enough to be typed again.
  return random_bits(static_cast<std::uint64_t>(now), static_cast<std::uint64_t>(getpid())) >> 32;
}

}  // namespace ds4::cli
