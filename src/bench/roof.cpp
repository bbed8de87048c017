#include "bench/roof.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "base/available_memory.h"
#include "base/text.h"
#include "base/thread_pool.h"
#include "bench/address_space.h"

namespace ds4::bench {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kRounds = 8;
constexpr std::uint64_t kReadBytes = std::uint64_t{1} << 30;  // beyond every cache

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Sums what it reads, in as many chains as it takes not to wait for the additions, and in four places at once, asked
/// for ahead: one stream leaves a core waiting for memory half of the time.
std::uint64_t read_all(const std::byte* data, std::size_t bytes) {
  constexpr std::size_t kStreams = 4;
  constexpr std::size_t kAhead = 2048;
  std::uint64_t sums[16] = {};
  const std::size_t each = bytes / kStreams;
  for (std::size_t at = 0; at + sizeof sums <= each; at += sizeof sums) {
    for (std::size_t stream = 0; stream < kStreams; ++stream) {
      const std::byte* from = data + stream * each + at;
      __builtin_prefetch(from + kAhead);
      __builtin_prefetch(from + kAhead + 64);
      std::uint64_t words[16];
      std::memcpy(words, from, sizeof words);
      for (int i = 0; i < 16; ++i) sums[i] += words[i];
    }
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t s : sums) sum += s;
  return sum;
}

Result<double> read_bandwidth(ThreadPool& pool) {
  const std::uint64_t available = available_memory().value_or(kReadBytes * 4);
  const std::uint64_t bytes = std::max<std::uint64_t>(std::min(kReadBytes, available / 4), std::uint64_t{1} << 26);
  DS4_ASSIGN_OR_RETURN(const AddressSpace space, AddressSpace::reserve(bytes, AddressSpace::Pages::kHuge));
  std::byte* data = space.bytes().data();
  std::atomic<std::uint64_t> kept{0};
  const auto on_shares = [&](auto work) {
    pool.run([&](int index, int count) {
      const Share share = share_of(static_cast<std::int64_t>(bytes), index, count, 1 << 21);
      work(data + share.first, static_cast<std::size_t>(share.last - share.first));
    });
  };
  // Pages of zeros would all be one page: each thread writes its own, so that they also lie near it.
  on_shares([](std::byte* from, std::size_t count) { std::memset(from, 1, count); });
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = Clock::now();
    on_shares([&](const std::byte* from, std::size_t count) { kept.fetch_add(read_all(from, count)); });
    best = std::max(best, static_cast<double>(bytes) / seconds_since(start));
  }
  return best;
}

double arithmetic_rate(ThreadPool& pool, const ArithmeticPeak& peak) {
  constexpr long kSteps = 400'000;
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::atomic<double> operations{0};
    const auto start = Clock::now();
    pool.run([&](int, int) { operations.fetch_add(peak.run(kSteps)); });
    best = std::max(best, operations.load() / seconds_since(start));
  }
  return best;
}

}  // namespace

double Roof::seconds(const Cost& cost) const {
  return std::max(cost.bytes() / bytes_per_second,
                  cost.quantised_flops / quantised_flops + cost.float_flops / float_flops);
}

Result<Roof> measure_roof(int threads) {
  ThreadPool pool(threads, "ds4-roof");
  Roof roof;
  DS4_ASSIGN_OR_RETURN(roof.bytes_per_second, read_bandwidth(pool));
  roof.quantised_flops = arithmetic_rate(pool, quantised_peak());
  roof.float_flops = arithmetic_rate(pool, float_peak());
  roof.how = cat("measured, ", threads, threads == 1 ? " thread, " : " threads, ", quantised_peak().name, ", ",
                 float_peak().name);
  return roof;
}

}  // namespace ds4::bench
