// A model without a file: the header of a published model, and random weights behind it. Either every weight has bytes
// of its own (in memory, or in a cache file that later runs find again), or the weights of one type share a pool, so
// that the 81 GiB of a full model cost the memory of the pool: for devices that copy them, and for loading itself.
//
// Random blocks are valid blocks with small scales: activations stay finite through all layers. One thread makes a
// model; then any thread may read it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "bench/address_space.h"
#include "bench/synthetic_shape.h"
#include "gguf/file.h"

namespace ds4::bench {

struct SyntheticOptions {
  SyntheticSpec spec;
  bool aliased = false;
  std::uint64_t pool_bytes = std::uint64_t{1} << 30;
  std::string cache;  // a path; not with `aliased`
  std::uint64_t seed = 1;
  int threads = 1;
};

class SyntheticModel {
 public:
  static Result<SyntheticModel> create(const SyntheticOptions& options);

  const gguf::File& file() const { return *file_; }
  /// "9.5 GiB of random weights in memory", for people.
  const std::string& how() const { return how_; }

 private:
  SyntheticModel() = default;
  std::optional<AddressSpace> space_;  // before file_, which points into it
  std::optional<gguf::File> file_;
  std::string how_;
};

}  // namespace ds4::bench
