// The experts of many rows (§2.9): (row, expert) pairs sorted by expert, then products over groups of them.
#include "backend/cuda/many_rows.h"
#include "backend/cuda/products.h"

namespace ds4::cuda {

namespace {

constexpr int kMaxUsed = 32;  // experts of one token

__global__ void count_kernel(const std::int32_t* experts, int pairs, std::int32_t* counts) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < pairs) atomicAdd(counts + experts[i], 1);
}

/// One thread: a few hundred experts. Counts become offsets, cursors and items of up to kBlockRows pairs.
__global__ void plan_kernel(ManyExperts e, int experts) {
  if (threadIdx.x != 0) return;
  int place = 0;
  int items = 0;
  for (int i = 0; i < experts; ++i) {
    const int count = e.cursors[i];
    e.offsets[i] = place;
    e.cursors[i] = place;
    for (int first = 0; first < count; first += kBlockRows)
      e.items[items++] = make_int4(i, place + first, min(kBlockRows, count - first), 0);
    place += count;
  }
  e.offsets[experts] = place;
  *e.item_count = items;
}

__global__ void place_kernel(ManyExperts e) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= e.rows * e.used) return;
  const int place = atomicAdd(e.cursors + e.experts[i], 1);
  e.pair_row[place] = i / e.used;
  e.pair_weight[place] = e.weights[i];
  e.place_of[i] = place;
}

/// y += the routed experts, in ascending order of expert; y holds the shared one.
__global__ void sum_kernel(ManyExperts e, std::int64_t hidden) {
  __shared__ int order[kMaxUsed];
  const std::int64_t row = blockIdx.y;
  if (threadIdx.x == 0) {  // places ascend with the experts
    for (int i = 0; i < e.used; ++i) {
      const int place = e.place_of[row * e.used + i];
      int at = i;
      for (; at > 0 && order[at - 1] > place; --at) order[at] = order[at - 1];
      order[at] = place;
    }
  }
  __syncthreads();
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= hidden) return;
  float v = 0;
  for (int i = 0; i < e.used; ++i) v += e.pair_out[order[i] * hidden + c];
  e.y[row * hidden + c] += v;
}

}  // namespace

void many_experts(const ManyExperts& e, cudaStream_t stream) {
  const int pairs = e.rows * e.used;
  const auto experts = static_cast<int>(e.w.gate.count);
  cudaMemsetAsync(e.cursors, 0, static_cast<std::size_t>(experts) * sizeof(std::int32_t), stream);
  const auto blocks = static_cast<unsigned>((pairs + 255) / 256);
  count_kernel<<<blocks, 256, 0, stream>>>(e.experts, pairs, e.cursors);
  plan_kernel<<<1, 32, 0, stream>>>(e, experts);
  place_kernel<<<blocks, 256, 0, stream>>>(e);
  const std::int64_t items = pairs / kBlockRows + experts;

  ManyRows gated{};
  gated.a = e.w.gate;
  gated.b = e.w.up;
  gated.x = e.x;
  gated.x_stride = e.w.gate.in;
  gated.gather = e.pair_row;
  gated.items = e.items;
  gated.item_count = e.item_count;
  gated.outs = e.w.gate.out;
  gated.hidden = e.hidden;
  gated.y_stride = e.w.gate.out;
  gated.weight = e.pair_weight;
  gated.limit = e.limit;
  many_rows(Output::kGated, gated, items, stream);

  ManyRows down{};
  down.a = down.b = e.w.down;
  down.x = e.hidden;
  down.x_stride = e.w.down.in;
  down.items = e.items;
  down.item_count = e.item_count;
  down.outs = e.w.down.out;
  down.y = e.pair_out;
  down.y_stride = e.w.down.out;
  many_rows(Output::kPlain, down, items, stream);

  ManyRows shared{};
  shared.a = e.w.shared_gate;
  shared.b = e.w.shared_up;
  shared.x = e.x;
  shared.x_stride = e.w.shared_gate.in;
  shared.rows = e.rows;
  shared.outs = e.w.shared_gate.out;
  shared.hidden = e.shared_hidden;
  shared.y_stride = e.w.shared_gate.out;
  shared.limit = e.shared_limit;
  const std::int64_t row_blocks = (e.rows + kBlockRows - 1) / kBlockRows;
  many_rows(Output::kGated, shared, row_blocks, stream);

  Product out{};
  out.m = e.w.shared_down;
  out.outs = e.w.shared_down.out;
  out.rows = e.rows;
  out.x_stride = e.w.shared_down.in;
  out.y = e.y;
  out.y_stride = e.w.shared_down.out;
  half_product(out, e.shared_hidden, stream);
  const std::int64_t hidden = e.w.down.out;
  sum_kernel<<<dim3(static_cast<unsigned>((hidden + 255) / 256), static_cast<unsigned>(e.rows)), 256, 0, stream>>>(e, hidden);
}

}  // namespace ds4::cuda
