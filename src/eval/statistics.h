// Numbers with the room they have: shares, means and the intervals around them. Pure functions of their arguments (the
// bootstrap draws from base/rng.h with a fixed seed), any thread.
#pragma once

#include <cstdint>
#include <span>

namespace ds4::eval {

/// A value and its 95 % confidence interval.
struct Estimate {
  double value = 0;
  double low = 0;
  double high = 0;
};

/// `right` of `total`, with Wilson's score interval. Nothing of nothing is 0 in [0, 1].
Estimate share(std::int64_t right, std::int64_t total);

/// The mean of `values`, which come in order. Neighbours depend on each other, so whole blocks of `block` values are
/// drawn (bootstrap, 2000 times, percentiles). A block ends at every index of `ends`, which ascend, and at the end,
/// even if it is shorter then. With fewer than two blocks nothing is known of the spread, and the interval is infinite.
/// No values: 0.
Estimate block_mean(std::span<const float> values, std::int64_t block, std::span<const std::size_t> ends = {});

inline constexpr int kResamples = 2000;

}  // namespace ds4::eval
