#include "backend/cpu/top_k.h"

#include <algorithm>
#include <bit>

#include "backend/cpu/op_scratch.h"

namespace ds4::cpu {

namespace {
/// Unsigned numbers in the order of the scores. -0 and 0 are one score.
std::uint32_t rank(float score) {
  const auto bits = std::bit_cast<std::uint32_t>(score + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
}  // namespace

void select_top(const float* scores, std::int64_t count, int k, std::int32_t* selected, std::uint32_t* histogram) {
  // After each pass, `threshold` holds the leading bits of the k-th highest rank, and `wanted` how many of those that
  // share these bits are among the k.
  std::uint32_t threshold = 0;
  std::uint32_t known = 0;  // mask of the bits found
  auto wanted = static_cast<std::uint32_t>(k);
  for (const int shift : {21, 10, 0}) {
    const std::uint32_t bins = shift == 0 ? 1024 : kSelectBins;
    std::fill_n(histogram, bins, 0U);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::uint32_t r = rank(scores[i]);
      if ((r & known) == threshold) ++histogram[r >> shift & (bins - 1)];
    }
    std::uint32_t bin = bins - 1;
    while (histogram[bin] < wanted) wanted -= histogram[bin--];
    threshold |= bin << shift;
    known |= (bins - 1) << shift;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint32_t r = rank(scores[i]);
    if (r < threshold) continue;
    if (r == threshold) {
      if (wanted == 0) continue;
      --wanted;
    }
    *selected++ = static_cast<std::int32_t>(i);
  }
}

}  // namespace ds4::cpu
