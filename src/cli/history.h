// The lines typed in earlier chats, oldest first, in a file that only its owner may read. Entries may have several
// lines. One per program.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace ds4::cli {

class History {
 public:
  static constexpr std::size_t kMaxEntries = 1000;

  /// $XDG_STATE_HOME/ds4/history, or ~/.local/state/ds4/history; empty without a home.
  static std::string default_path();

  /// A missing file is an empty history. An empty path keeps it in memory.
  explicit History(std::string path);

  const std::vector<std::string>& entries() const { return entries_; }
  /// Appends and saves; a repeated last entry is left out.
  Status add(const std::string& entry);

 private:
  Status save() const;

  std::string path_;
  std::vector<std::string> entries_;
};

}  // namespace ds4::cli
