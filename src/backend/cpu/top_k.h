// The exact k highest of a list of scores, ties to the lower number: three passes of a radix selection, so that memory
// and time stay linear and nothing is sorted.
#pragma once

#include <cstdint>

namespace ds4::cpu {

/// Writes the numbers of the `k` highest of `count` scores (k < count), ascending. `histogram` has kSelectBins entries.
void select_top(const float* scores, std::int64_t count, int k, std::int32_t* selected, std::uint32_t* histogram);

}  // namespace ds4::cpu
