// Looking for NaN and infinity in stored weights: in plain types every value, in block types the scales, since the
// integers beside them are always finite. Pure function, any thread.
#pragma once

#include <cstddef>
#include <optional>

#include "quant/dtype.h"

namespace ds4 {

/// The first element (of a block type: the first of its block) that does not decode to a finite number. `elements` is a
/// multiple of the block. Integers are always finite.
std::optional<std::size_t> first_non_finite(DType type, const void* data, std::size_t elements);

}  // namespace ds4
