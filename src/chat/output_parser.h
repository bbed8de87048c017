// The model's output, in pieces of any size, as events: reasoning, text, tool calls. However the bytes are cut, the
// joined events are the same. docs/formats/chat.md has the rules.
//
// One parser per answer, one thread (it is cheap: the engine's worker or the request's thread). The caller ends the
// answer at the end-of-sequence token, whose bytes are not fed, or when tool_block_complete().
//
// Held back between calls: line feeds that may belong to a tool block (two at most), the beginning of a tag, the bytes
// of an unfinished character, and a JSON value until its end tag. Each byte is looked at once.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/event.h"
#include "chat/tool_block.h"
#include "chat/utf8_gate.h"

namespace ds4::chat {

struct OutputOptions {
  bool thinking = false;                    // the prompt ended with <think>; see opens_thinking()
  bool tools = true;                        // without tools, nothing is a tool block
  std::size_t max_block_bytes = 64 * 1024;  // a tool block that is longer fails
};

class OutputParser {
 public:
  explicit OutputParser(const OutputOptions& options);

  std::vector<Event> feed(std::string_view bytes);
  /// The output ended: what was held back is released, an open tool block fails, kEnd is last. Feeding more is a bug.
  std::vector<Event> finish();

  bool in_thinking() const { return state_ == State::kReasoning; }
  bool in_tool_block() const { return state_ == State::kBlock; }
  /// The next byte is tag or JSON structure of a tool block: to be sampled greedily.
  bool inside_tool_structure() const;
  /// The next byte belongs to a parameter's text: to be sampled as the request says.
  bool inside_tool_value() const { return state_ == State::kBlock && block_->inside_value(); }
  /// The turn is over; bytes fed from here on are dropped.
  bool tool_block_complete() const { return block_ && block_->outcome() == ToolBlock::Outcome::kComplete; }
  /// The exact bytes of the complete block, with the line feeds before it: text + block is the output, byte for byte.
  std::string_view tool_block() const { return tool_block_complete() ? block_->raw() : std::string_view(); }

 private:
  enum class State { kReasoning, kAnswer, kBlock, kComplete, kEnded };
  struct Tag {
    enum class Kind { kThink, kEndThink, kBlock };
    Kind kind = Kind::kThink;
    std::string_view text = {};
    dsml::Spelling spelling = dsml::Spelling::kFull;
  };

  void text_byte(char c);
  void begin_tag();
  void tag_byte(char c);
  void found(const Tag& tag);
  void enter(State section);
  void open_block(const Tag& tag);
  void after_block();
  void release_line_feeds();
  void release(std::string_view text);
  void finish_characters();
  void add_text(std::string text);
  void see(std::string_view text);
  std::vector<Event> take_events();

  OutputOptions options_;
  State state_;
  State section_;  // kReasoning or kAnswer: where text goes, and where a failed block returns to
  std::vector<Event> events_;
  std::optional<ToolBlock> block_;
  int next_index_ = 0;

  std::size_t line_feeds_ = 0;  // held
  std::string tag_;             // held: the beginning of some of candidates_
  std::array<Tag, 5> candidates_;
  std::size_t candidate_count_ = 0;
  Utf8Gate gate_;

  bool blank_ = true;       // nothing but white space in this section so far
  bool line_start_ = true;  // the next byte begins a line
  int fence_ticks_ = 0;     // back-quotes at the beginning of this line; -1 when it begins with something else
  bool in_fence_ = false;   // inside a ``` fence of the answer
};

}  // namespace ds4::chat
