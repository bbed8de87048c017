// The interactive chat: a conversation kept as messages, each turn rendered and handed over whole; the session finds
// what it knows already. Also reads turns from a pipe, one line each. One per program, main thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "chat/message.h"
#include "cli/console.h"
#include "cli/history.h"
#include "cli/line_editor.h"
#include "cli/options.h"
#include "engine/engine.h"

namespace ds4::cli {

class ChatLoop {
 public:
  /// `engine` has a tokenizer.
  ChatLoop(Console& console, std::unique_ptr<Engine> engine, const Options& options);
  /// Until /quit or the end of the input. Errors of a turn are shown and do not end it.
  Status run();

 private:
  std::optional<std::string> read_input_entry();
  /// False to leave.
  Result<bool> command(std::string_view line);
  void show(const Status& status);
  Status turn(std::string text);
  Status answer(chat::Conversation& conversation);
  Status set_context(std::string_view argument);
  Status load(std::int64_t context);
  void set_thinking(chat::Thinking thinking);
  void print_status();
  std::int64_t context() const { return engine_->context(); }

  Console& console_;
  Options options_;
  std::unique_ptr<Engine> engine_;
  std::optional<Session> session_;  // of engine_
  chat::Conversation conversation_;
  History history_;
  EntryReader reader_;
};

/// The thinking mode that a context of this size allows; warns when it is not the one asked for.
chat::Thinking allowed_thinking(Console& console, chat::Thinking asked, std::int64_t context);

/// The system message, unless empty.
chat::Conversation new_conversation(const std::string& system);

}  // namespace ds4::cli
