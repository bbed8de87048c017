// What a number was measured on: one line per fact, for the header of a report. Linux; what the system does not say is
// left out. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace ds4::bench {

using Facts = std::vector<std::pair<std::string, std::string>>;  // name, value

/// date, host kernel, cpu, cpus, memory, load average.
Facts machine_facts();

/// The most memory this process had in RAM since forget_peak_resident(), or ever; 0 if unknown. Views of shared memory
/// count once each.
std::uint64_t peak_resident_bytes();
void forget_peak_resident();

/// "0.35 0.40 0.51", the load of the last 1, 5 and 15 minutes.
std::string load_average();

}  // namespace ds4::bench
