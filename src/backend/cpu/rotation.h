// Rotary embedding (§2.4) of one position: cosines and sines once, then any number of heads.
#pragma once

#include <cmath>
#include <cstdint>

#include "backend/tensor.h"

namespace ds4::cpu {

inline constexpr int kMaxRopePairs = 256;

class Rotation {
 public:
  /// `frequencies` is [1, pairs]. The angle is an FP32 product, as in the official tables; its sine is then exact to
  /// f32.
  Rotation(const Tensor& frequencies, std::int64_t position) : pairs_(static_cast<int>(frequencies.cols)) {
    for (int i = 0; i < pairs_; ++i) {
      const auto angle = static_cast<double>(static_cast<float>(position) * frequencies.data[i]);
      cosine_[i] = static_cast<float>(std::cos(angle));
      sine_[i] = static_cast<float>(std::sin(angle));
    }
  }

  /// Rotates the last values of a vector of `count`.
  void apply(float* x, int count) const { turn(x + count - 2 * pairs_, 1.0F); }
  void undo(float* x, int count) const { turn(x + count - 2 * pairs_, -1.0F); }

 private:
  void turn(float* x, float direction) const {
    for (int i = 0; i < pairs_; ++i) {
      const float a = x[2 * i];
      const float b = x[2 * i + 1];
      const float s = direction * sine_[i];
      x[2 * i] = a * cosine_[i] - b * s;
      x[2 * i + 1] = a * s + b * cosine_[i];
    }
  }
  int pairs_;
  float cosine_[kMaxRopePairs];
  float sine_[kMaxRopePairs];
};

}  // namespace ds4::cpu
