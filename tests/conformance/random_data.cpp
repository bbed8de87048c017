#include "random_data.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quant/codec.h"

namespace ds4::conformance {

float Random::normal() {
  const std::uint64_t b = bits();
  const auto sum = static_cast<std::int64_t>((b & 0xffff) + (b >> 16 & 0xffff) + (b >> 32 & 0xffff) + (b >> 48));
  return static_cast<float>(sum - 2 * 65535) / 65536.0F * 1.7320508F;
}

std::vector<float> random_floats(std::uint64_t seed, std::int64_t count, float scale, float offset) {
  Random random(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = offset + scale * random.normal();
  return values;
}

namespace {

void put_half(std::byte* at, float value) {
  const std::uint16_t half = f32_to_f16(value);
  std::memcpy(at, &half, sizeof half);
}

/// Blocks of random bytes, with scales that give the wanted size and, where there are minima, a mean near zero.
void fill_blocks(Random& random, DType type, float scale, std::vector<std::byte>& bytes) {
  for (std::byte& b : bytes) b = static_cast<std::byte>(random.bits() & 0xff);
  const std::size_t block = dtype_info(type).block_bytes;
  for (std::size_t at = 0; at < bytes.size(); at += block) {
    std::byte* b = bytes.data() + at;
    const float jitter = 1.0F + 0.3F * static_cast<float>(random.below(100)) / 100.0F;
    if (type == DType::kQ4_K) {
      put_half(b, scale / 250.0F * jitter);
      put_half(b + 2, scale / 250.0F * jitter * 7.5F);
    } else if (type == DType::kQ2_K) {
      put_half(b + 80, scale / 10.0F * jitter);
      put_half(b + 82, scale / 10.0F * jitter * 1.5F);
    } else if (type == DType::kIQ2_XXS) {
      put_half(b, scale / 45.0F * jitter);
    } else {
      b[0] = static_cast<std::byte>(125 + std::ilogb(scale) + random.below(3));
    }
  }
}

}  // namespace

WeightData random_weight(std::uint64_t seed, DType type, std::int64_t in, std::int64_t out, std::int64_t count) {
  Random random(seed);
  const std::size_t row = row_bytes(type, static_cast<std::size_t>(in));
  const float scale = 1.0F / std::sqrt(static_cast<float>(in));
  // A prime number of different rows, repeated: large weights cost no more than that, and no tile meets the same twice.
  const std::int64_t distinct = std::min<std::int64_t>(out * count, 61);
  std::vector<std::byte> rows(row * static_cast<std::size_t>(distinct));
  if (can_encode(type)) {
    std::vector<float> values(static_cast<std::size_t>(in));
    for (std::size_t at = 0; at < rows.size(); at += row) {
      for (float& v : values) v = scale * random.normal();
      encode_row(type, values.data(), rows.data() + at, values.size());
    }
  } else {
    fill_blocks(random, type, scale, rows);
  }
  WeightData weight{type, in, out, count, std::vector<std::byte>(row * static_cast<std::size_t>(out * count))};
  for (std::size_t at = 0; at < weight.bytes.size(); at += rows.size())
    std::copy_n(rows.begin(), std::min(rows.size(), weight.bytes.size() - at),
                weight.bytes.begin() + static_cast<std::ptrdiff_t>(at));
  return weight;
}

WeightData random_vector(std::uint64_t seed, std::int64_t count, float mean, float scale) {
  const std::vector<float> values = random_floats(seed, count, scale, mean);
  WeightData weight{DType::kF32, count, 1, 1, std::vector<std::byte>(values.size() * sizeof(float))};
  std::memcpy(weight.bytes.data(), values.data(), weight.bytes.size());
  return weight;
}

}  // namespace ds4::conformance
