// One tool block of the model's output, from behind its opening tag to its closing tag, byte by byte. Calls are
// announced while they are written; they count only when the block is complete. A block that is not what the grammar
// (docs/formats/chat.md) says, or that outgrows its limit, fails: nothing is guessed.
//
// Every byte is looked at once; what is kept is the bytes of the block. Owned and driven by OutputParser.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "chat/dsml.h"
#include "chat/event.h"
#include "chat/utf8_gate.h"

namespace ds4::chat {

class ToolBlock {
 public:
  enum class Outcome { kOpen, kComplete, kFailed };

  /// `opening`: the bytes read so far, up to and with the opening tag. Calls are numbered from `first_index`.
  ToolBlock(dsml::Spelling spelling, std::string opening, int first_index, std::size_t max_bytes);

  /// Reads until the block ends or fails, at most to the end of `bytes`; returns how many bytes it took.
  std::size_t feed(std::string_view bytes, std::vector<Event>& events);

  Outcome outcome() const { return outcome_; }
  /// The bytes of the block, without unread().
  const std::string& raw() const { return raw_; }
  /// When the block failed: bytes it took but that belong to what follows (the beginning of some other tag).
  const std::string& unread() const { return unread_; }
  int next_index() const { return next_index_; }
  /// The next byte belongs to a value that the model words freely: raw text, or the inside of a JSON string.
  bool inside_value() const;

 private:
  enum class State { kBetweenInvokes, kBetweenParameters, kTagHead, kAttributes, kValue };

  void step(char c, std::vector<Event>& events);
  std::size_t value_run(std::string_view bytes, std::vector<Event>& events);
  void tag_head(char c);
  void attributes(char c, std::vector<Event>& events);
  void finish_tag(std::vector<Event>& events);
  void start_call(std::string_view text, std::vector<Event>& events);
  void start_parameter(std::string_view text, std::vector<Event>& events);
  void end_call(std::vector<Event>& events);
  void value_byte(char c, std::vector<Event>& events);
  void value_text(std::string_view text, std::vector<Event>& events);
  void end_value(std::vector<Event>& events);
  void arguments(std::string_view json, std::vector<Event>& events);
  void give_back(std::string_view tail);
  void fail() { outcome_ = Outcome::kFailed; }

  dsml::Spelling family_;
  std::string raw_;
  std::string unread_;
  int next_index_;
  std::size_t max_bytes_;
  Outcome outcome_ = Outcome::kOpen;
  State state_ = State::kBetweenInvokes;
  bool any_call_ = false;
  int index_ = 0;  // of the call that is being read

  // The tag that is being read.
  std::string tag_;
  bool in_invoke_ = false;  // where the tag stands: between parameters, or between invokes
  bool tag_closes_ = false;
  dsml::Spelling tag_spelling_ = dsml::Spelling::kFull;
  std::size_t head_size_ = 0;
  bool in_quotes_ = false;

  // The call and the value that are being read.
  std::string arguments_;
  std::unordered_set<std::string> names_;
  dsml::Spelling value_spelling_ = dsml::Spelling::kFull;
  bool value_is_string_ = true;
  std::string held_;  // bytes of a value that may be the beginning of its end
  std::string json_;  // a JSON value, kept until it can be checked
  bool in_json_string_ = false;
  bool after_backslash_ = false;
  Utf8Gate gate_;
};

}  // namespace ds4::chat
