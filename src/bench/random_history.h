// A sequence of any length without computing it: KV rows that are random but what a model could have left there (rows
// of unit variance in the format's own encoding, finite compressor states). Decoding after them costs what it costs
// after a real prompt of that length.
#pragma once

#include <cstdint>

#include "model/model.h"

namespace ds4::bench {

/// For Model::restore(). `devices` is the number of backends of the model.
SequenceImage random_history(const ModelShape& shape, const ModelOptions& options, int devices, std::int64_t tokens,
                             std::uint64_t seed, int threads);

}  // namespace ds4::bench
