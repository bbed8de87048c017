// What the flags of ds4-bench say. The parser is a table of its own, so that the program also builds on a machine that
// has nothing but a compiler. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/result.h"
#include "bench/synthetic_shape.h"
#include "quant/kv_row.h"

namespace ds4::bench {

/// Where the weights of a synthetic model lie.
enum class SyntheticMemory {
  kAuto,      // distinct on the host's own backends, aliased on others (they copy the weights to their own memory)
  kDistinct,  // every weight has bytes of its own
  kAliased,   // the weights of one type share a pool: the address space of the whole file, the memory of the pool
};

struct Options {
  std::string model;  // a file, or:
  std::optional<SyntheticSpec> synthetic;
  WeightMix mix = WeightMix::kQ2;
  SyntheticMemory synthetic_memory = SyntheticMemory::kAuto;
  std::uint64_t synthetic_pool = std::uint64_t{1} << 30;  // bytes
  std::string synthetic_cache;                            // a file to keep the synthetic model in

  std::string prompt_file;       // text whose tokens are prefilled; random ids without one
  std::string chat_prompt_file;  // the same, as the message of a user
  std::string system;

  BackendOptions backend;                      // of every device
  std::vector<std::string> devices = {"cpu"};  // several: the layers are split between them
  KvFormat kv = KvFormat::kPacked;
  int prefill_chunk = 0;  // 0: 512 on a cpu, 4096 on other devices
  bool warm_weights = false;

  std::int64_t ctx_start = 2048;
  std::int64_t ctx_max = 32768;
  std::int64_t ctx_alloc = 0;             // 0: what the frontiers need
  std::optional<std::int64_t> step_incr;  // 2048; with --fill: nothing is prefilled unless it is given
  double step_mul = 1;
  std::int64_t gen_tokens = 128;
  std::vector<std::int64_t> fill;  // frontiers reached with random KV rows

  int repeat = 1;
  int sequences = 1;
  bool greedy = false;  // the answers go back in; otherwise random ids, different for each sequence
  std::uint64_t seed = 1;
  std::int64_t warmup = -1;  // tokens prefilled before anything is timed; -1: 32 on a cpu, a chunk on other devices

  std::string csv;  // a file; empty: stdout
  bool ops = false;
  std::string ops_csv;
  std::optional<double> roof_gbps;  // measured on a cpu when absent
  std::optional<double> roof_tflops;
  std::string note;  // goes into the header of the CSV

  bool help = false;
  bool version = false;

  bool on_host() const;         // every device computes in the host's memory
  bool copies_weights() const;  // no device reads quantised weights where they are
  std::int64_t increment() const { return step_incr.value_or(fill.empty() ? 2048 : 0); }
};

/// The arguments after the program's name. Combinations that make no sense are refused here, too.
Result<Options> parse_options(std::span<const std::string> arguments);

/// What --help prints.
std::string help_text();

/// "2048", "64K", "1M", "1.5G": K is 1024.
Result<std::int64_t> parse_count(const std::string& flag, const std::string& text, std::int64_t low, std::int64_t high);

}  // namespace ds4::bench
