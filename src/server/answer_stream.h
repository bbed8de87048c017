// From tokens to the events of an answer: reasoning, text, calls; stop strings; which tokens are to be sampled greedily
// and which are forced. Called by the engine's thread, one answer each; what comes out is handed to `emit`, which must
// not block.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "chat/output_parser.h"
#include "chat/utf8_gate.h"
#include "engine/stop_strings.h"
#include "engine/worker.h"
#include "server/api/answer.h"
#include "server/api/generation_request.h"
#include "server/replay_map.h"

namespace ds4::server {

class AnswerStream final : public Listener {
 public:
  struct Setup {
    const Tokenizer* tokenizer = nullptr;
    ReplayMap* replay = nullptr;
    bool plain = false;     // the output is text and nothing else
    bool thinking = false;  // the prompt opened it
    bool tools = false;
    ToolUse tool_use = ToolUse::kAuto;
    std::string tool_name;
    bool parallel_calls = true;
    bool stream = false;
    bool logprobs = false;
    std::vector<std::string> stop;
    std::string call_prefix = "call_";
    std::function<void(AnswerEvent)> emit;
    std::atomic<std::uint64_t>* tokens = nullptr;           // counts every token, where there is one
    std::function<void(std::string_view raw)> on_complete;  // all that was sampled, before the last event; may be empty
    std::function<void(std::int64_t done, std::int64_t total)> on_progress;  // may be empty
  };

  explicit AnswerStream(Setup setup);

  void progress(std::int64_t done, std::int64_t total) override;
  Verdict begin() override;
  Verdict token(const TokenEvent& event) override;
  void done(const Finish& finish) override;

 private:
  void parsed(std::vector<chat::Event> events, Verdict& verdict);
  void text(std::string_view piece, Verdict& verdict);
  void call_start(const chat::Event& event);
  void call_end(const chat::Event& event, Verdict& verdict);
  void block_end(Verdict& verdict);
  void block_failed(const chat::Event& event, Verdict& verdict);
  void force_call(Verdict& verdict);
  std::vector<TokenId> tokens_of(std::string_view text, bool ours) const;
  void score(const TokenEvent& event);
  void emit(AnswerEvent event);
  void emit_call(AnswerEvent event);
  Prompt recorded_block() const;

  Setup setup_;
  chat::OutputParser parser_;
  chat::Utf8Gate gate_;  // of a plain output
  StopStrings stops_;
  bool begun_ = false;
  bool forced_ = false;  // the call that was asked for has been started
  Ending ending_ = Ending::kStop;
  std::string problem_;
  std::int64_t reasoning_tokens_ = 0;
  std::vector<TokenChoice> choices_;  // not yet given away

  std::string said_;                                          // every byte so far
  std::vector<std::pair<std::size_t, std::size_t>> markers_;  // in said_: where added tokens stand, and their size
  std::string reasoning_;
  std::vector<chat::ToolCall> calls_;    // of the block that is being read
  std::vector<AnswerEvent> held_calls_;  // until their block is complete, when nothing is streamed
  bool calls_shown_ = false;
};

}  // namespace ds4::server
