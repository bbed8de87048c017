// Q2_K and Q4_K: what the search found, packed as the formats want it (spec section 9).
#include <cstring>

#include "quant/block_search.h"
#include "quant/encode_block.h"

namespace ds4 {
namespace {

void store_half(std::uint8_t* at, std::uint16_t half) { std::memcpy(at, &half, sizeof half); }
std::uint8_t byte(unsigned value) { return static_cast<std::uint8_t>(value); }

}  // namespace

void encode_q2_k(const float* values, const float* weights, std::uint8_t* block) {
  std::memset(block, 0, 84);
  ScaledBlock scaled;
  scaled.load(values, weights);
  if (scaled.zero) return;
  KChoice choice;
  block_search().q2_k(scaled, choice);
  for (int j = 0; j < 16; ++j) {
    block[j] = byte(choice.scale[j] | choice.minimum[j] << 4);
    std::uint8_t* bytes = block + 16 + 32 * (j / 8) + j % 2 * 16;
    for (int i = 0; i < 16; ++i) bytes[i] = byte(bytes[i] | choice.code[16 * j + i] << (j / 2 % 4 * 2));
  }
  store_half(block + 80, scaled.half(choice.d));
  store_half(block + 82, scaled.half(choice.dmin));
}

void encode_q4_k(const float* values, const float* weights, std::uint8_t* block) {
  std::memset(block, 0, 144);
  ScaledBlock scaled;
  scaled.load(values, weights);
  if (scaled.zero) return;
  KChoice choice;
  block_search().q4_k(scaled, choice);
  store_half(block, scaled.half(choice.d));
  store_half(block + 2, scaled.half(choice.dmin));
  std::uint8_t* s = block + 4;
  for (int j = 0; j < 8; ++j) {
    const unsigned scale = choice.scale[j];
    const unsigned minimum = choice.minimum[j];
    if (j < 4) {
      s[j] = byte(scale);
      s[j + 4] = byte(minimum);
    } else {  // four bits each here, the upper two bits above those of the first four
      s[j + 4] = byte((scale & 15U) | (minimum & 15U) << 4);
      s[j - 4] = byte(s[j - 4] | scale >> 4 << 6);
      s[j] = byte(s[j] | minimum >> 4 << 6);
    }
    std::uint8_t* bytes = block + 16 + 32 * (j / 2);
    for (int i = 0; i < 32; ++i) bytes[i] = byte(bytes[i] | choice.code[32 * j + i] << (j % 2 * 4));
  }
}

}  // namespace ds4
