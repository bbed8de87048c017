// Stop strings in a stream of text: what may be the beginning of one is held back, what comes behind one is dropped.
// One matcher per answer, one thread. Linear in the text for a given set of strings.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ds4 {

class StopStrings {
 public:
  /// Empty strings are a bug of the caller.
  explicit StopStrings(std::vector<std::string> strings);

  /// The text that can be shown now.
  std::string feed(std::string_view text);
  /// The text ended without a hit: what was held back.
  std::string finish();

  bool hit() const { return hit_; }
  /// The string that was complete first; of several that end at the same place the longest.
  const std::string& found() const { return found_; }

 private:
  std::size_t held_from(std::string_view text) const;

  std::vector<std::string> strings_;
  std::string held_;
  bool hit_ = false;
  std::string found_;
};

}  // namespace ds4
