// What the model's output means, piece by piece. All text is valid UTF-8 except ToolBlockEnd, which is the exact bytes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ds4::chat {

struct Event {
  enum class Kind {
    kReasoning,        // text: a piece
    kText,             // text: a piece
    kToolCallStart,    // index, text: the name
    kToolArguments,    // index, text: a piece of the arguments' JSON
    kToolCallEnd,      // index, text: the whole JSON object
    kToolBlockEnd,     // text: the exact bytes of the block. Only now do its calls count
    kToolBlockFailed,  // text: the block, to be shown as it is; the calls it announced do not count
    kEnd,              // nothing follows
  };
  Kind kind;
  std::string text = {};
  int index = 0;           // of the call, from 0, never used twice by one parser
  bool reasoning = false;  // kToolBlockFailed: the block stood inside thinking

  bool operator==(const Event&) const = default;
};

/// Appends, joining the event with the last one when both are pieces of the same text. Empty pieces are left out.
void append_event(std::vector<Event>& events, Event event);
/// The events with all neighbouring pieces joined: what a caller that does not stream wants.
[[nodiscard]] std::vector<Event> joined(const std::vector<Event>& events);

}  // namespace ds4::chat
