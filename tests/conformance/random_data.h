// Reproducible inputs: floats of unit variance, weights of every format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/tensor.h"
#include "base/rng.h"

namespace ds4::conformance {

/// A stream of numbers from one seed.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(splitmix64(seed)) {}
  std::uint64_t bits() { return state_ = splitmix64(state_); }
  /// Mean 0, variance 1, nearly normal: a sum of four uniforms.
  float normal();
  std::int64_t below(std::int64_t bound) { return static_cast<std::int64_t>(bits() >> 1) % bound; }

 private:
  std::uint64_t state_;
};

std::vector<float> random_floats(std::uint64_t seed, std::int64_t count, float scale = 1.0F, float offset = 0.0F);

/// A weight in host memory, with values of standard deviation about `scale`.
struct WeightData {
  DType type = DType::kF32;
  std::int64_t in = 0;
  std::int64_t out = 1;
  std::int64_t count = 1;
  std::vector<std::byte> bytes;
  bool lookup = false;
  HostWeight host() const { return {type, in, out, count, bytes.data(), lookup}; }
};
WeightData random_weight(std::uint64_t seed, DType type, std::int64_t in, std::int64_t out, std::int64_t count = 1);
/// A vector of f32 around `mean`.
WeightData random_vector(std::uint64_t seed, std::int64_t count, float mean, float scale);

}  // namespace ds4::conformance
