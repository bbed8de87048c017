// One answer of the model, taken apart, and what is right about it. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/items.h"

namespace ds4::eval {

struct Answer {
  std::string reasoning;
  std::string text;
  std::vector<Call> calls;    // of complete blocks
  bool block_failed = false;  // a tool block that broke off or is not in the grammar
  bool stopped = false;       // the model ended it, not a limit
  int opened = 0;             // <think> tokens written
  int closed = 0;             // </think> tokens written
};

/// Every text of `wanted` stands in `text`, and not as a part of a longer word or number.
bool contains_all(std::string_view text, std::span<const std::string> wanted);

/// The same calls in the same order: names equal, arguments equal as JSON values.
bool same_calls(std::span<const Call> calls, std::span<const Call> wanted);

/// A complete block of calls, each of a tool that there is, with its required parameters, no others than it has, and
/// each of the schema's type. `tools` are the functions' schemas as JSON text.
bool well_formed(const Answer& answer, std::span<const std::string> tools);

/// Thinking asked for: some reasoning, closed once. Not asked for: no tag at all.
bool obeys_thinking(const Answer& answer, bool thinking);

}  // namespace ds4::eval
