#include "quant/random_weights.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/rng.h"
#include "quant/codec.h"

namespace ds4 {
namespace {

/// SplitMix64 as a sequence.
class RandomStream {
 public:
  explicit RandomStream(std::uint64_t seed) : state_(splitmix64(seed)) {}
  std::uint64_t next() {
    const std::uint64_t word = splitmix64(state_);
    state_ += 0x9E3779B97F4A7C15u;
    return word;
  }
  std::uint32_t below(std::uint32_t limit) { return static_cast<std::uint32_t>((next() >> 32) * limit >> 32); }

  /// Mean 0, deviation 1: the sum of four uniform numbers, near enough to normal and without logarithms.
  float normal() {
    const std::uint64_t word = next();
    const std::uint64_t sum = (word & 0xffff) + (word >> 16 & 0xffff) + (word >> 32 & 0xffff) + (word >> 48);
    return (static_cast<float>(sum) - 131070.0f) * (1.7320508f / 65536.0f);
  }

 private:
  std::uint64_t state_;
};

/// Where the f16 fields of a block lie and what they get: random bits there would make the sizes of blocks random, too.
struct ScaleField {
  std::size_t offset;
  float value;
};

struct BlockScales {
  DType type;
  ScaleField first;
  ScaleField second;  // the same again for formats with one field
};

// The values bring the uniformly random quants to a deviation of about 0.02 and the mean to about 0.
constexpr BlockScales kScales[] = {
    {DType::kQ8_0, {0, 0.00027f}, {0, 0.00027f}},
    {DType::kIQ2_XXS, {0, 0.0004f}, {0, 0.0004f}},
    {DType::kQ2_K, {80, 0.0015f}, {82, 0.00225f}},
    {DType::kQ4_K, {0, 0.00015f}, {2, 0.0011f}},
};

void fill_bytes(RandomStream& random, std::span<std::byte> bytes) {
  std::size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    const std::uint64_t word = random.next();
    std::memcpy(bytes.data() + at, &word, 8);
  }
  const std::uint64_t last = random.next();
  std::memcpy(bytes.data() + at, &last, bytes.size() - at);
}

void fill_blocks(const BlockScales& scales, RandomStream& random, std::span<std::byte> blocks) {
  fill_bytes(random, blocks);
  const std::size_t block_bytes = dtype_info(scales.type).block_bytes;
  for (const ScaleField& field : {scales.first, scales.second}) {
    const std::uint16_t half = f32_to_f16(field.value);
    for (std::size_t at = 0; at < blocks.size(); at += block_bytes)
      std::memcpy(blocks.data() + at + field.offset, &half, 2);
  }
}

/// One exponent for all blocks: the codes, 0 to 6 with a sign, have a deviation of 2.9; 2^-7 brings it to 0.02.
void fill_mxfp4(RandomStream& random, std::span<std::byte> blocks) {
  fill_bytes(random, blocks);
  for (std::size_t at = 0; at < blocks.size(); at += dtype_info(DType::kMXFP4).block_bytes) blocks[at] = std::byte{120};
}

void fill_halves(RandomStream& random, std::span<std::byte> halves) {
  for (std::size_t at = 0; at < halves.size(); at += 2) {
    const std::uint16_t half = f32_to_f16(0.02f * random.normal());
    std::memcpy(halves.data() + at, &half, 2);
  }
}

}  // namespace

void fill_random_weights(DType type, std::uint64_t seed, std::span<std::byte> blocks) {
  DS4_CHECK(blocks.size() % dtype_info(type).block_bytes == 0);
  RandomStream random(seed);
  if (type == DType::kF16) return fill_halves(random, blocks);
  if (type == DType::kMXFP4) return fill_mxfp4(random, blocks);
  for (const BlockScales& scales : kScales)
    if (scales.type == type) return fill_blocks(scales, random, blocks);
  check_failed("a type with random contents", __FILE__, __LINE__);
}

void fill_random_experts(std::uint64_t seed, std::uint32_t experts, std::uint32_t per_token,
                         std::span<std::int32_t> ids) {
  DS4_CHECK(per_token <= experts && ids.size() % per_token == 0);
  RandomStream random(seed);
  for (std::size_t begin = 0; begin < ids.size(); begin += per_token) {
    const auto row = ids.subspan(begin, per_token);
    for (std::size_t i = 0; i < row.size();) {
      row[i] = static_cast<std::int32_t>(random.below(experts));
      if (std::find(row.begin(), row.begin() + static_cast<std::ptrdiff_t>(i), row[i]) ==
          row.begin() + static_cast<std::ptrdiff_t>(i))
        ++i;
    }
  }
}

void fill_random_vector(std::uint64_t seed, float deviation, std::span<float> values) {
  RandomStream random(seed);
  for (float& value : values) value = deviation * random.normal();
}

}  // namespace ds4
