// What the machine can do at most: the roof that ops are held against. Measured on the host in well under a second;
// for other devices the numbers come from flags.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"
#include "bench/op_cost.h"

namespace ds4::bench {

struct Roof {
  double bytes_per_second = 0;  // 0: unknown
  double quantised_flops = 0;   // per second, 8-bit integer dot products
  double float_flops = 0;       // f32 multiply-add
  std::string how;              // "measured, 2 threads: avx512-vnni", "from flags"

  bool known() const { return bytes_per_second > 0 && quantised_flops > 0 && float_flops > 0; }
  /// The least time `cost` can take here: memory and arithmetic overlap, the two kinds of arithmetic do not.
  double seconds(const Cost& cost) const;
};

/// Reads 1 GiB in huge pages (less where that is not to be had) and runs the widest instructions there are, on all
/// `threads`. Each is the best of several rounds: neighbours only make it slower.
Result<Roof> measure_roof(int threads);

/// One kind of arithmetic, on the calling thread.
struct ArithmeticPeak {
  const char* name;
  double (*run)(long rounds);  // floating-point or integer operations done; the result of the sums is kept alive
};
ArithmeticPeak quantised_peak();
ArithmeticPeak float_peak();

}  // namespace ds4::bench
