// An answer, piece by piece and as a whole, before any dialect has put it into words. Plain values. All text is UTF-8.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace ds4::server {

struct TokenInfo {
  std::string bytes;
  double logprob = 0;
};
struct TokenChoice {
  TokenInfo token;
  std::vector<TokenInfo> top;
};

enum class Ending { kStop, kStopString, kLength, kToolCalls, kCancelled, kError };

struct Usage {
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;
  std::int64_t answer_tokens = 0;
  std::int64_t reasoning_tokens = 0;
  double queue_seconds = 0, prompt_seconds = 0, answer_seconds = 0;
  std::int64_t loaded_tokens = 0;  // of the cached ones, from disk
  double load_seconds = 0;         // of the prompt's time
};

struct AnswerEvent {
  enum class Kind {
    kBegin,          // the request has left the queue; usage has the prompt's numbers
    kReasoning,      // text: a piece
    kText,           // text: a piece; choices
    kCallStart,      // index, id, text: the name
    kCallArguments,  // index, text: a piece of JSON
    kCallEnd,        // index, id, text: all of the JSON
    kEnd,            // ending, usage, text: the stop string, or what went wrong; nothing follows
  };
  Kind kind = Kind::kBegin;
  std::string text = {};
  int index = 0;
  std::string id = {};
  std::vector<TokenChoice> choices = {};
  Ending ending = Ending::kStop;
  ErrorCode error = ErrorCode::kFailure;
  bool retry = false;  // the error is none of the request's: it may be answered a little later
  Usage usage = {};
};

/// All of it.
struct Answer {
  struct Call {
    std::string id, name, arguments;
  };
  std::string reasoning;
  std::string text;
  std::vector<Call> calls;
  std::vector<TokenChoice> choices;
  AnswerEvent end;

  void add(const AnswerEvent& event) {
    using Kind = AnswerEvent::Kind;
    choices.insert(choices.end(), event.choices.begin(), event.choices.end());
    if (event.kind == Kind::kReasoning) reasoning += event.text;
    else if (event.kind == Kind::kText) text += event.text;
    else if (event.kind == Kind::kCallStart) calls.push_back({event.id, event.text, {}});
    else if (event.kind == Kind::kCallArguments) calls.back().arguments += event.text;
    else if (event.kind == Kind::kEnd) end = event;
  }
};

}  // namespace ds4::server
