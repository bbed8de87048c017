#include "backend/reference/maths.h"

#include <cmath>

#include "quant/codec.h"

namespace ds4::reference {

const float* weight_row(const Weight& weight, std::int64_t out, std::int64_t index, std::vector<float>& space) {
  const std::size_t bytes = row_bytes(weight.type, static_cast<std::size_t>(weight.in));
  const auto* row =
      static_cast<const std::byte*>(weight.data) + static_cast<std::size_t>(index * weight.out + out) * bytes;
  if (weight.type == DType::kF32) return reinterpret_cast<const float*>(row);
  space.resize(static_cast<std::size_t>(weight.in));
  decode_row(weight.type, row, space.data(), space.size());
  return space.data();
}

std::vector<float> weight_row(const Weight& weight, std::int64_t out, std::int64_t index) {
  std::vector<float> space;
  const float* row = weight_row(weight, out, index, space);
  return {row, row + weight.in};
}

std::vector<float> weight_vector(const Weight& weight) { return weight_row(weight, 0); }

double dot(const float* a, const float* b, std::int64_t count) {
  double lanes[8] = {};  // independent sums, so that the oracle is not latency-bound
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    for (int k = 0; k < 8; ++k) lanes[k] += static_cast<double>(a[i + k]) * static_cast<double>(b[i + k]);
  for (; i < count; ++i) lanes[0] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

void matmul(const Weight& w, std::int64_t index, std::int64_t first_out, std::int64_t outs, const float* x,
            std::int64_t x_stride, std::int64_t rows, float* y, std::int64_t y_stride) {
  std::vector<float> space;
  for (std::int64_t o = 0; o < outs; ++o) {
    const float* row = weight_row(w, first_out + o, index, space);
    for (std::int64_t r = 0; r < rows; ++r) y[r * y_stride + o] = static_cast<float>(dot(row, x + r * x_stride, w.in));
  }
}

void matmul(const Weight& w, std::int64_t index, const float* x, std::int64_t rows, float* y) {
  matmul(w, index, 0, w.out, x, w.in, rows, y, w.out);
}

void rms_normalise(std::span<float> x, std::span<const float> weight, float eps) {
  const double mean = dot(x.data(), x.data(), static_cast<std::int64_t>(x.size())) / static_cast<double>(x.size());
  const double scale = 1.0 / std::sqrt(mean + static_cast<double>(eps));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = static_cast<float>(x[i] * scale * (weight.empty() ? 1.0 : static_cast<double>(weight[i])));
}

void rotate(std::span<float> x, std::span<const float> frequencies, std::int64_t position, bool inverse) {
  float* pair = x.data() + x.size() - 2 * frequencies.size();
  for (const float frequency : frequencies) {
    const float angle = static_cast<float>(position) * frequency;  // FP32 product, as the official table
    const double cosine = std::cos(static_cast<double>(angle));
    const double sine = inverse ? -std::sin(static_cast<double>(angle)) : std::sin(static_cast<double>(angle));
    const double a = pair[0];
    const double b = pair[1];
    pair[0] = static_cast<float>(a * cosine - b * sine);
    pair[1] = static_cast<float>(a * sine + b * cosine);
    pair += 2;
  }
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

}  // namespace ds4::reference
