#include "chat/output_parser.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "chat/wire_text.h"

namespace ds4::chat {

using dsml::Spelling;

OutputParser::OutputParser(const OutputOptions& options)
    : options_(options), state_(options.thinking ? State::kReasoning : State::kAnswer), section_(state_) {}

std::vector<Event> OutputParser::feed(std::string_view bytes) {
  DS4_CHECK(state_ != State::kEnded);
  while (!bytes.empty() && state_ != State::kComplete) {
    if (state_ == State::kBlock) {
      bytes.remove_prefix(block_->feed(bytes, events_));
      after_block();
    } else {
      const std::size_t run = tag_.empty() ? std::min(bytes.find_first_of("<\n"), bytes.size()) : 0;
      if (run > 0) release_line_feeds();
      release(bytes.substr(0, run));
      if (run == 0) text_byte(bytes.front());
      bytes.remove_prefix(std::max<std::size_t>(run, 1));
    }
  }
  return take_events();
}

std::vector<Event> OutputParser::finish() {
  DS4_CHECK(state_ != State::kEnded);
  if (state_ == State::kBlock) {
    events_.push_back({Event::Kind::kToolBlockFailed, valid_utf8(block_->raw()), 0, section_ == State::kReasoning});
  } else if (state_ != State::kComplete) {
    release_line_feeds();
    release(std::exchange(tag_, {}));
    finish_characters();
  }
  state_ = State::kEnded;
  events_.push_back({Event::Kind::kEnd});
  return take_events();
}

bool OutputParser::inside_tool_structure() const {
  if (state_ == State::kBlock) return !block_->inside_value();
  return tag_.find("DSML") != std::string::npos;
}

void OutputParser::text_byte(char c) {
  if (!tag_.empty()) return tag_byte(c);
  if (c == '<') return begin_tag();
  if (c == '\n') {
    if (line_feeds_ < 2) ++line_feeds_;
    else release("\n");
    return;
  }
  release_line_feeds();
  release({&c, 1});
}

/// Which tags may begin here. Think tags count only where they make sense, so that text may speak about them; a plain
/// tool block must begin a line and stand outside of a code fence.
void OutputParser::begin_tag() {
  candidate_count_ = 0;
  const auto add = [&](Tag tag) { candidates_[candidate_count_++] = tag; };
  const bool reasoning = state_ == State::kReasoning;
  if (reasoning || blank_) add({Tag::Kind::kEndThink, wire::kEndThink});
  if (blank_) add({Tag::Kind::kThink, wire::kThink});
  if (options_.tools) {
    add({Tag::Kind::kBlock, dsml::block_opening(Spelling::kFull), Spelling::kFull});
    add({Tag::Kind::kBlock, dsml::block_opening(Spelling::kShort), Spelling::kShort});
    const bool begins_line = line_feeds_ > 0 || line_start_;
    if (!reasoning && begins_line && !in_fence_) {
      add({Tag::Kind::kBlock, dsml::block_opening(Spelling::kPlain), Spelling::kPlain});
    }
  }
  tag_.assign(1, '<');
}

/// '<' occurs only at the beginning of the tags: after a mismatch all held bytes are text.
void OutputParser::tag_byte(char c) {
  tag_ += c;
  bool possible = false;
  for (std::size_t i = 0; i < candidate_count_; ++i) {
    const Tag tag = candidates_[i];
    if (tag.text == tag_) return found(tag);
    possible = possible || tag.text.substr(0, tag_.size()) == tag_;
  }
  if (possible) return;
  tag_.pop_back();
  release_line_feeds();
  release(std::exchange(tag_, {}));
  text_byte(c);
}

void OutputParser::found(const Tag& tag) {
  if (tag.kind == Tag::Kind::kBlock) return open_block(tag);
  tag_.clear();
  release_line_feeds();
  finish_characters();
  if (tag.kind == Tag::Kind::kThink && state_ == State::kAnswer) enter(State::kReasoning);
  else if (tag.kind == Tag::Kind::kEndThink && state_ == State::kReasoning) enter(State::kAnswer);
  // Otherwise the section is already the one the tag asks for, and the tag is dropped.
}

void OutputParser::enter(State section) {
  state_ = section_ = section;
  blank_ = line_start_ = true;
  in_fence_ = false;
  fence_ticks_ = 0;
}

void OutputParser::open_block(const Tag& tag) {
  finish_characters();
  std::string opening(std::exchange(line_feeds_, 0), '\n');
  opening += std::exchange(tag_, {});
  block_.emplace(tag.spelling, std::move(opening), next_index_, options_.max_block_bytes);
  state_ = State::kBlock;
}

void OutputParser::after_block() {
  switch (block_->outcome()) {
    case ToolBlock::Outcome::kOpen: return;
    case ToolBlock::Outcome::kComplete:
      state_ = State::kComplete;
      events_.push_back({Event::Kind::kToolBlockEnd, block_->raw()});
      return;
    case ToolBlock::Outcome::kFailed: break;
  }
  const ToolBlock failed = *std::exchange(block_, std::nullopt);
  next_index_ = failed.next_index();
  events_.push_back({Event::Kind::kToolBlockFailed, valid_utf8(failed.raw()), 0, section_ == State::kReasoning});
  state_ = section_;
  blank_ = false;
  see(failed.raw());
  for (const char c : failed.unread()) text_byte(c);
}

void OutputParser::release_line_feeds() { release(std::string(std::exchange(line_feeds_, 0), '\n')); }

void OutputParser::release(std::string_view text) {
  if (text.empty()) return;
  see(text);
  std::string characters;
  gate_.push(text, characters);
  add_text(std::move(characters));
}

void OutputParser::finish_characters() {
  std::string rest;
  gate_.finish(rest);
  add_text(std::move(rest));
}

void OutputParser::add_text(std::string text) {
  const bool reasoning = section_ == State::kReasoning;
  append_event(events_, {reasoning ? Event::Kind::kReasoning : Event::Kind::kText, std::move(text)});
}

/// Keeps track of lines and code fences: three back-quotes at the beginning of a line open a fence, or close it.
void OutputParser::see(std::string_view text) {
  for (const char c : text) {
    blank_ = blank_ && dsml::is_space(c);
    line_start_ = c == '\n';
    if (line_start_) fence_ticks_ = 0;
    else if (c == '`' && fence_ticks_ >= 0) in_fence_ = ++fence_ticks_ == 3 ? !in_fence_ : in_fence_;
    else if (c != ' ' || fence_ticks_ > 0) fence_ticks_ = -1;
  }
}

std::vector<Event> OutputParser::take_events() { return std::exchange(events_, {}); }

}  // namespace ds4::chat
