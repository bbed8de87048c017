// The ops with KV state, driven by a script: batches of segments of several sequences. The inputs of a token depend
// only on its sequence and position, so two scripts that feed the same tokens in other portions must agree.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "rig.h"

namespace ds4::conformance {

/// The next `rows` tokens of a sequence.
struct Portion {
  int sequence = 0;
  int rows = 0;
};
using Step = std::vector<Portion>;

struct Script {
  std::string name;
  std::vector<Step> steps;
  std::int64_t start = 0;  // tokens of every sequence before the first step, with random KV rows
};

/// What one token gave.
struct TokenResult {
  std::vector<float> heads;
  std::vector<std::int32_t> selected;
};
struct KvResult {
  std::map<std::pair<int, std::int64_t>, TokenResult> tokens;
  std::map<int, std::vector<float>> rows;       // per sequence: compressed and indexer rows and window rings, decoded
  std::map<int, std::vector<float>> states;     // per sequence: compressor states
  std::map<int, std::vector<std::byte>> bytes;  // per sequence: pages and tail as stored
};

class KvWeights {
 public:
  KvWeights(const Shape& shape, DType type);
  WeightData kv, kv_norm, sinks, index_q_b, index_proj;
  struct Compressor {
    WeightData kv, gate, ape, norm;
    CompressorWeights load(Rig& rig) const {
      return {rig.weight(kv), rig.weight(gate), rig.weight(ape), rig.weight(norm)};
    }
  };
  Compressor main4, main128, index;
  std::vector<float> frequencies;
};

/// Runs a script on the layer with this ratio. With `forced`, attention uses the selection found there.
KvResult run_script(Rig& rig, const KvWeights& weights, int ratio, const Script& script, const KvResult* forced);

/// All ops of one step on a prepared rig, for timing: window_kv, compress, index_topk and attention in turn.
struct StepTimes {
  double window_kv = 0, compress = 0, index_topk = 0, attention = 0;  // seconds
};
StepTimes time_step(Rig& rig, const KvWeights& weights, int ratio, std::int64_t start, int rows, int repeats);

}  // namespace ds4::conformance
