// What an agent does to a server: a conversation that grows turn by turn, its last message edited now and then, the
// server restarted in the middle. Counts what was computed and written against what was new.
#pragma once

#include <cstdint>
#include <string>

namespace ds4::e2e {

struct AgentLoopOptions {
  int turns = 40;
  std::int64_t tokens = 16384;  // of the last prompt
  int edit_every = 5;
  int restart_at = 20;   // before this turn
  bool kill_it = false;  // the restart is a kill -9
  std::string folder;    // of the states; made anew
  bool verbose = false;  // a line for every turn on standard output
};

struct AgentLoopReport {
  std::string problem;           // empty: it ran to the end
  std::int64_t prefilled = 0;    // prompt tokens that were computed
  std::int64_t fresh = 0;        // of all prompts, behind what they share with what went before
  std::int64_t worst_turn = 0;   // most tokens that one turn computed beyond its new ones
  std::int64_t written = 0;      // bytes
  std::int64_t row_bytes = 0;    // of the new tokens: blocks of all conversations, each once
  std::int64_t point_bytes = 0;  // of one
  std::int64_t points = 0;       // written
  int turns = 0;
  std::int64_t last_prompt = 0;
  double load_ms = 0;  // of the first turn after the restart
};

AgentLoopReport run_agent_loop(const AgentLoopOptions& options);

}  // namespace ds4::e2e
