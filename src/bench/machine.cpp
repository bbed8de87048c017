#include "bench/machine.h"

#include <sys/utsname.h>

#include <charconv>
#include <ctime>
#include <fstream>
#include <optional>
#include <string_view>

#include "base/cpus.h"
#include "base/text.h"

namespace ds4::bench {

namespace {

/// What follows "key" and a colon on the first such line of a /proc file.
std::optional<std::string> proc_field(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t colon = line.find(':');
    const std::size_t begin = colon == std::string::npos ? colon : line.find_first_not_of(" \t", colon + 1);
    if (begin != std::string::npos) return line.substr(begin);
  }
  return std::nullopt;
}

std::optional<std::uint64_t> proc_kib(const char* path, std::string_view key) {
  const auto text = proc_field(path, key);
  std::uint64_t kib = 0;
  if (!text || std::from_chars(text->data(), text->data() + text->size(), kib).ec != std::errc()) return std::nullopt;
  return kib * 1024;
}

std::string utc_date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &utc)};
}

}  // namespace

std::string load_average() {
  std::ifstream file("/proc/loadavg");
  std::string one, five, fifteen;
  if (!(file >> one >> five >> fifteen)) return "";
  return cat(one, " ", five, " ", fifteen);
}

Facts machine_facts() {
  Facts facts = {{"date", utc_date()}};
  utsname system{};
  if (::uname(&system) == 0)
    facts.emplace_back("system", cat(system.sysname, " ", system.release, " ", system.machine));
  for (const char* key : {"model name", "CPU part"}) {  // the second is what arm64 has
    const auto cpu = proc_field("/proc/cpuinfo", key);
    if (!cpu) continue;
    facts.emplace_back("cpu", *cpu);
    break;
  }
  facts.emplace_back("cpus", cat(available_cpus(), " usable, ", default_thread_count(), " cores"));
  if (const auto bytes = proc_kib("/proc/meminfo", "MemTotal")) facts.emplace_back("memory", human_bytes(*bytes));
  if (const std::string load = load_average(); !load.empty()) facts.emplace_back("load", load);
  return facts;
}

void forget_peak_resident() { std::ofstream("/proc/self/clear_refs") << "5\n"; }

std::uint64_t peak_resident_bytes() { return proc_kib("/proc/self/status", "VmHWM").value_or(0); }

}  // namespace ds4::bench
