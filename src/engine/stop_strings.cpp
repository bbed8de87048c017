#include "engine/stop_strings.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace ds4 {

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  for (const std::string& string : strings_) DS4_CHECK(!string.empty());
}

std::string StopStrings::feed(std::string_view text) {
  if (hit_) return {};
  if (strings_.empty()) return std::string(text);
  std::string all = std::exchange(held_, {});
  all += text;
  // The one that is complete first, and of those the longest: the same however the text was cut.
  std::size_t first_end = std::string::npos;
  for (const std::string& string : strings_) {
    const std::size_t at = all.find(string);
    if (at == std::string::npos) continue;
    const std::size_t end = at + string.size();
    if (end > first_end || (end == first_end && string.size() <= found_.size())) continue;
    first_end = end;
    found_ = string;
  }
  if (first_end != std::string::npos) {
    hit_ = true;
    all.resize(first_end - found_.size());
    return all;
  }
  held_ = all.substr(held_from(all));
  all.resize(all.size() - held_.size());
  return all;
}

/// Where the earliest tail begins that some string begins with.
std::size_t StopStrings::held_from(std::string_view text) const {
  std::size_t held = 0;
  for (const std::string& string : strings_) {
    for (std::size_t size = std::min(string.size() - 1, text.size()); size > held; --size) {
      if (text.ends_with(std::string_view(string).substr(0, size))) {
        held = size;
        break;
      }
    }
  }
  return text.size() - held;
}

std::string StopStrings::finish() { return std::exchange(held_, {}); }

}  // namespace ds4
