// The ops that keep no KV state, each as a function of a set of rows: the whole batch at once, or any part of it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "rig.h"

namespace ds4::conformance {

struct DenseCase {
  std::string op;
  std::string detail = {};  // shape, weight format
  int rows = 0;             // of the inputs
  double bound = 0;         // on the largest difference, for exact arithmetic
  double int8_bound = 0;    // on the mean difference, with int8 activations; 0 where the op never uses them
  double weight_bytes = 0;  // read once per batch
  double macs_per_row = 0;
  /// Computes the given rows of the inputs.
  std::function<std::vector<Output>(Rig&, const std::vector<int>& rows)> run;
};

/// Cases of one shape; weights of `type` where the op has a matrix.
std::vector<DenseCase> dense_cases(const Shape& shape, DType type, int rows);

}  // namespace ds4::conformance
