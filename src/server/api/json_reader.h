// Reading a request's JSON field by field: every field that is taken is remembered, so that the rest can be named.
// The first thing that is wrong is kept, with the path of its field; reading goes on with defaults and the caller asks
// for it once at the end. Values are checked here and nowhere else.
//
// A reader refers to its document, which must outlive it. One thread.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace ds4::server {

using Json = nlohmann::ordered_json;

/// A field that cannot be accepted.
struct FieldError {
  std::string field;    // "messages[2].content"; empty: the body as a whole
  std::string message;  // a sentence that names the field
};

/// Strict JSON: valid UTF-8, no key twice, at most `max_depth` levels, no NUL in strings, numbers within a double.
/// nullopt, and `error` says why.
std::optional<Json> parse_json(std::string_view text, std::string& error, int max_depth = 64);

class JsonReader {
 public:
  /// `path` names this object in messages; empty for the body.
  JsonReader(const Json& object, std::string path, std::optional<FieldError>& error);

  /// The value, or null when it is absent or JSON null. The field counts as read.
  const Json* value(std::string_view name);
  bool has(std::string_view name) { return value(name) != nullptr; }
  /// Fields that change nothing in an answer.
  void accept(std::initializer_list<std::string_view> names);
  /// A field whose meaning would change the answer and is not served: an error unless it is absent, null or `harmless`.
  void refuse_unless(std::string_view name, const std::vector<Json>& harmless, std::string_view what);

  std::optional<std::string> text(std::string_view name);
  std::optional<bool> boolean(std::string_view name);
  /// Whole numbers only; 3.0 counts as one.
  std::optional<std::int64_t> integer(std::string_view name, std::int64_t least, std::int64_t most);
  std::optional<double> number(std::string_view name, double least, double most);
  /// One of `allowed`.
  std::optional<std::string> choice(std::string_view name, const std::vector<std::string>& allowed);

  /// Keeps the first error: "NAME: MESSAGE".
  void fail(std::string_view name, std::string_view message);
  void fail_here(std::string_view message);
  bool failed() const { return error_.has_value(); }

  std::string path_of(std::string_view name) const;
  /// Fields that nobody asked for.
  std::vector<std::string> unread() const;
  std::optional<FieldError>& error() { return error_; }

 private:
  const Json& object_;
  std::string path_;
  std::optional<FieldError>& error_;
  std::set<std::string, std::less<>> read_;
};

/// "a string", "an array of 3": for messages.
std::string kind_of(const Json& value);
/// "[2]" behind a path.
std::string item(std::string_view path, std::size_t index);

}  // namespace ds4::server
