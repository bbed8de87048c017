// A 64-bit fingerprint of bytes, for telling whether what lies on the disk is what was written. Fast (several bytes a
// cycle); not for keeping an adversary out. Part of the journal format: do not change it without its version.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/rng.h"

namespace ds4 {

inline std::uint64_t content_hash(std::span<const std::byte> bytes, std::uint64_t seed = 0) {
  constexpr std::uint64_t kFactor = 0x9E3779B97F4A7C15U;
  std::uint64_t lanes[4] = {splitmix64(seed), splitmix64(seed + 1), splitmix64(seed + 2), splitmix64(seed + 3)};
  std::size_t at = 0;
  for (; bytes.size() - at >= 32; at += 32) {
    std::uint64_t words[4];
    std::memcpy(words, bytes.data() + at, sizeof words);
    for (int i = 0; i < 4; ++i) {
      lanes[i] = (lanes[i] ^ words[i]) * kFactor;
      lanes[i] ^= lanes[i] >> 29;
    }
  }
  std::uint64_t hash = splitmix64(bytes.size());
  for (const std::uint64_t lane : lanes) hash = splitmix64(hash ^ lane);
  for (; at < bytes.size(); ++at) hash = splitmix64(hash ^ std::to_integer<std::uint64_t>(bytes[at]));
  return hash;
}

}  // namespace ds4
