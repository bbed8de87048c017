// JSON printed the way Python's json.dumps(value, ensure_ascii=False) prints it, which is what the model saw in
// training: ", " and ": " between items, keys in their order, non-ASCII as it is, floats in Python's shortest form,
// integers as written. Text in, text out. Not accepted, although Python would: NaN, Infinity, a key twice in one
// object, a number beyond the range of a double, a lone surrogate.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ds4::chat {

/// Any JSON value, re-printed. The error says where the text stops being JSON.
[[nodiscard]] Result<std::string> python_json(std::string_view json);

struct Argument {
  std::string name;
  bool is_string = false;
  std::string value;  // a string: its decoded text; anything else: Python-style JSON
};

/// The members of a JSON object, in order. Text that is no object is an error.
[[nodiscard]] Result<std::vector<Argument>> split_arguments(std::string_view json);

/// Is `text` one JSON value (white space around it allowed)?
[[nodiscard]] bool is_json(std::string_view text);

/// Appends `text` (UTF-8) escaped for the inside of a JSON string.
void append_json_escaped(std::string& out, std::string_view text);
/// Appends `text` as a JSON string, with its quotes.
void append_json_string(std::string& out, std::string_view text);

}  // namespace ds4::chat
