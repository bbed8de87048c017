// The arithmetic the reference ops share: weights as floats, matrix products, norms and rotations, sums in double.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/tensor.h"

namespace ds4::reference {

/// Row `out` of matrix `index` (expert), decoded.
std::vector<float> weight_row(const Weight& weight, std::int64_t out, std::int64_t index = 0);
/// The same without a copy where the file already holds floats; `space` keeps the decoded values otherwise.
const float* weight_row(const Weight& weight, std::int64_t out, std::int64_t index, std::vector<float>& space);
/// A weight of one row.
std::vector<float> weight_vector(const Weight& weight);

double dot(const float* a, const float* b, std::int64_t count);

/// y[r][o] = w[index][first_out + o] · x[r] for `outs` outputs; x and y are dense with the given row strides.
void matmul(const Weight& w, std::int64_t index, std::int64_t first_out, std::int64_t outs, const float* x,
            std::int64_t x_stride, std::int64_t rows, float* y, std::int64_t y_stride);
/// The whole of matrix `index`: x [rows, in] to y [rows, out].
void matmul(const Weight& w, std::int64_t index, const float* x, std::int64_t rows, float* y);

/// x * rsqrt(mean(x²) + eps), times weight if there is one (§2.3).
void rms_normalise(std::span<float> x, std::span<const float> weight, float eps);

/// Rotates the last 2 * frequencies.size() values at `position` (§2.4); `inverse` turns back.
void rotate(std::span<float> x, std::span<const float> frequencies, std::int64_t position, bool inverse = false);

double sigmoid(double x);

}  // namespace ds4::reference
