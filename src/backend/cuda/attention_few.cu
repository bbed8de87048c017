// Attention of few rows: the keys of one are split over blocks, and what these leave is put together.
#include <algorithm>

#include "backend/cuda/attention_keys.cuh"
#include "backend/cuda/launch.cuh"

namespace ds4::cuda {

namespace {

constexpr int kPartFloats = kTensorHeadDim + 2;  // sums, largest score, denominator
constexpr int kMaxSplits = 64;
constexpr int kFewHeads = 16;

/// kTiles times kKeysAtOnce keys at a time.
template <int kTiles>
struct FewSpace {
  __half q[kFewHeads][kKeyPitch];
  __half keys[kTiles * kKeysAtOnce][kKeyPitch];
  __half weights[kFewHeads][kTiles * kKeysAtOnce + 8];
  float scores[2][kFewHeads][kTiles * kKeysAtOnce + 1];
  float shrink[kFewHeads];
  float largest[kFewHeads];
  float denominator[kFewHeads];
};

/// The norm of every head and the rotation of its last 64 values. Sixteen threads a head, 32 values each: four of
/// every 64.
__device__ void finish_queries(const float* q, std::int64_t position, const Attention& p,
                               __half (&to)[kFewHeads][kKeyPitch]) {
  const int head = threadIdx.x / 16;
  const int own = threadIdx.x % 16 * 4;
  float4 v[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) v[j] = *reinterpret_cast<const float4*>(q + head * kTensorHeadDim + j * 64 + own);
  float squares = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) squares += v[j].x * v[j].x + v[j].y * v[j].y + v[j].z * v[j].z + v[j].w * v[j].w;
  for (int step = 8; step > 0; step /= 2) squares += __shfl_xor_sync(~0u, squares, step);
  const float r = rsqrtf(squares / static_cast<float>(kTensorHeadDim) + p.eps);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    v[j] = {v[j].x * r, v[j].y * r, v[j].z * r, v[j].w * r};
    if (j == 7) {
      rotate_pair(v[j].x, v[j].y, position, p.frequencies[own / 2]);
      rotate_pair(v[j].z, v[j].w, position, p.frequencies[own / 2 + 1]);
    }
    const __half2 low = __halves2half2(to_half(v[j].x), to_half(v[j].y));
    const __half2 high = __halves2half2(to_half(v[j].z), to_half(v[j].w));
    *reinterpret_cast<uint2*>(&to[head][j * 64 + own]) = make_uint2(as_bits(low), as_bits(high));
  }
}

/// Few rows: block (16 heads, row, split of the keys), so that many blocks share the work of one token. Warp w: for the
/// scores keys 8 (w % 4) .. of every tile and dims 256 (w / 4) .., for the sums dims 64 w ... Leaves parts.
template <int kTiles>
__global__ void __launch_bounds__(kAttentionThreads)
    few_tensor_kernel(const Batch batch, const Attention p, int splits) {
  extern __shared__ __align__(16) std::byte memory[];
  constexpr int kGroup = kTiles * kKeysAtOnce;
  auto& space = *reinterpret_cast<FewSpace<kTiles>*>(memory);
  const int row = blockIdx.y;
  const int thread = threadIdx.x;
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int first_head = blockIdx.x * kFewHeads;
  const int own_key = thread / 8;
  const int eighth = thread % 8;
  Keys keys(batch, p, row);
  wait_for_previous();
  keys.count_selected();
  const int groups = (keys.total + kGroup - 1) / kGroup;
  const int first_group = groups * static_cast<int>(blockIdx.z) / splits;
  const int last_group = groups * (static_cast<int>(blockIdx.z) + 1) / splits;
  KeyPiece pieces[kTiles];
  const auto fetch_group = [&](int group) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
      fetch(pieces[i], keys, group * kGroup + i * kKeysAtOnce + own_key, eighth, p.format);
  };
  if (first_group < last_group) fetch_group(first_group);
  const std::int64_t first_q = (static_cast<std::int64_t>(row) * p.heads + first_head) * kTensorHeadDim;
  if (p.q_half == nullptr) {
    finish_queries(p.q + first_q, batch.positions[row], p, space.q);
  } else {
    const auto* q = reinterpret_cast<const uint4*>(p.q_half + first_q);
#pragma unroll
    for (int i = thread; i < kFewHeads * kTensorHeadDim / 8; i += kAttentionThreads)
      *reinterpret_cast<uint4*>(&space.q[i / 64][i % 64 * 8]) = q[i];
  }
  if (thread < kFewHeads) {
    space.largest[thread] = -INFINITY;
    space.denominator[thread] = 0;
  }
  float sum[8][4] = {};
  for (int group = first_group; group < last_group; ++group) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) store(pieces[i], space.keys[i * kKeysAtOnce + own_key], eighth, p.format);
    __syncthreads();
    if (group + 1 < last_group) fetch_group(group + 1);
    float dots[kTiles][4] = {};
#pragma unroll 2
    for (int s = 0; s < 8; ++s) {  // 32 dims each
      const int dim = warp / 4 * 256 + s * 32;
      std::uint32_t low[4];
      std::uint32_t high[4];
      load_matrices(low, &space.q[lane % 16][dim + lane / 16 * 8]);
      load_matrices(high, &space.q[lane % 16][dim + 16 + lane / 16 * 8]);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        std::uint32_t b[4];
        load_matrices(b, &space.keys[i * kKeysAtOnce + warp % 4 * 8 + lane % 8][dim + lane / 8 * 8]);
        mma(dots[i], low, b[0], b[1]);
        mma(dots[i], high, b[2], b[3]);
      }
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        space.scores[warp / 4][lane / 4 + e / 2 * 8][i * kKeysAtOnce + warp % 4 * 8 + lane % 4 * 2 + e % 2] =
            dots[i][e];
    __syncthreads();
    {                                                 // sixteen threads a head, two keys of every tile each
      constexpr float kScale = 0.04419417382415922F;  // 512^-0.5
      const int head = thread / 16;
      const int key = thread % 16 * 2;
      const int left = keys.total - group * kGroup;
      float s[kTiles][2];
      float now = -INFINITY;
#pragma unroll
      for (int i = 0; i < kTiles; ++i)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int k = i * kKeysAtOnce + key + e;
          s[i][e] = k < left ? (space.scores[0][head][k] + space.scores[1][head][k]) * kScale : -INFINITY;
          now = fmaxf(now, s[i][e]);
        }
      for (int step = 8; step > 0; step /= 2) now = fmaxf(now, __shfl_xor_sync(~0u, now, step));
      const float before = space.largest[head];
      now = fmaxf(now, before);
      float denominator = 0;
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        const float w0 = expf(s[i][0] - now);
        const float w1 = expf(s[i][1] - now);
        *reinterpret_cast<__half2*>(&space.weights[head][i * kKeysAtOnce + key]) = __floats2half2_rn(w0, w1);
        denominator += w0 + w1;
      }
      for (int step = 8; step > 0; step /= 2) denominator += __shfl_xor_sync(~0u, denominator, step);
      __syncwarp();
      if (thread % 16 == 0) {
        const float shrink = expf(before - now);
        space.shrink[head] = shrink;
        space.largest[head] = now;
        space.denominator[head] = space.denominator[head] * shrink + denominator;
      }
    }
    __syncthreads();
    if (group != first_group) {
      const float low = space.shrink[lane / 4];
      const float high = space.shrink[lane / 4 + 8];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        sum[n][0] *= low;
        sum[n][1] *= low;
        sum[n][2] *= high;
        sum[n][3] *= high;
      }
    }
#pragma unroll 1
    for (int s = 0; s < 2 * kTiles; ++s) {
      std::uint32_t a[4];
      load_matrices(a, &space.weights[lane % 16][s * 16 + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        std::uint32_t b[4];
        load_matrices_transposed(b, &space.keys[s * 16 + lane % 16][warp * 64 + n * 16 + lane / 16 * 8]);
        mma(sum[2 * n], a, b[0], b[1]);
        mma(sum[2 * n + 1], a, b[2], b[3]);
      }
    }
    __syncthreads();
  }
  __syncthreads();
  float* part = p.parts + ((static_cast<std::int64_t>(row) * p.heads + first_head) * splits + blockIdx.z) * kPartFloats;
  const std::int64_t pitch = static_cast<std::int64_t>(splits) * kPartFloats;
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int r = 0; r < 2; ++r)
      *reinterpret_cast<float2*>(part + (lane / 4 + 8 * r) * pitch + warp * 64 + n * 8 + lane % 4 * 2) =
          make_float2(sum[n][2 * r], sum[n][2 * r + 1]);
  if (thread < kFewHeads) {
    float* end = part + thread * pitch + kTensorHeadDim;
    end[0] = space.largest[thread];
    end[1] = space.denominator[thread];
  }
}

constexpr int kCombineGroups = 4;
constexpr int kCombineThreads = kCombineGroups * kTensorHeadDim / 4;
constexpr int kEarlyParts = 5;  // of a group

/// Puts the splits of a head together: block (head, row), a group of threads every fourth split.
__global__ void __launch_bounds__(kCombineThreads) combine_kernel(const Batch batch, const Attention p, int splits) {
  static_assert(kMaxSplits <= 64);  // a lane sees two ends
  __shared__ float4 sums[kCombineGroups][kTensorHeadDim / 4];
  const int head = blockIdx.x;
  const int row = blockIdx.y;
  const int lane = threadIdx.x % 32;
  const int group = threadIdx.x / (kTensorHeadDim / 4);
  const int own = threadIdx.x % (kTensorHeadDim / 4);
  const float sink = p.sinks[head];
  wait_for_previous();
  const float* parts = p.parts + (static_cast<std::int64_t>(row) * p.heads + head) * splits * kPartFloats;
  const auto part = [&](int split) {  // rows lie at multiples of 8 bytes
    const auto* from = reinterpret_cast<const float2*>(parts + split * kPartFloats) + 2 * own;
    const float2 low = from[0];
    const float2 high = from[1];
    return float4{low.x, low.y, high.x, high.y};
  };
  float4 early[kEarlyParts];
#pragma unroll
  for (int i = 0; i < kEarlyParts; ++i)
    if (group + i * kCombineGroups < splits) early[i] = part(group + i * kCombineGroups);
  const auto end = [&](int split) {
    return split < splits ? *reinterpret_cast<const float2*>(parts + split * kPartFloats + kTensorHeadDim)
                          : float2{-INFINITY, 0.0F};
  };
  const float2 first = end(lane);  // largest score, denominator
  const float2 second = end(lane + 32);
  const float largest = warp_max(fmaxf(fmaxf(first.x, second.x), sink));
  const float weights[2] = {expf(first.x - largest), expf(second.x - largest)};  // 0 for a split without keys
  const float denominator = warp_sum(weights[0] * first.y + weights[1] * second.y) + expf(sink - largest);
  float4 sum = {};
  const auto add = [&](int split, const float4& v) {
    const float w = __shfl_sync(~0u, split < 32 ? weights[0] : weights[1], split % 32);
    sum = {sum.x + w * v.x, sum.y + w * v.y, sum.z + w * v.z, sum.w + w * v.w};
  };
#pragma unroll
  for (int i = 0; i < kEarlyParts; ++i)
    if (group + i * kCombineGroups < splits) add(group + i * kCombineGroups, early[i]);
#pragma unroll 4
  for (int split = group + kEarlyParts * kCombineGroups; split < splits; split += kCombineGroups)
    add(split, part(split));
  sums[group][own] = sum;
  __syncthreads();
  if (threadIdx.x >= kTensorHeadDim / 2) return;
  const int dim = threadIdx.x * 2;
  float a = 0;
  float b = 0;
#pragma unroll
  for (int g = 0; g < kCombineGroups; ++g) {
    const float2 v = reinterpret_cast<const float2*>(sums[g])[threadIdx.x];
    a += v.x;
    b += v.y;
  }
  a /= denominator;
  b /= denominator;
  const int plain = kTensorHeadDim - 2 * p.pairs;
  if (dim >= plain) rotate_pair(a, b, batch.positions[row], p.frequencies[(dim - plain) / 2], /*inverse=*/true);
  const std::int64_t at = (static_cast<std::int64_t>(row) * p.heads + head) * kTensorHeadDim + dim;
  *reinterpret_cast<float2*>(p.o + at) = make_float2(a, b);
  *reinterpret_cast<__half2*>(p.o_half + at) = __halves2half2(to_half(a), to_half(b));
}

template <int kTiles>
void launch_few(const Batch& batch, const Attention& p, int splits, dim3 grid, cudaStream_t stream) {
  // While a multiprocessor for each is there they ask for more than half of its memory: blocks that come early, beside
  // the last ones of another kernel, would pair up where there is room first.
  const std::size_t alone = std::max(sizeof(FewSpace<kTiles>), p.shared_of_multiprocessor / 2 + 1024);
  const bool apart = grid.x * grid.y * grid.z <= static_cast<unsigned>(p.multiprocessors);
  allow_shared(few_tensor_kernel<kTiles>, alone);  // the same in every step that is recorded
  launch(few_tensor_kernel<kTiles>, grid, kAttentionThreads, apart ? alone : sizeof(FewSpace<kTiles>), stream, batch, p,
         splits);
}

}  // namespace

std::size_t attention_scratch_floats(int heads, int head_dim, int multiprocessors) {
  if (head_dim != kTensorHeadDim) return 0;
  // Splits are only made while every block has a multiprocessor; a block leaves a part for each of its heads.
  return static_cast<std::size_t>(std::max(multiprocessors * kFewHeads, kSplitRows * heads)) * kPartFloats;
}

void few_attention(const Batch& batch, const Attention& p, cudaStream_t stream) {
  const auto rows = static_cast<unsigned>(batch.rows);
  const int head_groups = p.heads / kFewHeads;
  const auto groups = static_cast<int>((p.max_keys + kKeysAtOnce - 1) / kKeysAtOnce);
  const int places = p.multiprocessors / (batch.rows * head_groups);
  const int splits = std::clamp(places, 1, std::min(groups, kMaxSplits));
  const dim3 grid(static_cast<unsigned>(head_groups), rows, static_cast<unsigned>(splits));
  // A block of many keys takes twice as many at a time, and as few blocks as there are multiprocessors leave few parts.
  if (groups >= 2 * splits) launch_few<2>(batch, p, splits, grid, stream);
  else launch_few<1>(batch, p, splits, grid, stream);
  launch(combine_kernel, dim3(static_cast<unsigned>(p.heads), rows), kCombineThreads, 0, stream, batch, p, splits);
}

}  // namespace ds4::cuda
