#include "eval/nano.h"

#include "base/text.h"
#include "chat/output_parser.h"
#include "chat/render.h"
#include "chat/wire_text.h"

namespace ds4::eval {

namespace {

chat::Conversation conversation_of(const Item& item, const Check& check) {
  chat::Conversation conversation(item.messages.begin(), item.messages.begin() + static_cast<std::ptrdiff_t>(check.at));
  if (!item.tools.empty()) chat::attach_tools(conversation, item.tools);
  return conversation;
}

Answer take_apart(const Tokenizer& tokenizer, std::span<const TokenId> output, bool thinking, bool tools) {
  Answer answer;
  chat::OutputParser parser({.thinking = thinking, .tools = tools});
  std::vector<chat::Event> events;
  const auto keep = [&](std::vector<chat::Event> more) {
    for (chat::Event& event : more) chat::append_event(events, std::move(event));
  };
  const auto open = tokenizer.added_token(chat::wire::kThink);
  const auto close = tokenizer.added_token(chat::wire::kEndThink);
  for (const TokenId token : output) {
    if (token == open) ++answer.opened;
    if (token == close) ++answer.closed;
    keep(parser.feed(tokenizer.token_bytes(token)));
  }
  keep(parser.finish());
  std::vector<Call> announced;
  for (const chat::Event& event : events) {
    using Kind = chat::Event::Kind;
    if (event.kind == Kind::kReasoning) answer.reasoning += event.text;
    if (event.kind == Kind::kText) answer.text += event.text;
    if (event.kind == Kind::kToolCallStart) announced.push_back({event.text, ""});
    if (event.kind == Kind::kToolCallEnd) announced.back().arguments = event.text;
    if (event.kind == Kind::kToolBlockEnd) answer.calls = announced;
    if (event.kind == Kind::kToolBlockFailed) answer.block_failed = true;
  }
  return answer;
}

struct Question {
  const Item* item;
  const Check* check;
};

/// Asks one question; items that share the beginning of a prompt share its computation through the session.
Status ask(Engine& engine, Session& session, const Question& question, const NanoOptions& options, NanoReport& report) {
  const Tokenizer& tokenizer = *engine.tokenizer();
  const chat::RenderOptions render{
      .thinking = question.item->thinking ? chat::Thinking::kThinking : chat::Thinking::kChat,
      .drop_thinking = true,
      .trust_system_text = false};
  DS4_ASSIGN_OR_RETURN(const Prompt prompt, chat::render(conversation_of(*question.item, *question.check), render));
  DS4_ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, tokenizer.encode(prompt));
  SyncOptions sync;
  sync.cancel = options.cancel;
  DS4_RETURN_IF_ERROR(session.sync(tokens, sync));

  std::vector<TokenId> output;
  GenerateOptions generate;
  generate.sampling.temperature = 0;
  generate.max_tokens = options.max_tokens;
  generate.stop = {tokenizer.eos()};
  generate.cancel = options.cancel;
  generate.on_token = [&](TokenId token) {
    output.push_back(token);
    return true;
  };
  DS4_ASSIGN_OR_RETURN(const GenerateReport made, session.generate(generate));
  if (made.stop == StopReason::kCancelled) return Error{ErrorCode::kCancelled, "interrupted"};

  Answer answer = take_apart(tokenizer, output, chat::opens_thinking(prompt), !question.item->tools.empty());
  answer.stopped = made.stop == StopReason::kStopToken;
  const bool right = tally(*question.item, *question.check, answer, report);
  report.prompt_tokens += std::ssize(tokens);
  report.answer_tokens += std::ssize(output);
  if (options.on_exchange) {
    options.on_exchange({*question.item, *question.check, answer, tokens, output, right});
  }
  return {};
}

}  // namespace

const std::vector<Skill>& skills() {
  static const std::vector<Skill> all = {
      {"call_form", "tool calls well formed", 0.99},
      {"call_right", "right tools and arguments", 0.95},
      {"result_used", "answer uses the tools' results", 0.95},
      {"missing_tool", "says that the tool is missing", 0},
      {"thinking", "thinks when asked to, and only then", 0.99},
      {"fact", "facts, asked in held-out wordings", 0.80},
      {"unknown", "unknown countries are admitted", 0},
      {"recall 1K", "Name=number facts, 1 K tokens", 0.95},
      {"recall 4K", "Name=number facts, 4 K tokens", 0.90},
      {"recall 16K", "Name=number facts, 16 K tokens", 0.80},
      {"arithmetic", "arithmetic", 0},
      {"lists", "lists", 0},
      {"name", "the user's name, some turns later", 0},
  };
  return all;
}

bool tally(const Item& item, const Check& check, const Answer& answer, NanoReport& report) {
  const bool obeys = obeys_thinking(answer, item.thinking);
  report.skills["thinking"].count(obeys);
  const bool said = answer.stopped && contains_all(answer.text, check.contains);
  if (!check.calls || item.skill != "tool") {
    report.skills[item.skill].count(said);
    return obeys && said;
  }
  const bool same = answer.stopped && same_calls(answer.calls, *check.calls);
  if (check.calls->empty()) {
    // What follows a result; or a request that no tool here can fulfil.
    const bool follows = check.at > 0 && item.messages[check.at - 1].role == chat::Role::kTool;
    report.skills[follows ? "result_used" : "missing_tool"].count(same && said);
    if (!answer.calls.empty() || answer.block_failed) report.skills["call_form"].count(well_formed(answer, item.tools));
    return obeys && same && said;
  }
  report.skills["call_form"].count(well_formed(answer, item.tools));
  report.skills["call_right"].count(same);
  return obeys && same;
}

Result<NanoReport> run_nano(Engine& engine, const std::vector<Item>& items, const NanoOptions& options) {
  if (engine.tokenizer() == nullptr) return Error{ErrorCode::kUsage, "this model has no tokenizer: it cannot be asked"};
  std::vector<Question> questions;
  for (const Item& item : items) {
    if (!item.skill.starts_with(options.only)) continue;
    for (const Check& check : item.checks) questions.push_back({&item, &check});
  }
  if (questions.empty()) return Error{ErrorCode::kUsage, cat("no item has a skill \"", escaped(options.only), "\"")};
  DS4_ASSIGN_OR_RETURN(Session session, engine.new_session());
  NanoReport report;
  std::int64_t done = 0;
  for (const Question& question : questions) {
    DS4_RETURN_IF_ERROR(ask(engine, session, question, options, report));
    if (options.progress) options.progress(++done, std::ssize(questions));
  }
  return report;
}

}  // namespace ds4::eval
