// agent_loop [turns] [tokens] [--kill]: run_agent_loop() with the bundled model and what it may cost.
// bench/agent_loop.sh builds and runs it.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "agent_loop.h"
#include "base/text.h"
#include "models.h"

int main(int argc, char** argv) {
  ds4::e2e::AgentLoopOptions options;
  int numbers = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--kill") options.kill_it = true;
    else if (const int value = std::atoi(argv[i]); value > 0 && numbers < 2)
      (numbers++ == 0 ? (options.turns = value) : (options.tokens = value));
    else return std::fprintf(stderr, "agent_loop: expected [turns] [tokens] [--kill], found %s\n", argv[i]), 2;
  }
  options.restart_at = options.turns / 2;
  options.folder = ds4::cat(ds4::e2e::work_dir(), "/agent_loop_states");
  options.verbose = true;
  const ds4::e2e::AgentLoopReport report = ds4::e2e::run_agent_loop(options);
  if (!report.problem.empty()) return std::fprintf(stderr, "agent_loop: %s\n", report.problem.c_str()), 1;
  const double prefill_limit = 1.15 * static_cast<double>(report.fresh) + 128.0 * report.turns;
  const double bytes_limit = 1.2 * static_cast<double>(report.row_bytes + report.turns * report.point_bytes);
  std::printf("prompt tokens computed  %8lld of at most %8.0f (%lld new; worst turn %lld beyond its new ones)\n",
              static_cast<long long>(report.prefilled), prefill_limit, static_cast<long long>(report.fresh),
              static_cast<long long>(report.worst_turn));
  std::printf("bytes written           %8.1f of at most %8.1f MiB (%lld points of %lld bytes in %d turns)\n",
              static_cast<double>(report.written) / 1048576, bytes_limit / 1048576,
              static_cast<long long>(report.points), static_cast<long long>(report.point_bytes), report.turns);
  const bool good =
      static_cast<double>(report.prefilled) <= prefill_limit && static_cast<double>(report.written) <= bytes_limit;
  std::puts(good ? "within the limits" : "BEYOND THE LIMITS");
  return good ? 0 : 1;
}
