#include "base/cpus.h"

#ifdef __linux__
#include <sched.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "base/text.h"

namespace ds4 {
namespace cpus {

namespace {

std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

std::optional<long> first_number(const std::string& path) {
  const auto line = first_line(path);
  long value = 0;
  if (!line || std::from_chars(line->data(), line->data() + line->size(), value).ec != std::errc()) return std::nullopt;
  return value;
}

/// cpu.max of cgroup v2: "150000 100000", or "max 100000".
std::optional<double> quota_v2(const std::string& folder) {
  const auto line = first_line(folder + "/cpu.max");
  if (!line) return std::nullopt;
  std::istringstream words(*line);
  double microseconds = 0;
  double period = 0;
  if (!(words >> microseconds >> period) || microseconds <= 0 || period <= 0) return std::nullopt;
  return microseconds / period;
}

std::optional<double> quota_v1(const std::string& folder) {
  const auto microseconds = first_number(folder + "/cpu.cfs_quota_us");  // -1: unlimited
  const auto period = first_number(folder + "/cpu.cfs_period_us");
  if (!microseconds || !period || *microseconds <= 0 || *period <= 0) return std::nullopt;
  return static_cast<double>(*microseconds) / static_cast<double>(*period);
}

bool has_word(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    const std::size_t comma = list.find(',');
    if (list.substr(0, comma) == word) return true;
    if (comma == std::string_view::npos) return false;
    list.remove_prefix(comma + 1);
  }
  return false;
}

}  // namespace

std::vector<int> parse_list(std::string_view text) {
  std::vector<int> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    int first = 0;
    const auto head = std::from_chars(at, end, first);
    if (head.ec != std::errc() || first < 0) return ids;
    int last = first;
    at = head.ptr;
    if (at < end && *at == '-') {
      const auto tail = std::from_chars(at + 1, end, last);
      if (tail.ec != std::errc() || last < first || last - first > 65536) return ids;
      at = tail.ptr;
    }
    for (int id = first; id <= last; ++id) ids.push_back(id);
    if (at == end || *at != ',') return ids;
    ++at;
  }
  return ids;
}

int physical_cores(std::span<const int> ids, const std::string& sysfs) {
  return static_cast<int>(cores(ids, sysfs).size());
}

std::vector<Core> cores(std::span<const int> ids, const std::string& sysfs) {
  std::map<int, int> node_of;
  const std::filesystem::path nodes = sysfs + "/devices/system/node";
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(nodes, none)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("node")) continue;
    const std::vector<int> number = parse_list(std::string_view(name).substr(4));
    if (number.size() != 1) continue;
    for (const int id : parse_list(first_line(entry.path().string() + "/cpulist").value_or("")))
      node_of[id] = number[0];
  }
  std::set<int> seen;  // a core is named by the lowest of its hyper-threads
  std::vector<Core> found;
  for (const int id : ids) {
    const std::string topology = sysfs + "/devices/system/cpu/cpu" + std::to_string(id) + "/topology/";
    const std::vector<int> siblings = parse_list(first_line(topology + "thread_siblings_list").value_or(""));
    if (!seen.insert(siblings.empty() ? id : *std::min_element(siblings.begin(), siblings.end())).second) continue;
    const auto node = node_of.find(id);
    found.push_back({id, node == node_of.end() ? 0 : node->second});
  }
  std::stable_sort(found.begin(), found.end(), [](const Core& a, const Core& b) { return a.node < b.node; });
  return found;
}

Result<Placement> place_threads(int threads, Pinning pinning, std::span<const int> ids, bool has_quota,
                                const std::string& sysfs) {
  if (pinning == Pinning::kOff) return Placement{};
  const std::vector<Core> all = cores(ids, sysfs);
  const auto count = static_cast<int>(all.size());
  if (pinning == Pinning::kOn && threads > count)
    return Error{ErrorCode::kUsage, cat("pinned threads: expected at most ", count, ", one for each core that this ",
                                        "process may use, found ", threads)};
  if (pinning == Pinning::kAuto) {
    // Whoever shares the machine, by a mask, a quota or fewer threads, may share it with a second process like this
    // one, which would choose the same CPUs.
    const std::vector<int> online = parse_list(first_line(sysfs + "/devices/system/cpu/online").value_or(""));
    if (threads != count || has_quota || !std::equal(ids.begin(), ids.end(), online.begin(), online.end()))
      return Placement{};
  }
  Placement placement;
  int node = -1;
  for (int thread = 0; thread < threads; ++thread) {
    const Core& core = all[static_cast<std::size_t>(thread * count / threads)];
    placement.cpu.push_back(core.cpu);
    placement.group.push_back(thread == 0 ? 0 : placement.group.back() + (core.node != node ? 1 : 0));
    node = core.node;
  }
  return placement;
}

std::optional<double> quota(const std::string& proc, const std::string& sysfs) {
  std::optional<double> least;
  const auto narrow = [&](std::optional<double> limit) {
    if (limit && (!least || *limit < *least)) least = limit;
  };
  std::ifstream groups(proc + "/self/cgroup");
  std::string line;  // "0::/path" (v2) or "4:cpu,cpuacct:/path" (v1)
  while (std::getline(groups, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string_view controllers = std::string_view(line).substr(first + 1, second - first - 1);
    const bool v2 = controllers.empty();
    if (!v2 && !has_word(controllers, "cpu")) continue;
    const std::string mount = sysfs + (v2 ? "/fs/cgroup" : "/fs/cgroup/cpu");
    // A parent's quota binds its children, so every level up to the mount counts.
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      while (!path.empty() && path.back() == '/') path.pop_back();
      narrow(v2 ? quota_v2(mount + path) : quota_v1(mount + path));
      if (path.find('/') == std::string::npos) break;
    }
  }
  return least;
}

std::vector<int> affinity() {
  std::vector<int> ids;
#ifdef __linux__
  // The mask must be at least as long as the kernel's, which can be longer than cpu_set_t.
  for (int capacity = CPU_SETSIZE; capacity <= CPU_SETSIZE * 64; capacity *= 2) {
    cpu_set_t* const set = CPU_ALLOC(static_cast<std::size_t>(capacity));
    const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(capacity));
    CPU_ZERO_S(bytes, set);
    const int failed = ::sched_getaffinity(0, bytes, set);
    const int reason = errno;
    for (int id = 0; failed == 0 && id < capacity; ++id) {
      if (CPU_ISSET_S(static_cast<std::size_t>(id), bytes, set)) ids.push_back(id);
    }
    CPU_FREE(set);
    if (failed == 0 || reason != EINVAL) break;
  }
#endif
  if (ids.empty()) {
    const int count = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    for (int id = 0; id < count; ++id) ids.push_back(id);
  }
  return ids;
}

}  // namespace cpus

namespace {

int cut_by_quota(int count) {
  const std::optional<double> limit = cpus::quota("/proc", "/sys");
  if (limit && *limit < count) count = static_cast<int>(*limit);
  return std::max(1, count);
}

}  // namespace

int available_cpus() { return cut_by_quota(static_cast<int>(cpus::affinity().size())); }

Placement Placement::unpinned(int threads, int groups) {
  Placement placement;
  groups = std::clamp(groups, 1, threads);
  for (int thread = 0; thread < threads; ++thread) placement.group.push_back(thread * groups / threads);
  return placement;
}

std::optional<Pinning> pinning_from_name(std::string_view name) {
  if (name == "auto") return Pinning::kAuto;
  if (name == "off") return Pinning::kOff;
  if (name == "on") return Pinning::kOn;
  return std::nullopt;
}

Result<Placement> place_threads(int threads, Pinning pinning) {
  return cpus::place_threads(threads, pinning, cpus::affinity(), cpus::quota("/proc", "/sys").has_value(), "/sys");
}

void run_on_cpus(std::span<const int> ids) {
#ifdef __linux__
  if (ids.empty()) return;
  const int capacity = *std::max_element(ids.begin(), ids.end()) + 1;
  cpu_set_t* const set = CPU_ALLOC(static_cast<std::size_t>(capacity));
  const std::size_t bytes = CPU_ALLOC_SIZE(static_cast<std::size_t>(capacity));
  CPU_ZERO_S(bytes, set);
  for (const int id : ids) CPU_SET_S(static_cast<std::size_t>(id), bytes, set);
  (void)::sched_setaffinity(0, bytes, set);
  CPU_FREE(set);
#else
  (void)ids;
#endif
}

int default_thread_count() { return cut_by_quota(cpus::physical_cores(cpus::affinity(), "/sys")); }

bool has_amx_int8() {
#if defined(__x86_64__) && defined(__linux__)
  static const bool granted = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kTile = 1U << 24, kInt8 = 1U << 25;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTile) == 0 || (d & kInt8) == 0) return false;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return granted;
#else
  return false;
#endif
}

}  // namespace ds4
