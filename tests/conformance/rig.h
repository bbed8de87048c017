// A backend under test with the memory it computes in: inputs go up, outputs start poisoned and come down.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/check.h"
#include "random_data.h"

namespace ds4::conformance {

/// Dims with a name, and the weight formats that fit them.
struct Shape {
  std::string name;
  Dims dims;
  std::vector<DType> types;
  std::vector<int> rows;   // batch sizes worth trying
  bool published = false;  // of a published model: too large to try everything
};
std::vector<Shape> all_shapes();

/// The value, or the end of the program with the error's message and status.
template <typename T>
T or_exit(Result<T> result) {
  if (result.ok()) return std::move(result).value();
  std::fprintf(stderr, "ds4-conformance: %s\n", result.error().message.c_str());
  std::exit(exit_status(result.error().code));
}

class Rig {
 public:
  /// `max_rows` bounds the batches; three layers, with ratio 0, 4 and 128.
  static Result<std::unique_ptr<Rig>> create(const BackendOptions& options, const Shape& shape, KvFormat format,
                                             int max_rows, std::int64_t max_context);

  Backend& backend() { return *backend_; }
  const Shape& shape() const { return shape_; }
  const Dims& dims() const { return shape_.dims; }
  const BackendConfig& config() const { return config_; }

  Weight weight(const WeightData& data);
  Tensor input(std::span<const float> values, std::int64_t rows);
  IntTensor input(std::span<const std::int32_t> values, std::int64_t rows);
  Tensor output(std::int64_t rows, std::int64_t cols);  // NaN everywhere
  IntTensor int_output(std::int64_t rows, std::int64_t cols);
  std::vector<float> read(const Tensor& tensor);
  std::vector<std::int32_t> read(const IntTensor& tensor);
  /// Runs one op to its end and remembers how long it took.
  template <typename Op>
  void time(Op op) {
    const double from = now();
    op(*backend_);
    DS4_CHECK(backend_->wait().ok());
    seconds_ = now() - from;
  }
  double seconds() const { return seconds_; }
  /// Counts processor time instead of wall time: for one thread on a busy machine.
  void use_processor_time() { processor_time_ = true; }

  /// Forgets the tensors and weights handed out so far.
  void clear();

 private:
  Rig(std::unique_ptr<Backend> backend, Shape shape) : backend_(std::move(backend)), shape_(std::move(shape)) {}
  void* memory(std::size_t bytes);
  double now() const;
  double seconds_ = 0;
  bool processor_time_ = false;
  std::unique_ptr<Backend> backend_;
  Shape shape_;
  BackendConfig config_;
  std::vector<Buffer> buffers_;
  std::unordered_map<const WeightData*, Weight> weights_;
};

/// One output of an op: rows that can be compared one by one.
struct Output {
  std::string name;
  std::int64_t cols = 0;
  std::vector<float> floats;
  std::vector<std::int32_t> ints;
};

/// Differences over the root mean square of what is expected. A NaN on either side is an infinite difference.
struct Distance {
  double largest = 0;
  double mean = 0;  // root mean square
};
Distance distance(std::span<const float> expected, std::span<const float> found);

/// Counts checks, prints failures.
class Report {
 public:
  explicit Report(bool verbose) : verbose_(verbose) {}
  void check(bool passed, const std::string& what, const std::string& detail);
  int failures() const { return failures_; }
  int checks() const { return checks_; }

 private:
  bool verbose_;
  int checks_ = 0;
  int failures_ = 0;
};

}  // namespace ds4::conformance
