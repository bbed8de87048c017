#include "chat/tool_block.h"

#include <algorithm>
#include <utility>

#include "chat/python_json.h"

namespace ds4::chat {

using dsml::Element;
using dsml::Spelling;

ToolBlock::ToolBlock(Spelling spelling, std::string opening, int first_index, std::size_t max_bytes)
    : family_(spelling), raw_(std::move(opening)), next_index_(first_index), max_bytes_(max_bytes) {}

std::size_t ToolBlock::feed(std::string_view bytes, std::vector<Event>& events) {
  std::size_t taken = 0;
  while (outcome_ == Outcome::kOpen && taken < bytes.size()) {
    const std::size_t room = max_bytes_ - std::min(raw_.size(), max_bytes_);
    const std::size_t run = value_run(bytes.substr(taken, room), events);
    taken += run;
    if (run > 0) continue;
    const char c = bytes[taken];
    // A character that began within the limit may end behind it, so that failing never cuts one in two.
    const bool continues = (static_cast<unsigned char>(c) & 0xC0) == 0x80 && raw_.size() < max_bytes_ + 3;
    if (room == 0 && !continues) {
      fail();
      break;
    }
    ++taken;
    raw_ += c;
    step(c, events);
  }
  return taken;
}

bool ToolBlock::inside_value() const {
  // Two held bytes ("</") are as likely text as tag; a third one tells them apart.
  return state_ == State::kValue && held_.size() <= 2 && (value_is_string_ || in_json_string_);
}

void ToolBlock::step(char c, std::vector<Event>& events) {
  switch (state_) {
    case State::kBetweenInvokes:
    case State::kBetweenParameters:
      if (dsml::is_space(c)) return;
      in_invoke_ = state_ == State::kBetweenParameters;
      state_ = State::kTagHead;
      tag_.clear();
      return tag_head(c);
    case State::kTagHead: return tag_head(c);
    case State::kAttributes: return attributes(c, events);
    case State::kValue: return value_byte(c, events);
  }
}

/// Collects a tag's head and fails at the first byte that no tag allowed here has. The bytes of that wrong tag go back:
/// they may be the beginning of a right one, outside of this block.
void ToolBlock::tag_head(char c) {
  tag_ += c;
  bool possible = false;
  const auto try_head = [&](Spelling spelling, Element element, bool closes) {
    const std::string_view head = closes ? close_head(spelling, element) : open_head(spelling, element);
    if (head.substr(0, tag_.size()) == tag_) possible = true;
    if (head != tag_) return;
    tag_spelling_ = spelling;
    tag_closes_ = closes;
    head_size_ = tag_.size();
    in_quotes_ = false;
    state_ = State::kAttributes;
  };
  for (const Spelling spelling : dsml::kSpellings) {
    if (!same_family(spelling, family_)) continue;
    try_head(spelling, in_invoke_ ? Element::kParameter : Element::kInvoke, false);
    if (in_invoke_) try_head(spelling, Element::kInvoke, true);
    else if (any_call_) try_head(spelling, Element::kToolCalls, true);
  }
  if (possible) return;
  give_back(tag_);
  fail();
}

void ToolBlock::give_back(std::string_view tail) {
  raw_.resize(raw_.size() - tail.size());
  unread_ = tail;
}

void ToolBlock::attributes(char c, std::vector<Event>& events) {
  tag_ += c;
  if (in_quotes_) {
    if (static_cast<unsigned char>(c) < 0x20) return fail();
    in_quotes_ = c != '"';
  } else if (c == '>') {
    finish_tag(events);
  } else if (c == '"' && !tag_closes_) {
    in_quotes_ = true;
  } else if (!dsml::is_space(c) && (tag_closes_ || (c != '=' && (c < 'a' || c > 'z')))) {
    if (c == '<') give_back("<");
    fail();
  }
}

void ToolBlock::finish_tag(std::vector<Event>& events) {
  const std::string text = tag_.substr(head_size_, tag_.size() - head_size_ - 1);
  if (!tag_closes_) return in_invoke_ ? start_parameter(text, events) : start_call(text, events);
  if (in_invoke_) return end_call(events);
  outcome_ = Outcome::kComplete;
}

void ToolBlock::start_call(std::string_view text, std::vector<Event>& events) {
  auto found = dsml::parse_attributes(text);
  if (!found || !found->name || found->name->empty() || found->string) return fail();
  arguments_.clear();
  names_.clear();
  index_ = next_index_++;
  events.push_back({Event::Kind::kToolCallStart, valid_utf8(*found->name), index_});
  state_ = State::kBetweenParameters;
}

void ToolBlock::start_parameter(std::string_view text, std::vector<Event>& events) {
  auto found = dsml::parse_attributes(text);
  if (!found || !found->name) return fail();
  const std::string name = valid_utf8(*found->name);
  if (!names_.insert(name).second) return fail();
  value_spelling_ = tag_spelling_;
  value_is_string_ = found->string.value_or(true);
  held_.clear();
  json_.clear();
  in_json_string_ = after_backslash_ = false;
  std::string opening = arguments_.empty() ? "{" : ", ";
  append_json_string(opening, name);
  opening += value_is_string_ ? ": \"" : ": ";
  arguments(opening, events);
  state_ = State::kValue;
}

void ToolBlock::end_call(std::vector<Event>& events) {
  arguments(arguments_.empty() ? "{}" : "}", events);
  events.push_back({Event::Kind::kToolCallEnd, std::exchange(arguments_, {}), index_});
  any_call_ = true;
  state_ = State::kBetweenInvokes;
}

/// The bytes of a value before the next one that could begin its end: taken in one go.
std::size_t ToolBlock::value_run(std::string_view bytes, std::vector<Event>& events) {
  if (state_ != State::kValue || !held_.empty()) return 0;
  const std::size_t run = std::min(bytes.find_first_of("<&"), bytes.size());
  if (run == 0) return 0;
  raw_ += bytes.substr(0, run);
  value_text(bytes.substr(0, run), events);
  return run;
}

/// '<' and '&' begin the end tag and its escaped form and occur nowhere else in them: after a mismatch what was held is
/// text, and only the byte that broke the match can begin a new one.
void ToolBlock::value_byte(char c, std::vector<Event>& events) {
  const std::string_view end = dsml::value_end(value_spelling_);
  const std::string_view escaped_end = dsml::value_end_escaped(value_spelling_);
  held_ += c;
  if (held_ == end) return end_value(events);
  if (held_ == escaped_end) {
    held_.clear();
    return value_text(end, events);
  }
  if (end.substr(0, held_.size()) == held_ || escaped_end.substr(0, held_.size()) == held_) return;
  const bool may_begin = held_.size() > 1 && (c == '<' || c == '&');
  const std::size_t text = held_.size() - (may_begin ? 1 : 0);
  value_text(std::string_view(held_).substr(0, text), events);
  held_.erase(0, text);
}

void ToolBlock::value_text(std::string_view text, std::vector<Event>& events) {
  if (value_is_string_) {
    std::string characters, json;
    gate_.push(text, characters);
    append_json_escaped(json, characters);
    return arguments(json, events);
  }
  json_ += text;
  for (const char c : text) {
    if (after_backslash_) after_backslash_ = false;
    else if (c == '\\') after_backslash_ = in_json_string_;
    else if (c == '"') in_json_string_ = !in_json_string_;
  }
}

void ToolBlock::end_value(std::vector<Event>& events) {
  std::string json;
  if (value_is_string_) {
    std::string rest;
    gate_.finish(rest);
    json = std::move(rest);
    json += '"';
  } else if (is_json(json_)) {
    json = std::move(json_);
  } else {
    append_json_string(json, valid_utf8(json_));
  }
  arguments(json, events);
  state_ = State::kBetweenParameters;
}

void ToolBlock::arguments(std::string_view json, std::vector<Event>& events) {
  arguments_ += json;
  append_event(events, {Event::Kind::kToolArguments, std::string(json), index_});
}

}  // namespace ds4::chat
