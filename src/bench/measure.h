// The measurements: a model is taken from context frontier to context frontier, and at each one prefill and decode are
// timed, as often as asked. Sequences are forked for every repetition, so that all start from the same state.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "bench/options.h"
#include "bench/profiling_backend.h"
#include "bench/samples.h"
#include "model/model.h"

namespace ds4::bench {

struct Frontier {
  std::int64_t context = 0;  // tokens of each sequence when decoding begins
  std::int64_t prefill = 0;  // the last of them, computed and timed; what is before was there or is filled
  bool filled = false;       // the tokens before are random KV rows
};
std::vector<Frontier> plan_frontiers(const Options& options);

/// The memory that the frontiers need.
ModelOptions plan_model(const Options& options, const std::vector<Frontier>& frontiers, int devices, int layers);

struct PhaseProfile {
  std::string_view name;     // "prefill" or "decode"
  std::int64_t context = 0;  // tokens of each sequence before it
  std::int64_t rows = 0;     // of a step
  std::int64_t steps = 0;    // that the profile sums up
  double seconds = 0;        // of all steps
  Profile ops{};
};

struct Measurement {
  Frontier frontier;
  int sequences = 1;
  std::uint64_t kv_bytes = 0;   // of all sequences
  std::int64_t gen_tokens = 0;  // of each sequence
  Samples prefill_seconds;      // of the first sequence alone
  Samples gen_seconds;
  Samples gen_first_seconds;           // of the first token
  Cost gen_cost;                       // of a step at the frontier
  std::vector<PhaseProfile> profiles;  // with --ops: prefill, decode
};

class Bench {
 public:
  /// `profilers` are the backends of `model`. `prompt`: the first tokens of every sequence; random ids behind it.
  Bench(Model& model, std::vector<ProfilingBackend*> profilers, const Options& options,
        std::vector<std::int32_t> prompt, std::int32_t stop_token, int threads);

  /// Runs everything once without a clock.
  Status warm_up();
  /// Frontiers in ascending order.
  Result<Measurement> measure(const Frontier& frontier);

 private:
  std::int32_t token(std::size_t sequence, std::int64_t position) const;
  Status reach(const Frontier& frontier, Measurement& out);
  Status prefill(Sequence& sequence, std::int64_t to);
  Status profile_prefill(const Frontier& frontier, Measurement& out);
  Status decode_all(Measurement& out);
  /// One token of each sequence.
  Status step(std::vector<Sequence>& sequences);
  Status count_step(Measurement& out);
  Status profile_decode(Measurement& out);
  Result<std::vector<Sequence>> fork_all() const;
  void set_mode(ProfilingBackend::Mode mode);
  Profile take_profile();
  std::int32_t answer(std::size_t sequence) const;

  Model& model_;
  std::vector<ProfilingBackend*> profilers_;
  const Options& options_;
  std::vector<std::int32_t> prompt_;
  std::int32_t stop_token_;
  int threads_;
  std::vector<Sequence> base_;  // at the last frontier
  std::vector<float> logits_;   // [sequences][vocab], of the last step
  std::vector<TopLogits> top_;  // [sequences], in their place where the model ranks()
  std::vector<std::int32_t> answers_;
};

}  // namespace ds4::bench
