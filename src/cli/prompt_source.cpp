#include "cli/prompt_source.h"

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/text.h"
#include "cli/interrupt.h"

namespace ds4::cli {

Result<std::string> read_input(const std::string& path) {
  const bool standard = path == "-";
  const auto failed = [&] {
    return Error{ErrorCode::kUsage,
                 cat(standard ? std::string("standard input") : escaped(path, 4096), ": ", std::strerror(errno))};
  };
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> opened(standard ? nullptr : std::fopen(path.c_str(), "rb"),
                                                         std::fclose);
  if (!standard && opened == nullptr) return failed();
  std::FILE* file = standard ? stdin : opened.get();
  std::string text;
  char buffer[1 << 16];
  while (true) {
    const std::size_t count = std::fread(buffer, 1, sizeof buffer, file);
    text.append(buffer, count);
    if (count == sizeof buffer) continue;
    if (interrupted()) return Error{ErrorCode::kCancelled, "interrupted"};
    if (std::ferror(file) != 0) return failed();
    return text;
  }
}

Result<std::vector<TokenId>> parse_token_ids(std::string_view text, const std::string& name) {
  std::vector<TokenId> ids;
  const auto separates = [](char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == ','; };
  for (std::size_t at = 0; at < text.size();) {
    if (separates(text[at])) {
      ++at;
      continue;
    }
    TokenId id = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + text.size(), id);
    const auto stop = static_cast<std::size_t>(end - text.data());
    if (error != std::errc() || id < 0 || (stop < text.size() && !separates(text[stop]))) {
      const std::size_t word_end = text.find_first_of(" \n\r\t,", at);
      return Error{ErrorCode::kUsage,
                   cat(escaped(name, 4096), ": at byte ", at, ": expected a decimal token id, found \"",
                       escaped(text.substr(at, word_end - at), 32), "\"")};
    }
    ids.push_back(id);
    at = stop;
  }
  if (ids.empty()) return Error{ErrorCode::kUsage, cat(escaped(name, 4096), ": no token ids in it")};
  return ids;
}

}  // namespace ds4::cli
