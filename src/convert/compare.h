// How far the weights of one model file are from those of another, tensor by tensor.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "quant/dtype.h"

namespace ds4 {

struct TensorDifference {
  std::string name;
  DType type_a;
  DType type_b;
  std::uint64_t elements = 0;
  double relative_rms = 0;  // sqrt(sum (a - b)^2 / sum a^2); integers: the share that differs
  double cosine = 1;
};

struct ModelDifference {
  std::vector<TensorDifference> tensors;  // the largest relative_rms first
  std::vector<std::string> only_a;
  std::vector<std::string> only_b;
  std::vector<std::string> other_shape;
};

struct CompareOptions {
  int threads = 1;
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;  // elements
};

Result<ModelDifference> compare_models(const std::string& path_a, const std::string& path_b,
                                       const CompareOptions& options);

}  // namespace ds4
