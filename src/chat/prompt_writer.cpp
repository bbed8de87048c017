#include "chat/prompt_writer.h"

#include <string>
#include <utility>

#include "chat/wire_text.h"

namespace ds4::chat {

void PromptWriter::marker(std::string_view token) { prompt_.push_back({SegmentKind::kMarker, std::string(token)}); }

void PromptWriter::ours(std::string_view text) {
  while (!text.empty()) {
    std::size_t first = std::string_view::npos;
    std::string_view token;
    for (const std::string_view candidate : {wire::kDsml, wire::kThink, wire::kEndThink}) {
      const std::size_t at = text.find(candidate);
      if (at < first) {
        first = at;
        token = candidate;
      }
    }
    if (token.empty()) break;
    add(SegmentKind::kTrusted, text.substr(0, first));
    marker(token);
    text.remove_prefix(first + token.size());
  }
  add(SegmentKind::kTrusted, text);
}

void PromptWriter::trusted(std::string_view text) { add(SegmentKind::kTrusted, text); }

void PromptWriter::untrusted(std::string_view text) { add(SegmentKind::kUntrusted, text); }

void PromptWriter::untrusted_replacing(std::string_view text, std::string_view from, std::string_view to) {
  for (std::size_t at = text.find(from); at != std::string_view::npos; at = text.find(from)) {
    untrusted(text.substr(0, at));
    untrusted(to);
    text.remove_prefix(at + from.size());
  }
  untrusted(text);
}

void PromptWriter::segments(const Prompt& recorded) {
  for (const PromptSegment& segment : recorded) {
    if (segment.kind == SegmentKind::kMarker) marker(segment.bytes);
    else add(segment.kind, segment.bytes);
  }
}

void PromptWriter::add(SegmentKind kind, std::string_view text) {
  if (text.empty()) return;
  if (!prompt_.empty() && prompt_.back().kind == kind) {
    prompt_.back().bytes += text;
  } else {
    prompt_.push_back({kind, std::string(text)});
  }
}

}  // namespace ds4::chat
