#include "chat/event.h"

#include <utility>

namespace ds4::chat {

void append_event(std::vector<Event>& events, Event event) {
  using Kind = Event::Kind;
  const bool piece = event.kind == Kind::kReasoning || event.kind == Kind::kText || event.kind == Kind::kToolArguments;
  if (piece && event.text.empty()) return;
  if (piece && !events.empty() && events.back().kind == event.kind && events.back().index == event.index) {
    events.back().text += event.text;
  } else {
    events.push_back(std::move(event));
  }
}

std::vector<Event> joined(const std::vector<Event>& events) {
  std::vector<Event> out;
  for (const Event& event : events) append_event(out, event);
  return out;
}

}  // namespace ds4::chat
