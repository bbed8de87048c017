// Randomness without state: a number is a function of (seed, position, stream), so a token can be drawn again after a
// rewind, on another machine or in another order, and comes out the same. Any thread.
//
// The three words are absorbed one after the other, h = splitmix64(h ^ word). splitmix64 is a bijection that flips half
// of the output bits for each input bit: for a fixed seed and stream no two positions share a value, and neighbouring
// seeds or positions have nothing in common. Not for secrets.
#pragma once

#include <cstdint>

namespace ds4 {

/// One step of Steele, Lea and Flood's generator from state `x` (the constants are Stafford's variant 13).
constexpr std::uint64_t splitmix64(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// 64 random bits. `stream` separates draws of different purpose at the same position.
constexpr std::uint64_t random_bits(std::uint64_t seed, std::uint64_t position, std::uint64_t stream = 0) {
  return splitmix64(splitmix64(splitmix64(seed) ^ position) ^ stream);
}

/// Uniform in [0, 1): a multiple of 2^-53, never 1.
constexpr double uniform(std::uint64_t seed, std::uint64_t position, std::uint64_t stream = 0) {
  return static_cast<double>(random_bits(seed, position, stream) >> 11) * 0x1p-53;
}

}  // namespace ds4
