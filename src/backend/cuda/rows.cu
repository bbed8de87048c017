#include "backend/cuda/rows.h"

#include "backend/cuda/choose.cuh"
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/file_values.cuh"
#include "backend/cuda/fragments.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/products.h"

namespace ds4::cuda {

namespace {

__global__ void embed_kernel(Matrix table, const std::int32_t* tokens, int streams, float* to) {
  const std::int64_t row = blockIdx.y;
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= table.in) return;
  const float v = file_value(table.type, table.row(0, tokens[row]), c, table.iq2);
  for (int k = 0; k < streams; ++k) to[(row * streams + k) * table.in + c] = v;
}

__global__ void __launch_bounds__(256)
    norm_kernel(const float* x, const float* weight, float eps, int width, float* y, __half* y_half, __half* y_low) {
  __shared__ float space[33];
  const std::int64_t row = blockIdx.x;
  // The weights come from far away: they are asked for before the wait.
  constexpr int kEarly = 4;
  float early[kEarly];
#pragma unroll
  for (int k = 0; k < kEarly; ++k) {
    const int i = threadIdx.x + k * 256;
    early[k] = i < width ? weight[i] : 0.0F;
  }
  wait_for_previous();
  float squares = 0;
  for (int i = threadIdx.x; i < width; i += blockDim.x) {
    const float v = x[row * width + i];
    squares += v * v;
  }
  const float r = rsqrtf(block_sum(squares, space) / static_cast<float>(width) + eps);
  const auto put = [&](int i, float w) {
    const float v = x[row * width + i] * r * w;
    y[row * width + i] = v;
    if (y_half == nullptr) return;
    const __half high = to_half(v);
    y_half[row * width + i] = high;
    if (y_low != nullptr) y_low[row * width + i] = to_half((v - __half2float(high)) * kLowScale);
  };
#pragma unroll
  for (int k = 0; k < kEarly; ++k)
    if (threadIdx.x + k * 256 < width) put(threadIdx.x + k * 256, early[k]);
  for (int i = threadIdx.x + kEarly * 256; i < width; i += 256) put(i, weight[i]);
}

/// A warp a head.
__global__ void __launch_bounds__(256)
    heads_kernel(float* q, __half* q_half, const std::int32_t* positions, const float* frequencies, int pairs,
                 int heads, int width, float eps, std::int64_t total) {
  const std::int64_t head = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  wait_for_previous();
  if (head >= total) return;
  const int lane = threadIdx.x % 32;
  float* v = q + head * width;
  __half* h = q_half + head * width;
  float squares = 0;
  for (int i = lane; i < width; i += 32) squares += v[i] * v[i];
  const float r = rsqrtf(warp_sum(squares) / static_cast<float>(width) + eps);
  const std::int64_t position = positions[head / heads];
  const int plain = width - 2 * pairs;
  for (int i = lane; i < plain; i += 32) {
    v[i] *= r;
    h[i] = to_half(v[i]);
  }
  for (int i = lane; i < pairs; i += 32) {
    float a = v[plain + 2 * i] * r;
    float b = v[plain + 2 * i + 1] * r;
    rotate_pair(a, b, position, frequencies[i]);
    v[plain + 2 * i] = a;
    v[plain + 2 * i + 1] = b;
    h[plain + 2 * i] = to_half(a);
    h[plain + 2 * i + 1] = to_half(b);
  }
}

/// A warp a row.
__global__ void choose_kernel(const RouteChoice p) {
  extern __shared__ float shared[];
  const int warp = threadIdx.x / 32;
  const int row = blockIdx.x * (blockDim.x / 32) + warp;
  const ChoiceSpace space(shared + warp * 2 * p.experts, p.experts);
  const int lane = threadIdx.x % 32;
  begin_choice(p, space, lane, 32);
  wait_for_previous();
  if (row >= p.rows) return;
  score_row(p, row, space, lane, 32);
  __syncwarp();
  choose_scored(p, row, space, p.chosen + static_cast<std::int64_t>(row) * p.used,
                p.weights + static_cast<std::int64_t>(row) * p.used);
}

/// One value, however the matrix lies. Dims that leave one matrix of an expert tiled and another not are rare.
__device__ float matrix_value(const Matrix& m, std::int64_t index, std::int64_t row, std::int64_t k) {
  if (!m.tiled) return file_value(m.type, m.row(index, row), k, m.iq2);
  const int lane = static_cast<int>(row % 8) * 4 + static_cast<int>(k % 128 / 32);
  const int u = static_cast<int>(k % 32 / 8);
  const int step = static_cast<int>(k % 8 / 4);
  const int word = (row % 16 >= 8 ? 1 : 0) + 2 * static_cast<int>(k % 4 / 2);
  const std::byte* tile = m.tile(index, row / 16) + static_cast<std::uint64_t>(k / 128) * m.tile_bytes;
  float v = 0;
  with_fragment_on_device(m.type, [&](auto fragment) {
    using F = decltype(fragment);
    const LaneTile own(tile, lane);
    const StepPair pair = F::expand(F::piece(own, u), F::scales(F::head(own), m.pre), u, GlobalOctets{m.iq2->octets});
    const __half2 two = as_half2(pair.a[step][word]);
    v = k % 2 == 0 ? __low2float(two) : __high2float(two);
  });
  return v / m.pre;
}

/// A warp an output of one (row, slot); the slot `used` is the shared expert.
__global__ void file_gate_up_kernel(const FileExperts e) {
  const int job = blockIdx.y;
  const int row = job / (e.used + 1);
  const int slot = job % (e.used + 1);
  const bool routed = slot < e.used;
  const Matrix& gate = routed ? e.gate : e.shared_gate;
  const Matrix& up = routed ? e.up : e.shared_up;
  const std::int64_t o = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (o >= gate.out) return;
  const int lane = threadIdx.x % 32;
  const std::int64_t pair = static_cast<std::int64_t>(row) * e.used + slot;
  const std::int64_t index = routed ? e.experts[pair] : 0;
  const float* x = e.x + static_cast<std::int64_t>(row) * gate.in;
  float g = 0;
  float u = 0;
  for (std::int64_t k = lane; k < gate.in; k += 32) {
    g += matrix_value(gate, index, o, k) * x[k];
    u += matrix_value(up, index, o, k) * x[k];
  }
  g = warp_sum(g);
  u = warp_sum(u);
  if (lane != 0) return;
  const float limit = routed ? e.limit : e.shared_limit;
  g = fminf(g, limit);
  u = fminf(fmaxf(u, -limit), limit);
  const float h = g * sigmoid(g) * u;
  if (routed) e.hidden[pair * gate.out + o] = h * e.weights[pair];
  else e.shared_hidden[row * gate.out + o] = h;
}

__global__ void file_down_kernel(const FileExperts e) {
  const std::int64_t row = blockIdx.y;
  const std::int64_t o = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (o >= e.down.out) return;
  const int lane = threadIdx.x % 32;
  const auto product = [&](const Matrix& m, std::int64_t index, const float* h) {
    float sum = 0;
    for (std::int64_t k = lane; k < m.in; k += 32) sum += matrix_value(m, index, o, k) * h[k];
    return warp_sum(sum);
  };
  float y = 0;
  std::int32_t last = -1;
  for (int i = 0; i < e.used; ++i) {  // in ascending order of expert
    int best = -1;
    for (int j = 0; j < e.used; ++j) {
      const std::int32_t expert = e.experts[row * e.used + j];
      if (expert > last && (best < 0 || expert < e.experts[row * e.used + best])) best = j;
    }
    if (best < 0) break;
    last = e.experts[row * e.used + best];
    for (int j = 0; j < e.used; ++j)
      if (e.experts[row * e.used + j] == last) y += product(e.down, last, e.hidden + (row * e.used + j) * e.down.in);
  }
  y += product(e.shared_down, 0, e.shared_hidden + row * e.shared_down.in);
  if (lane == 0) e.y[row * e.down.out + o] = y;
}

unsigned blocks(std::int64_t total, std::int64_t each) { return static_cast<unsigned>((total + each - 1) / each); }

}  // namespace

void embed_rows(const Matrix& table, const std::int32_t* tokens, int rows, int streams, float* to,
                cudaStream_t stream) {
  embed_kernel<<<dim3(blocks(table.in, 256), static_cast<unsigned>(rows)), 256, 0, stream>>>(table, tokens, streams,
                                                                                             to);
}

void norm_rows(const float* x, const float* weight, float eps, std::int64_t rows, int width, float* y, __half* y_half,
               __half* y_low, cudaStream_t stream) {
  launch(norm_kernel, dim3(static_cast<unsigned>(rows)), 256, 0, stream, x, weight, eps, width, y, y_half, y_low);
}

void finish_heads(float* q, __half* q_half, const std::int32_t* positions, const float* frequencies, int pairs,
                  int heads, int width, float eps, std::int64_t rows, cudaStream_t stream) {
  launch(heads_kernel, dim3(blocks(rows * heads, 8)), 256, 0, stream, q, q_half, positions, frequencies, pairs, heads,
         width, eps, rows * heads);
}

void choose_experts(const RouteChoice& p, cudaStream_t stream) {
  const auto shared = static_cast<std::size_t>(p.experts) * 2 * 4 * sizeof(float);
  launch(choose_kernel, dim3(blocks(p.rows, 4)), 128, shared, stream, p);
}

void file_experts(const FileExperts& e, cudaStream_t stream) {
  const std::int64_t widest = max(e.gate.out, e.shared_gate.out);
  file_gate_up_kernel<<<dim3(blocks(widest, 4), static_cast<unsigned>(e.rows * (e.used + 1))), 128, 0, stream>>>(e);
  file_down_kernel<<<dim3(blocks(e.down.out, 4), static_cast<unsigned>(e.rows)), 128, 0, stream>>>(e);
}

}  // namespace ds4::cuda
