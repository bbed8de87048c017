// Structured lines for standard error: "ts=... level=info event=request id=... status=200". Values are quoted when they
// need it and escaped; nothing of a prompt or a key belongs here. Any thread.
#pragma once

#include <initializer_list>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>

namespace ds4::server {

class Log {
 public:
  using Field = std::pair<std::string_view, std::string>;

  explicit Log(bool quiet = false) : quiet_(quiet) {}
  void info(std::string_view event, std::initializer_list<Field> fields) { line("info", event, fields); }
  void warn(std::string_view event, std::initializer_list<Field> fields) { line("warn", event, fields); }
  void error(std::string_view event, std::initializer_list<Field> fields) { line("error", event, fields); }
  /// Only the first time that this `key` comes.
  void once(const std::string& key, std::string_view event, std::initializer_list<Field> fields);

 private:
  void line(std::string_view level, std::string_view event, std::initializer_list<Field> fields);

  bool quiet_;
  std::mutex mutex_;
  std::set<std::string> seen_;
};

/// A value of a field: as it is, or quoted and escaped.
std::string log_value(std::string_view value);

}  // namespace ds4::server
