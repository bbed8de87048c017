// What `ds4-eval nano` asks: held-out requests with what a right answer has, read from JSON lines (the format is in
// tools/nano/make_eval.py). Plain values; the reader checks everything, so that the rest need not.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "chat/message.h"

namespace ds4::eval {

struct Call {
  std::string name;
  std::string arguments;  // JSON text of an object
};

/// What is right for the assistant's message at `at` (not the first), given the messages before it.
struct Check {
  std::size_t at = 0;
  std::optional<std::vector<Call>> calls;  // exactly these, in this order; absent: not looked at
  std::vector<std::string> contains;       // in the answer's text
};

struct Item {
  std::string skill;
  bool thinking = false;
  chat::Conversation messages;
  std::vector<std::string> tools;  // JSON text of each function
  std::vector<Check> checks;
};

/// All items of a file's text, the documents of recall items put together; `name` is for messages. One item's messages
/// begin the next one's where they share a document.
Result<std::vector<Item>> parse_items(std::string_view text, const std::string& name);

}  // namespace ds4::eval
