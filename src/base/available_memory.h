// How much memory this process may still take: what the system has available, and what the control groups (v2) above
// the process leave, whichever is less. Page cache counts as free, since mapped weights live there. Linux; where the
// files are missing nothing is known and nothing is refused. Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ds4 {

/// Where to look; tests point it at a folder of their own.
struct MemorySource {
  std::string meminfo = "/proc/meminfo";
  std::string self_cgroup = "/proc/self/cgroup";
  std::string cgroup_root = "/sys/fs/cgroup";
};

std::optional<std::uint64_t> available_memory(const MemorySource& source = {});

}  // namespace ds4
