#include "eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "base/rng.h"

namespace ds4::eval {

namespace {

constexpr std::uint64_t kSeed = 0x64733465;

struct Block {
  double sum = 0;
  double count = 0;
};

std::vector<Block> blocks_of(std::span<const float> values, std::int64_t block, std::span<const std::size_t> ends) {
  std::vector<Block> blocks;
  std::size_t begin = 0;
  const auto add = [&](std::size_t end) {
    for (std::size_t at = begin; at < end; ++at) {
      if ((at - begin) % static_cast<std::size_t>(block) == 0) blocks.emplace_back();
      blocks.back().sum += static_cast<double>(values[at]);
      blocks.back().count += 1;
    }
    begin = end;
  };
  for (const std::size_t end : ends) add(end);
  add(values.size());
  return blocks;
}

double mean(const std::vector<Block>& blocks) {
  Block all;
  for (const Block& block : blocks) {
    all.sum += block.sum;
    all.count += block.count;
  }
  return all.sum / all.count;
}

}  // namespace

Estimate share(std::int64_t right, std::int64_t total) {
  DS4_CHECK(0 <= right && right <= total);
  if (total == 0) return {0, 0, 1};
  constexpr double kZ = 1.959963984540054;
  const double n = static_cast<double>(total);
  const double p = static_cast<double>(right) / n;
  const double middle = (p + kZ * kZ / (2 * n)) / (1 + kZ * kZ / n);
  const double reach = kZ / (1 + kZ * kZ / n) * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n));
  return {p, std::max(0.0, middle - reach), std::min(1.0, middle + reach)};
}

Estimate block_mean(std::span<const float> values, std::int64_t block, std::span<const std::size_t> ends) {
  DS4_CHECK(block > 0);
  if (values.empty()) return {};
  const std::vector<Block> blocks = blocks_of(values, block, ends);
  Estimate estimate{mean(blocks), -std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  if (blocks.size() < 2) return estimate;
  std::vector<double> means;
  std::vector<Block> drawn(blocks.size());
  for (std::uint64_t round = 0; round < kResamples; ++round) {
    for (std::uint64_t i = 0; i < drawn.size(); ++i) {
      drawn[i] = blocks[random_bits(kSeed, i, round) % blocks.size()];
    }
    means.push_back(mean(drawn));
  }
  std::sort(means.begin(), means.end());
  estimate.low = means[kResamples / 40];
  estimate.high = means[kResamples - 1 - kResamples / 40];
  return estimate;
}

}  // namespace ds4::eval
