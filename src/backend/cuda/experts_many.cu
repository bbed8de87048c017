// The experts of many rows (§2.9): (row, expert) pairs sorted by expert, then products over groups of them.
#include "backend/cuda/device_math.cuh"
#include "backend/cuda/many_rows.h"
#include "backend/cuda/products.h"

namespace ds4::cuda {

namespace {

__global__ void count_kernel(const std::int32_t* experts, int pairs, std::int32_t* counts) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < pairs) atomicAdd(counts + experts[i], 1);
}

/// One block, a thread an expert at a time: counts become cursors and items of up to block_rows pairs.
__global__ void __launch_bounds__(1024) plan_kernel(ManyExperts e, int experts, int block_rows) {
  __shared__ int places[1024];
  __shared__ int items[1024];
  const int i = threadIdx.x;
  const int count = i < experts ? e.cursors[i] : 0;
  const int groups = (count + block_rows - 1) / block_rows;
  places[i] = count;
  items[i] = groups;
  __syncthreads();
  for (int step = 1; step < 1024; step *= 2) {  // inclusive sums
    const int place = i >= step ? places[i - step] : 0;
    const int item = i >= step ? items[i - step] : 0;
    __syncthreads();
    places[i] += place;
    items[i] += item;
    __syncthreads();
  }
  const int first = places[i] - count;
  if (i < experts) {
    e.cursors[i] = first;
    for (int g = 0; g < groups; ++g)
      e.items[items[i] - groups + g] = make_int4(i, first + g * block_rows, min(block_rows, count - g * block_rows), 0);
  }
  if (i == 1023) *e.item_count = items[i];
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
__global__ void add_kernel(ExpertOutputs parts, std::int64_t hidden, float* y) {
  __shared__ int order[kMaxUsed];
  const std::int64_t row = blockIdx.y;
  if (threadIdx.x == 0) order_experts(parts, row, order);
  __syncthreads();
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= hidden) return;
  float v = y[row * hidden + c];
  for (int i = 0; i < parts.used; ++i) v += parts.out[order[i] * hidden + c];
  y[row * hidden + c] = v;
}

}  // namespace

void many_experts(const ManyExperts& e, cudaStream_t stream) {
  const int pairs = e.rows * e.used;
  const auto experts = static_cast<int>(e.w.gate.count);
  cudaMemsetAsync(e.cursors, 0, static_cast<std::size_t>(experts) * sizeof(std::int32_t), stream);
  const auto blocks = static_cast<unsigned>((pairs + 255) / 256);
  count_kernel<<<blocks, 256, 0, stream>>>(e.experts, pairs, e.cursors);
  plan_kernel<<<1, 1024, 0, stream>>>(e, experts, rows_of_block());
  place_kernel<<<blocks, 256, 0, stream>>>(e);
  const std::int64_t items = pairs / rows_of_block() + experts;

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
  const std::int64_t row_blocks = (e.rows + rows_of_block() - 1) / rows_of_block();
  many_rows(Output::kGated, shared, row_blocks, stream);

  Product out{};
  out.m = e.w.shared_down;
  out.outs = e.w.shared_down.out;
  out.rows = e.rows;
  out.x_stride = e.w.shared_down.in;
  out.y = e.y;
  out.y_stride = e.w.shared_down.out;
  half_product(out, e.shared_hidden, stream);
}

void add_experts(const ExpertOutputs& parts, std::int64_t rows, std::int64_t hidden, float* y, cudaStream_t stream) {
  add_kernel<<<dim3(static_cast<unsigned>((hidden + 255) / 256), static_cast<unsigned>(rows)), 256, 0, stream>>>(
      parts, hidden, y);
}

}  // namespace ds4::cuda
