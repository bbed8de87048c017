#include "server/answer_stream.h"

#include "base/text.h"
#include "server/random_id.h"

namespace ds4::server {

namespace {

using Kind = AnswerEvent::Kind;

constexpr std::string_view kBlockOpening = "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke";
constexpr std::string_view kBlockClosing = "\n</｜DSML｜tool_calls>";
constexpr std::string_view kPlainClosing = "\n</tool_calls>";
constexpr const char* kForcedFailed = "the model did not write the tool call that was asked for to its end";

}  // namespace

AnswerStream::AnswerStream(Setup setup)
    : setup_(std::move(setup)),
      parser_(chat::OutputOptions{.thinking = setup_.thinking, .tools = setup_.tools}),
      stops_(setup_.stop) {}

void AnswerStream::emit(AnswerEvent event) { setup_.emit(std::move(event)); }

void AnswerStream::progress(std::int64_t done, std::int64_t total) {
  if (!begun_) {
    begun_ = true;
    AnswerEvent event;
    event.kind = Kind::kBegin;
    event.usage.prompt_tokens = total;
    event.usage.cached_tokens = done;
    emit(std::move(event));
  }
  if (setup_.on_progress) setup_.on_progress(done, total);
}

Verdict AnswerStream::begin() {
  Verdict verdict;
  if (!parser_.in_thinking()) force_call(verdict);
  return verdict;
}

/// A call was asked for: its beginning is written for the model, which goes on from there.
void AnswerStream::force_call(Verdict& verdict) {
  const bool asked = setup_.tool_use == ToolUse::kRequired || setup_.tool_use == ToolUse::kNamed;
  if (!asked || forced_ || !setup_.tools) return;
  forced_ = true;
  const auto add = [&](std::string_view text, bool ours) {
    const auto tokens = tokens_of(text, ours);
    verdict.forced.insert(verdict.forced.end(), tokens.begin(), tokens.end());
  };
  add(kBlockOpening, true);
  if (setup_.tool_use != ToolUse::kNamed) return;
  add(" name=\"", true);
  add(setup_.tool_name, false);
  add("\">\n", true);
}

std::vector<TokenId> AnswerStream::tokens_of(std::string_view text, bool ours) const {
  return setup_.tokenizer->encode_text(text, ours);
}

Verdict AnswerStream::token(const TokenEvent& event) {
  Verdict verdict;
  if (setup_.tokens != nullptr) ++*setup_.tokens;
  if (setup_.tokenizer != nullptr && setup_.tokenizer->is_added(event.token)) {
    markers_.emplace_back(said_.size(), event.bytes.size());
  }
  said_ += event.bytes;
  if (setup_.plain) {
    if (setup_.logprobs) score(event);
    std::string characters;
    gate_.push(event.bytes, characters);
    text(characters, verdict);
    return verdict;
  }
  const bool thought = parser_.in_thinking();
  if (thought) ++reasoning_tokens_;
  else if (setup_.logprobs && !parser_.in_tool_block()) score(event);
  parsed(parser_.feed(event.bytes), verdict);
  if (thought && !parser_.in_thinking() && !parser_.in_tool_block()) force_call(verdict);
  verdict.greedy = parser_.inside_tool_structure();
  return verdict;
}

void AnswerStream::parsed(std::vector<chat::Event> events, Verdict& verdict) {
  using Parsed = chat::Event::Kind;
  for (chat::Event& event : events) {
    if (verdict.stop) return;
    switch (event.kind) {
      case Parsed::kReasoning:
        reasoning_ += event.text;
        emit({.kind = Kind::kReasoning, .text = std::move(event.text)});
        break;
      case Parsed::kText: text(event.text, verdict); break;
      case Parsed::kToolCallStart: call_start(event); break;
      case Parsed::kToolArguments:
        emit_call({.kind = Kind::kCallArguments, .text = std::move(event.text), .index = event.index});
        break;
      case Parsed::kToolCallEnd: call_end(event, verdict); break;
      case Parsed::kToolBlockEnd: block_end(verdict); break;
      case Parsed::kToolBlockFailed: block_failed(event, verdict); break;
      case Parsed::kEnd: break;
    }
  }
}

void AnswerStream::text(std::string_view piece, Verdict& verdict) {
  std::string shown = stops_.feed(piece);
  if (!shown.empty()) emit({.kind = Kind::kText, .text = std::move(shown), .choices = std::exchange(choices_, {})});
  if (!stops_.hit()) return;
  ending_ = Ending::kStopString;
  problem_ = stops_.found();
  verdict.stop = true;
}

void AnswerStream::call_start(const chat::Event& event) {
  std::string rest = stops_.finish();
  if (!rest.empty()) emit({.kind = Kind::kText, .text = std::move(rest), .choices = std::exchange(choices_, {})});
  calls_.push_back({setup_.call_prefix + random_hex(16), event.text, {}});
  emit_call({.kind = Kind::kCallStart, .text = event.text, .index = event.index, .id = calls_.back().id});
}

void AnswerStream::call_end(const chat::Event& event, Verdict& verdict) {
  calls_.back().arguments = event.text;
  emit_call({.kind = Kind::kCallEnd, .text = event.text, .index = event.index, .id = calls_.back().id});
  if (setup_.parallel_calls) return;
  const bool marked = said_.rfind("DSML｜") != std::string::npos;
  verdict.forced = tokens_of(marked ? kBlockClosing : kPlainClosing, true);
}

void AnswerStream::emit_call(AnswerEvent event) {
  if (!setup_.stream) return held_calls_.push_back(std::move(event));
  calls_shown_ = true;
  emit(std::move(event));
}

void AnswerStream::block_end(Verdict& verdict) {
  for (AnswerEvent& event : std::exchange(held_calls_, {})) emit(std::move(event));
  if (setup_.replay != nullptr) setup_.replay->add({calls_, recorded_block(), reasoning_});
  ending_ = Ending::kToolCalls;
  verdict.stop = true;
}

/// Calls that a client has already seen cannot be taken back; others become what they are, text. A call that was asked
/// for is never text: its beginning is ours, not the model's.
void AnswerStream::block_failed(const chat::Event& event, Verdict& verdict) {
  held_calls_.clear();
  calls_.clear();
  if (calls_shown_ || forced_) {
    ending_ = Ending::kError;
    problem_ = forced_ ? kForcedFailed : "the model began a tool call and did not write it to the end";
    verdict.stop = true;
  } else if (event.reasoning) {
    reasoning_ += event.text;
    emit({.kind = Kind::kReasoning, .text = event.text});
  } else {
    text(event.text, verdict);
  }
}

/// The block with its control tokens as markers, so that it becomes the very tokens that were sampled.
Prompt AnswerStream::recorded_block() const {
  const std::string_view raw = parser_.tool_block();
  std::size_t end = said_.size();  // the last token may go on behind the block
  while (end > raw.size() && !std::string_view(said_).substr(0, end).ends_with(raw)) --end;
  std::size_t at = end - raw.size();
  Prompt block;
  const auto text_up_to = [&](std::size_t to) {
    if (to > at) block.push_back({SegmentKind::kUntrusted, said_.substr(at, to - at)});
    at = std::max(at, to);
  };
  for (const auto& [begin, size] : markers_) {
    if (begin < at || begin + size > end) continue;
    text_up_to(begin);
    block.push_back({SegmentKind::kMarker, said_.substr(begin, size)});
    at = begin + size;
  }
  text_up_to(end);
  return block;
}

void AnswerStream::score(const TokenEvent& event) {
  TokenChoice choice;
  choice.token = {std::string(event.bytes), event.logprob};
  for (const TokenLogprob& one : event.top) {
    choice.top.push_back({std::string(setup_.tokenizer->token_bytes(one.token)), one.logprob});
  }
  choices_.push_back(std::move(choice));
}

void AnswerStream::done(const Finish& finish) {
  Verdict ignored;
  const bool complete = ending_ != Ending::kStop;  // decided by what was said
  const bool cut = finish.reason == FinishReason::kMaxTokens || finish.reason == FinishReason::kContextFull;
  const bool failed = finish.reason == FinishReason::kFailed || finish.reason == FinishReason::kDeviceFailed;
  if (!complete && !failed && finish.reason != FinishReason::kCancelled) {
    if (cut && (forced_ || (parser_.in_tool_block() && calls_shown_))) {
      ending_ = Ending::kLength;  // an unfinished call, as the client can see
    } else if (forced_) {
      ending_ = Ending::kError;
      problem_ = kForcedFailed;
    } else {
      if (setup_.plain) {
        std::string characters;
        gate_.finish(characters);
        text(characters, ignored);
      } else {
        parsed(parser_.finish(), ignored);
      }
      std::string rest = stops_.hit() ? std::string() : stops_.finish();
      if (!rest.empty()) emit({.kind = Kind::kText, .text = std::move(rest), .choices = std::exchange(choices_, {})});
      if (cut && ending_ == Ending::kStop) ending_ = Ending::kLength;
    }
  }
  if (setup_.on_complete) setup_.on_complete(said_);
  AnswerEvent end;
  end.kind = Kind::kEnd;
  end.ending = ending_;
  end.text = problem_;
  end.choices = std::exchange(choices_, {});
  if (failed) {
    end.ending = Ending::kError;
    end.retry = finish.reason == FinishReason::kDeviceFailed;
    end.text = finish.error.message;
    end.error = finish.error.code;
  } else if (finish.reason == FinishReason::kCancelled) {
    end.ending = Ending::kCancelled;
  }
  end.usage = {finish.prompt_tokens,  finish.cached_tokens, finish.tokens,
               reasoning_tokens_,     finish.queue_seconds, finish.prompt_seconds,
               finish.answer_seconds, finish.loaded_tokens, finish.load_seconds};
  emit(std::move(end));
}

}  // namespace ds4::server
