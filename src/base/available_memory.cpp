#include "base/available_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <string_view>

namespace ds4 {

namespace {

std::optional<std::string> read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::optional<std::uint64_t> leading_number(std::string_view text) {
  const std::size_t start = text.find_first_not_of(" \t");
  if (start == std::string_view::npos) return std::nullopt;
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data() + start, text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

/// The number after `key` at the start of a line.
std::optional<std::uint64_t> field(std::string_view text, std::string_view key) {
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view line = text.substr(at, text.find('\n', at) - at);
    if (line.starts_with(key)) return leading_number(line.substr(key.size()));
    at += line.size() + 1;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> number_in(const std::string& path) {
  const auto text = read_text(path);
  return text ? leading_number(*text) : std::nullopt;  // "max" is no number: no limit
}

/// What one group leaves: its limit less what it uses, the page cache not counted as used.
std::optional<std::uint64_t> group_headroom(const std::string& folder) {
  const auto limit = number_in(folder + "/memory.max");
  const auto current = number_in(folder + "/memory.current");
  if (!limit || !current) return std::nullopt;
  const std::string stat = read_text(folder + "/memory.stat").value_or("");
  const std::uint64_t cache = field(stat, "inactive_file ").value_or(0) + field(stat, "active_file ").value_or(0);
  const std::uint64_t used = *current - std::min(*current, cache);
  return *limit - std::min(*limit, used);
}

}  // namespace

std::optional<std::uint64_t> available_memory(const MemorySource& source) {
  std::optional<std::uint64_t> available;
  const auto lower = [&](std::optional<std::uint64_t> bytes) {
    if (bytes) available = std::min(available.value_or(*bytes), *bytes);
  };
  if (const auto kib = field(read_text(source.meminfo).value_or(""), "MemAvailable:")) lower(*kib * 1024);

  // "0::/a/b" is the v2 group; every group from there to the root may have a limit.
  const std::string groups = read_text(source.self_cgroup).value_or("");
  const std::size_t v2 = groups.starts_with("0::") ? 0 : groups.find("\n0::");
  if (v2 == std::string::npos) return available;
  std::string path = groups.substr(groups.find("0::", v2) + 3);
  path = path.substr(0, path.find('\n'));
  while (true) {
    if (path == "/") path.clear();
    lower(group_headroom(source.cgroup_root + path));
    if (path.empty()) return available;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

}  // namespace ds4
