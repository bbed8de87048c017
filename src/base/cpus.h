// How many CPUs this process may really use: what the scheduler's affinity mask and the cgroup's CPU quota leave.
// Asking for more threads than that costs more than it brings. Pure functions of the system; any thread.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace ds4 {

/// Logical CPUs this process may run on, at least 1: affinity mask, cut by the cgroup quota (rounded down).
[[nodiscard]] int available_cpus();

/// One thread per physical core of those CPUs: kernels are bound by memory and by the vector units, which hyper-threads
/// share. At least 1, never more than available_cpus().
[[nodiscard]] int default_thread_count();

/// Where the threads of a pool run. Thread i stays on cpu[i]; without CPUs the system moves threads as it likes.
/// Threads whose CPUs share a memory (a NUMA node) are a group: what a thread of a group has first written lies near
/// all of it.
struct Placement {
  std::vector<int> cpu;    // [threads] or empty
  std::vector<int> group;  // [threads] ascending from 0, or empty: all in one
  int groups() const { return group.empty() ? 1 : group.back() + 1; }
  /// Threads that stay nowhere, in groups of equal size: at most one for each thread.
  static Placement unpinned(int threads, int groups);
};

enum class Pinning {
  kAuto,  // one thread per core, where this process has the whole machine and uses every core of it
  kOff,
  kOn,  // one thread per core of those it may use, equally many of each memory
};

/// "auto", "on", "off".
[[nodiscard]] std::optional<Pinning> pinning_from_name(std::string_view name);

/// An error only when it is kOn and there are more threads than cores.
[[nodiscard]] Result<Placement> place_threads(int threads, Pinning pinning);

/// The calling thread may run on these CPUs only; nothing happens where the system refuses.
void run_on_cpus(std::span<const int> ids);

/// The same questions against a given tree, so that tests can ask about other machines.
namespace cpus {
/// Ids of the CPUs in the affinity mask of the calling thread.
[[nodiscard]] std::vector<int> affinity();
/// "0-3,8" -> 0 1 2 3 8. Stops at the first thing that is not a list.
[[nodiscard]] std::vector<int> parse_list(std::string_view text);
/// How many physical cores `ids` cover, by <sysfs>/devices/system/cpu/cpuN/topology; unknown topology: all of them.
[[nodiscard]] int physical_cores(std::span<const int> ids, const std::string& sysfs);
/// The first of `ids` on each core, cores of one memory (<sysfs>/devices/system/node) together.
struct Core {
  int cpu;
  int node;
};
[[nodiscard]] std::vector<Core> cores(std::span<const int> ids, const std::string& sysfs);
[[nodiscard]] Result<Placement> place_threads(int threads, Pinning pinning, std::span<const int> ids, bool has_quota,
                                              const std::string& sysfs);
/// CPUs that the cgroup (v2, or the v1 cpu controller) of <proc>/self/cgroup and its parents may use; nothing if
/// unlimited.
[[nodiscard]] std::optional<double> quota(const std::string& proc, const std::string& sysfs);
}  // namespace cpus

/// Whether this process may use the matrix unit of x86 (AMX, int8). The system keeps its registers only for processes
/// that asked: the first call asks, before it the unit does not work.
bool has_amx_int8();

}  // namespace ds4
