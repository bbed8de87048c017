// Random contents for tensors of every weight format, with the spread that trained weights have: for files whose shapes
// and cost matter, not their words. Pure functions of (seed, place): any thread, any order.
#pragma once

#include <cstdint>
#include <span>

#include "quant/dtype.h"

namespace ds4 {

/// Whole blocks of `type`, one of F16 and the block formats: values with mean about 0 and deviation about 0.02.
void fill_random_weights(DType type, std::uint64_t seed, std::span<std::byte> blocks);

/// `per_token` different expert ids for each token.
void fill_random_experts(std::uint64_t seed, std::uint32_t experts, std::uint32_t per_token,
                         std::span<std::int32_t> ids);

/// Normal values with the given deviation.
void fill_random_vector(std::uint64_t seed, float deviation, std::span<float> values);

}  // namespace ds4
