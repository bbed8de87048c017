#include "server/log.h"

#include <chrono>
#include <cstdio>
#include <ctime>

#include "base/text.h"

namespace ds4::server {

namespace {

constexpr std::size_t kMostKeys = 1000;

std::string timestamp() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char text[40];
  const std::size_t size = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(text + size, sizeof text - size, ".%03dZ", static_cast<int>(milliseconds));
  return text;
}

}  // namespace

std::string log_value(std::string_view value) {
  const bool plain =
      !value.empty() && value.find_first_of(" \"=\\") == std::string_view::npos && is_printable_utf8(value);
  return plain ? std::string(value) : cat("\"", escaped(value, 400), "\"");
}

void Log::line(std::string_view level, std::string_view event, std::initializer_list<Field> fields) {
  if (quiet_) return;
  std::string text = cat("ts=", timestamp(), " level=", level, " event=", event);
  for (const auto& [name, value] : fields) text += cat(" ", name, "=", log_value(value));
  text += '\n';
  std::fputs(text.c_str(), stderr);
}

void Log::once(const std::string& key, std::string_view event, std::initializer_list<Field> fields) {
  {
    const std::lock_guard lock(mutex_);
    if (seen_.size() >= kMostKeys || !seen_.insert(key).second) return;
  }
  line("info", event, fields);
}

}  // namespace ds4::server
