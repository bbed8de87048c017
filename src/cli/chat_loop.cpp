#include "cli/chat_loop.h"

#include <charconv>
#include <iostream>

#include "base/text.h"
#include "chat/render.h"
#include "cli/answer_printer.h"
#include "cli/help.h"
#include "cli/interrupt.h"
#include "cli/prompt_source.h"
#include "cli/turn.h"

namespace ds4::cli {

namespace {

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

std::string_view thinking_name(chat::Thinking thinking) {
  switch (thinking) {
    case chat::Thinking::kChat: return "off";
    case chat::Thinking::kThinking: return "on";
    case chat::Thinking::kMax: return "max";
  }
  return "?";
}

}  // namespace

chat::Thinking allowed_thinking(Console& console, chat::Thinking asked, std::int64_t context) {
  if (asked != chat::Thinking::kMax || context >= kThinkMaxContext) return asked;
  console.warn(cat("Think Max needs a context of ", kThinkMaxContext, " tokens and this one has ", context,
                   ": thinking normally instead"));
  return chat::Thinking::kThinking;
}

chat::Conversation new_conversation(const std::string& system) {
  chat::Conversation conversation;
  if (!system.empty()) conversation.push_back(chat::text_message(chat::Role::kSystem, system));
  return conversation;
}

ChatLoop::ChatLoop(Console& console, std::unique_ptr<Engine> engine, const Options& options)
    : console_(console),
      options_(options),
      engine_(std::move(engine)),
      conversation_(new_conversation(options.system)),
      history_(console.stdin_tty() && console.stdout_tty() ? History::default_path() : std::string()),
      reader_(history_) {}

Status ChatLoop::run() {
  DS4_ASSIGN_OR_RETURN(Session session, engine_->new_session());
  session_.emplace(std::move(session));
  set_thinking(options_.thinking);
  if (console_.stdin_tty() && console_.stderr_tty()) {
    print_status();
    console_.note("type a question, or /help; a line that ends in \\ goes on; Ctrl-D leaves");
  }
  while (true) {
    interrupted() = false;
    const std::optional<std::string> entry = read_input_entry();
    if (!entry) return interrupted() ? Status(Error{ErrorCode::kCancelled, "interrupted"}) : Status();
    const std::string_view line = trimmed(*entry);
    if (line.empty()) continue;
    if (const Status saved = history_.add(*entry); !saved.ok()) console_.warn(saved.error().message);
    if (line.starts_with('/')) {
      DS4_ASSIGN_OR_RETURN(const bool go_on, command(line));
      if (!go_on) return {};
    } else {
      show(turn(*entry));
    }
    if (!engine_->health().ok())
      return Error{ErrorCode::kNoDevice, "after that no question can be answered any more: start anew"};
  }
}

std::optional<std::string> ChatLoop::read_input_entry() {
  if (console_.stdin_tty() && console_.stdout_tty()) return reader_.read("> ");
  std::string entry;
  for (std::string line; std::getline(std::cin, line);) {
    if (!line.ends_with('\\')) return entry + line;
    line.back() = '\n';
    entry += line;
  }
  if (interrupted() || entry.empty()) return std::nullopt;
  return entry;
}

Result<bool> ChatLoop::command(std::string_view line) {
  const std::string_view name = line.substr(0, line.find_first_of(" \t"));
  const std::string_view argument = trimmed(line.substr(name.size()));
  Status status;
  if (name == "/quit" || name == "/exit") return false;
  if (name == "/help") console_.note(chat_help());
  else if (name == "/status") print_status();
  else if (name == "/think") set_thinking(chat::Thinking::kThinking);
  else if (name == "/think-max") set_thinking(chat::Thinking::kMax);
  else if (name == "/nothink") set_thinking(chat::Thinking::kChat);
  else if (name == "/ctx") status = set_context(argument);
  else if (name == "/read") {
    if (argument.empty()) {
      status = Error{ErrorCode::kUsage, "/read needs a file: its text becomes your next message"};
    } else if (Result<std::string> text = read_input(std::string(argument)); text.ok()) {
      status = turn(std::move(text).value());
    } else {
      status = text.error();
    }
  } else {
    status = Error{ErrorCode::kUsage, cat("no command ", escaped(name), ": /help lists them")};
  }
  show(status);
  if (engine_ == nullptr) return Error{ErrorCode::kFailure, "no model is loaded any more"};
  return true;
}

void ChatLoop::show(const Status& status) {
  if (status.ok()) return;
  if (status.error().code != ErrorCode::kCancelled) return console_.error(status.error());
  if (console_.stdout_tty()) console_.out("\n");  // the terminal has echoed ^C
  console_.note("interrupted: the question is not part of the conversation");
}

Status ChatLoop::turn(std::string text) {
  // The answer belongs to the conversation only when there is one; a turn that fails leaves nothing behind.
  chat::Conversation conversation = conversation_;
  conversation.push_back(chat::text_message(chat::Role::kUser, std::move(text)));
  DS4_RETURN_IF_ERROR(answer(conversation));
  conversation_ = std::move(conversation);
  return {};
}

Status ChatLoop::answer(chat::Conversation& conversation) {
  // Earlier thinking stays: dropping it would mean to compute every answer a second time when the next turn comes.
  const chat::RenderOptions render{.thinking = options_.thinking, .drop_thinking = false};
  DS4_ASSIGN_OR_RETURN(const Prompt prompt, chat::render(conversation, render));
  AnswerPrinter printer(console_, *engine_->tokenizer(), chat::opens_thinking(prompt));
  GenerateOptions generate;
  generate.sampling = options_.sampling;
  generate.max_tokens = options_.max_tokens;
  generate.stop = {engine_->tokenizer()->eos()};
  generate.on_token = [&](TokenId token) {
    printer.token(token);
    return true;
  };
  const Result<Turn> turn = run_turn(console_, *session_, prompt, generate);
  printer.finish();
  if (!turn.ok()) return turn.error();
  report_turn(console_, *turn, generate, context());
  if (turn->generate.tokens == 0 && turn->generate.stop != StopReason::kStopToken) {
    return Error{ErrorCode::kCancelled, "there is no answer"};
  }
  chat::Message message = chat::text_message(chat::Role::kAssistant, printer.text());
  message.reasoning = printer.reasoning();
  conversation.push_back(std::move(message));
  return {};
}

void ChatLoop::set_thinking(chat::Thinking thinking) {
  options_.thinking = allowed_thinking(console_, thinking, context());
  if (console_.stderr_tty() && session_->timeline().size() > 0) {
    console_.note(cat("thinking is ", thinking_name(options_.thinking)));
  }
}

void ChatLoop::print_status() {
  console_.note(cat(engine_->shape().name.empty() ? "model" : escaped(engine_->shape().name), " on ",
                    engine_->backend_name(), ", thinking ", thinking_name(options_.thinking), ", context ",
                    session_->timeline().size(), " of ", context(), " tokens, memory ",
                    human_bytes(engine_->plan().need())));
}

Status ChatLoop::set_context(std::string_view argument) {
  std::int64_t tokens = 0;
  const auto [end, error] = std::from_chars(argument.data(), argument.data() + argument.size(), tokens);
  if (error != std::errc() || end != argument.data() + argument.size() || tokens < 1) {
    return Error{ErrorCode::kUsage, cat("/ctx needs a number of tokens; it is ", context(), " now")};
  }
  const std::int64_t before = context();
  if (const Status status = load(tokens); !status.ok()) {
    console_.error(status.error());
    DS4_RETURN_IF_ERROR(load(before));
  }
  options_.thinking = allowed_thinking(console_, options_.thinking, context());
  print_status();
  return {};
}

Status ChatLoop::load(std::int64_t context) {
  // The old state goes first: both at once may not fit.
  session_.reset();
  engine_.reset();
  EngineOptions engine = options_.engine;
  engine.context = context;
  DS4_ASSIGN_OR_RETURN(ModelFile file, open_model_file(options_.model));
  DS4_ASSIGN_OR_RETURN(std::unique_ptr<Engine> loaded, Engine::load(std::move(file), engine));
  DS4_ASSIGN_OR_RETURN(Session session, loaded->new_session());
  engine_ = std::move(loaded);
  session_.emplace(std::move(session));
  return {};
}

}  // namespace ds4::cli
