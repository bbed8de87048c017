#include "cli/history.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/text.h"

namespace ds4::cli {

namespace {

// One entry a line: '\' is written "\\", a line feed "\n".
std::string encode(const std::string& entry) {
  std::string out;
  for (const char c : entry) {
    if (c == '\\') out += "\\\\";
    else if (c == '\n') out += "\\n";
    else out += c;
  }
  return out;
}

std::string decode(const std::string& line) {
  std::string out;
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\\' && i + 1 < line.size()) {
      ++i;
      out += line[i] == 'n' ? '\n' : line[i];
    } else {
      out += line[i];
    }
  }
  return out;
}

}  // namespace

std::string History::default_path() {
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state == '/') return std::string(state) + "/ds4/history";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return {};
  return std::string(home) + "/.local/state/ds4/history";
}

History::History(std::string path) : path_(std::move(path)) {
  std::ifstream file(path_);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) entries_.push_back(decode(line));
  }
  if (entries_.size() > kMaxEntries) {
    entries_.erase(entries_.begin(), entries_.end() - static_cast<std::ptrdiff_t>(kMaxEntries));
  }
}

Status History::add(const std::string& entry) {
  if (entry.empty() || (!entries_.empty() && entries_.back() == entry)) return {};
  entries_.push_back(entry);
  if (entries_.size() > kMaxEntries) entries_.erase(entries_.begin());
  return path_.empty() ? Status{} : save();
}

Status History::save() const {
  const auto failed = [&](const std::string& what) {
    return Error{ErrorCode::kIo, cat(escaped(path_, 4096), ": ", what, ": ", std::strerror(errno))};
  };
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), error);
  std::string text;
  for (const std::string& entry : entries_) text += encode(entry) + "\n";
  // Written beside and renamed: two chats at once may lose each other's lines, but never tear the file.
  const std::string part = cat(path_, ".", getpid());
  const int file = open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (file < 0) return failed("cannot write the history");
  const bool written = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  close(file);
  if (written && rename(part.c_str(), path_.c_str()) == 0) return {};
  const Error problem = failed("cannot write the history");
  unlink(part.c_str());
  return problem;
}

}  // namespace ds4::cli
