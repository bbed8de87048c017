// The ops of the CUDA backend, in forward order: which kernels, on which memory.
#include <algorithm>
#include <array>
#include <bit>
#include <tuple>
#include <utility>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/index_topk.h"
#include "backend/cuda/rows.h"
#include "backend/cuda/select.h"
#include "backend/cuda/sparse_attention.h"
#include "base/check.h"

namespace ds4::cuda {

namespace {

enum Op {
  kEmbed,
  kHcPre,
  kNorm,
  kQuery,
  kWindow,
  kCompress,
  kIndex,
  kAttention,
  kOutput,
  kHcPost,
  kRoute,
  kExperts,
  kHead,
  kLogits
};

States states_of(const StateRing& ring) { return {ring.offset, ring.slots, ring.width}; }

}  // namespace

// --- what ops share

Attention CudaBackend::attention_shape() const {
  const Dims& d = config_.dims;
  Attention a{};
  a.heads = d.heads;
  a.head_dim = d.head_dim;
  a.format = config_.kv.format;
  a.exact = exact_;
  return a;
}

const __half* CudaBackend::halves(const float* x, std::int64_t rows, std::int64_t columns, __half* to) {
  if (x == half_source_) return half_data_;
  if (x == qr_source_) return scratch_.qr_half;
  if (x == heads_source_) return scratch_.wide_half;
  if (to == scratch_.wide_half) heads_source_ = nullptr;
  convert_to_half(x, rows, columns, to, stream());
  device_.launched("convert_to_half");
  return to;
}

void CudaBackend::multiply(const Matrix& m, const float* x, std::int64_t rows, float* y, __half* space,
                           cudaStream_t on) {
  const Product p{.m = m, .outs = m.out, .rows = rows, .x_stride = m.in, .y = y, .y_stride = m.out};
  if (m.tiled) half_product(p, halves(x, rows, m.in, space), on);
  else file_product(p, x, on);
  device_.launched("product");
}

cudaStream_t CudaBackend::branch(int number, const float* x, const Weight& weight) {
  // Only work that shares no scratch with the other branches: products of halves that are there already.
  const bool ready = fork_source_ != nullptr && fork_source_ == x && x == half_source_ && matrix(weight).tiled;
  return ready ? side(number) : stream();
}

// --- the ops

void CudaBackend::embed(const EmbedArgs& args) {
  if (!enqueue(kEmbed, args.streams.data)) return;
  flush();
  embed_rows(matrix(args.table), batch_.tokens, batch_.rows, config_.dims.hc, args.streams.data, stream());
  device_.launched("embed");
}

void CudaBackend::hc_pre(const HcPreArgs& args) {
  if (!enqueue(kHcPre, args.y.data)) return;
  HcPost post;
  if (pending_post_ && !pending_mix_ && pending_post_->streams.data == args.streams.data) {
    post = {pending_post_->o.data, {}, pending_post_->post.data, pending_post_->comb.data};
    if (experts_.out != nullptr && experts_target_ == post.o) post.experts = std::exchange(experts_, {});
    pending_post_.reset();
  }
  flush();
  const Dims& d = config_.dims;
  const int rows = static_cast<int>(args.y.rows);
  const HcSums sums = hc_sums_of(args.hc, args.streams, post, nullptr, rows, d.hc_controls());
  int slices = 0;
  if (batch_.rows <= kFewRows && hc_step_fits(sums)) pending_sums_.emplace(sums);
  else slices = run_hc_sums(sums);
  half_source_ = fork_source_ = nullptr;
  pending_mix_ = HcMix{.streams = args.streams.data,
                       .source_row = nullptr,
                       .sums = scratch_.hc_sums,
                       .slices = slices,
                       .leaves_controls = false,
                       .base = vector(args.hc.base),
                       .scale = vector(args.hc.scale),
                       .head = false,
                       .controls = d.hc_controls(),
                       .streams_count = d.hc,
                       .hidden = d.hidden,
                       .rows = rows,
                       .iterations = d.sinkhorn_iterations,
                       .hc_eps = d.hc_eps,
                       .rms_eps = d.rms_eps,
                       .y = args.y.data,
                       .post = args.post.data,
                       .comb = args.comb.data,
                       .norm_weight = nullptr,
                       .y_half = nullptr,
                       .y_low = nullptr};
}

void CudaBackend::hc_head(const HcHeadArgs& args) {
  if (!enqueue(kHead, args.h.data)) return;
  flush();
  const Dims& d = config_.dims;
  const int slices = run_hc_sums(hc_sums_of(args.hc, args.streams, {}, batch_.logit_rows, logit_rows_, d.hc));
  half_source_ = fork_source_ = nullptr;
  pending_mix_ = HcMix{.streams = args.streams.data,
                       .source_row = batch_.logit_rows,
                       .sums = scratch_.hc_sums,
                       .slices = slices,
                       .leaves_controls = false,
                       .base = vector(args.hc.base),
                       .scale = vector(args.hc.scale),
                       .head = true,
                       .controls = d.hc,
                       .streams_count = d.hc,
                       .hidden = d.hidden,
                       .rows = logit_rows_,
                       .iterations = 0,
                       .hc_eps = d.hc_eps,
                       .rms_eps = d.rms_eps,
                       .y = args.h.data,
                       .post = nullptr,
                       .comb = nullptr,
                       .norm_weight = nullptr,
                       .y_half = nullptr,
                       .y_low = nullptr};
}

void CudaBackend::hc_post(const HcPostArgs& args) {
  if (!enqueue(kHcPost, args.o.data)) return;
  const ExpertOutputs parts = args.o.data == experts_target_ ? std::exchange(experts_, {}) : ExpertOutputs{};
  flush();
  experts_ = parts;
  pending_post_ = args;
}

void CudaBackend::rms_norm(const RmsNormArgs& args) {
  if (!enqueue(kNorm, args.y.data)) return;
  const auto width = static_cast<int>(args.x.cols);
  const bool follows = pending_mix_ && pending_mix_->y == args.x.data && args.y.data == args.x.data;
  if (!follows) flush();
  half_source_ = args.y.data;
  fork_source_ = nullptr;
  half_data_ = follows && pending_mix_->head ? scratch_.head_half : scratch_.mixed_half;
  if (args.x.rows > config_.max_rows || width > config_.dims.hidden) half_source_ = nullptr, half_data_ = nullptr;
  __half* low = half_data_ == scratch_.mixed_half ? half_data_ + args.x.rows * width : nullptr;
  if (follows) {
    run_mix(vector(args.weight), half_data_, low);
  } else {
    norm_rows(args.x.data, vector(args.weight), config_.dims.rms_eps, args.x.rows, width, args.y.data, half_data_, low,
              stream());
    device_.launched("rms_norm");
  }
}

void CudaBackend::query_heads(const QueryHeadsArgs& args) {
  if (!enqueue(kQuery, args.q.data)) return;
  flush();
  float* raw = batch_.rows <= kNormedRows ? scratch_.low_rank_query : args.qr.data;
  if (join_product(args.q_a, args.x.data, raw)) {
    pending_low_rank_.emplace(LowRankQuery{args, raw, std::nullopt});
  } else {
    if (args.x.data == half_source_) fork(args.x.data);
    multiply(matrix(args.q_a), args.x.data, batch_.rows, args.qr.data, scratch_.wide_half, stream());
    finish_low_rank({args, args.qr.data, std::nullopt});
  }
  query_source_ = args.q.data;
  pending_heads_.emplace(args);
}

void CudaBackend::window_kv(const WindowKvArgs& args) {
  if (!enqueue(kWindow, args.x.data)) return;
  const Dims& d = config_.dims;
  window_ = WindowRows{.kv = scratch_.kv,
                       .weight = vector(args.kv_norm),
                       .frequencies = args.rope.data,
                       .pairs = static_cast<int>(args.rope.cols),
                       .head_dim = d.head_dim,
                       .eps = d.rms_eps,
                       .format = config_.kv.format,
                       .ring = rows_of(layer(args.layer).window),
                       .fresh = scratch_.fresh_rows,
                       .fresh_rows = fresh_rows(layer(args.layer).window)};
  if (pending_low_rank_ && join_product(args.kv, args.x.data, scratch_.kv)) {
    pending_window_ = true;
    return;
  }
  flush();
  const cudaStream_t on = branch(0, args.x.data, args.kv);
  multiply(matrix(args.kv), args.x.data, batch_.rows, scratch_.kv, scratch_.wide_half, on);
  make_window_rows(batch_, window_, on);
  device_.launched("window_kv");
}

void CudaBackend::compress(const CompressArgs& args) {
  if (!enqueue(kCompress, args.x.data)) return;
  const Dims& d = config_.dims;
  const LayerKvLayout& kv = layer(args.layer);
  const bool indexer = args.kind == CompressorKind::kIndexer;
  float* z = indexer ? scratch_.index_z : scratch_.z;
  float* g = indexer ? scratch_.index_g : scratch_.g;
  const CompressRows rows{.z = z,
                          .g = g,
                          .ape = matrix(args.weights.ape),
                          .norm = vector(args.weights.norm),
                          .frequencies = args.rope.data,
                          .pairs = static_cast<int>(args.rope.cols),
                          .ratio = kv.ratio,
                          .row_width = indexer ? d.index_dim : d.head_dim,
                          .eps = d.rms_eps,
                          .format = config_.kv.format,
                          .indexer = indexer,
                          .states = states_of(indexer ? kv.index_state : kv.state),
                          .store = rows_of(indexer ? kv.index : kv.compressed)};
  if (pending_low_rank_ && joins(matrix(args.weights.gate)) && join_product(args.weights.kv, args.x.data, z)) {
    join_product(args.weights.gate, args.x.data, g);
    pending_compress_[indexer ? 1 : 0].emplace(rows);
    return;
  }
  flush();
  const cudaStream_t on = branch(indexer ? 2 : 1, args.x.data, args.weights.kv);
  multiply(matrix(args.weights.kv), args.x.data, batch_.rows, z, scratch_.wide_half, on);
  multiply(matrix(args.weights.gate), args.x.data, batch_.rows, g, scratch_.wide_half, on);
  compress_rows(batch_, rows, long_segments_, on);
  device_.launched("compress");
}

void CudaBackend::index_topk(const IndexTopkArgs& args) {
  if (!enqueue(kIndex, args.selected.data)) return;
  const Dims& d = config_.dims;
  const int ratio = layer(args.layer).ratio;
  const std::int64_t max_visible = end_position_ / ratio;
  const IndexTopk p{.queries = scratch_.index_queries,
                    .head_weights = scratch_.index_weights,
                    .frequencies = args.rope.data,
                    .pairs = static_cast<int>(args.rope.cols),
                    .heads = d.index_heads,
                    .dim = d.index_dim,
                    .topk = d.index_topk,
                    .ratio = ratio,
                    .format = config_.kv.format,
                    .store = rows_of(layer(args.layer).index),
                    .max_visible = max_visible,
                    .scores = scratch_.index_scores,
                    .maxima = scratch_.index_maxima,
                    .half_queries = scratch_.index_half,
                    .score_rows = scratch_.score_rows,
                    .selected = args.selected.data,
                    .count = args.count.data,
                    .exact = exact_};
  // Queries beside the keys, and both beside the attention's queries, when all inputs are halves that are there
  // already.
  const bool beside = pending_low_rank_ && args.qr.data == pending_low_rank_->args.qr.data && matrix(args.q_b).tiled &&
                      pending_compress_[1].has_value();
  if (beside && p.selects() && join_product(args.proj, args.x.data, scratch_.index_weights)) {
    pending_low_rank_->index.emplace(IndexQueries{&matrix(args.q_b), p});
    flush();
    join(3, side(2));
    cuda::index_topk(batch_, p, side(2));
    device_.launched("index_topk");
    return;
  }
  flush();
  const bool apart = running_[2] && args.qr.data == qr_source_ && args.x.data == half_source_ &&
                     matrix(args.q_b).tiled && matrix(args.proj).tiled;
  if (!apart) join(2);
  const cudaStream_t on = apart ? sides_[2] : stream();
  if (p.selects()) {
    const cudaStream_t queries = apart ? side(3) : stream();
    multiply(matrix(args.proj), args.x.data, batch_.rows, scratch_.index_weights, scratch_.wide_half, queries);
    if (apart) device_.check(cudaStreamWaitEvent(queries, query_fork_, 0), "fork");
    multiply(matrix(args.q_b), args.qr.data, batch_.rows, scratch_.index_queries, scratch_.wide_half, queries);
    index_queries(batch_, p, queries);
    join(3, on);
  }
  cuda::index_topk(batch_, p, on);
  device_.launched("index_topk");
}

void CudaBackend::sparse_attention(const SparseAttentionArgs& args) {
  if (!enqueue(kAttention, args.o.data)) return;
  flush();
  for (int i = 0; i < kBranches; ++i) join(i);
  const Dims& d = config_.dims;
  const LayerKvLayout& kv = layer(args.layer);
  const std::int64_t visible = kv.ratio == 0 ? 0 : end_position_ / kv.ratio;
  const bool selects = args.selected.data != nullptr;
  const __half* q = scratch_.query_half;
  Attention attention = attention_shape();
  attention.pairs = static_cast<int>(args.rope.cols);
  if (pending_heads_ && pending_heads_->q.data == args.q.data && finishes_queries(attention, batch_.rows)) {
    q = nullptr;
    pending_heads_.reset();
    query_source_ = nullptr;
  } else if (flush_heads(); args.q.data != query_source_) {  // queries that did not come from query_heads
    convert_to_half(args.q.data, batch_.rows, args.q.cols, scratch_.query_half, stream());
    query_source_ = nullptr;
  }
  attention.q = args.q.data;
  attention.q_half = q;
  attention.eps = d.rms_eps;
  attention.sinks = vector(args.sinks);
  attention.frequencies = args.rope.data;
  attention.window = d.window;
  attention.ratio = kv.ratio;
  attention.ring = rows_of(kv.window);
  attention.compressed = rows_of(kv.compressed);
  attention.fresh = scratch_.fresh_rows;
  attention.fresh_rows = fresh_rows(kv.window);
  attention.selected = kv.ratio == 0 ? nullptr : args.selected.data;
  attention.count = args.count.data;
  attention.topk = d.index_topk;
  attention.max_keys = d.window + (selects ? std::min<std::int64_t>(d.index_topk, visible) : visible);
  attention.multiprocessors = device_.multiprocessors();
  attention.shared_of_multiprocessor = device_.shared_of_multiprocessor();
  attention.parts = scratch_.attention_parts;
  attention.o = args.o.data;
  attention.o_half = scratch_.wide_half;
  const bool wrote_halves = cuda::sparse_attention(batch_, attention, stream());
  heads_source_ = wrote_halves ? args.o.data : nullptr;
  device_.launched("sparse_attention");
  if (long_segments_) {  // only now may the new rows replace old ones
    store_window_rows(batch_, window_, stream());
    device_.launched("storing window rows");
  }
}

void CudaBackend::attention_output(const AttentionOutputArgs& args) {
  if (!enqueue(kOutput, args.y.data)) return;
  flush();
  const Dims& d = config_.dims;
  const Matrix& a = matrix(args.output_a);
  DS4_CHECK(!a.tiled || d.o_lora % kTileRows == 0);
  const std::int64_t low_rank = std::int64_t{d.o_groups} * d.o_lora;
  const __half* o = a.tiled ? halves(args.o.data, batch_.rows, args.o.cols, scratch_.wide_half) : nullptr;
  // Group g: its heads' outputs side by side against its own rows of output_a.
  Product p{.m = a,
            .outs = d.o_lora,
            .rows = batch_.rows,
            .x_stride = args.o.cols,
            .y = scratch_.low_rank,
            .y_stride = low_rank,
            .groups = d.o_groups};
  const Matrix& b = matrix(args.output_b);
  if (a.tiled && b.tiled) p.y_half = scratch_.low_rank_half;
  if (a.tiled) half_product(p, o, stream());
  else file_product(p, args.o.data, stream());
  device_.launched("output_a");
  if (p.y_half == nullptr) {
    multiply(b, scratch_.low_rank, batch_.rows, args.y.data, scratch_.wide_half, stream());
    return;
  }
  half_product({.m = b, .outs = b.out, .rows = batch_.rows, .x_stride = b.in, .y = args.y.data, .y_stride = b.out},
               scratch_.low_rank_half, stream());
  device_.launched("output_b");
}

void CudaBackend::route(const RouteArgs& args) {
  if (!enqueue(kRoute, args.experts.data)) return;
  flush();
  const Dims& d = config_.dims;
  const Matrix& gate = matrix(args.gate);
  if (batch_.rows <= kFewRows && args.x.data == half_source_) fork(args.x.data);  // for the shared expert
  if (gate.tiled) {  // in FP32 (§2.9): high and low parts of the input as rows of one product
    const __half* x = scratch_.mixed_half;
    if (args.x.data != half_source_ || half_data_ != scratch_.mixed_half) {
      split_to_halves(args.x.data, batch_.rows, gate.in, scratch_.wide_half, stream());
      heads_source_ = nullptr;
      x = scratch_.wide_half;
    }
    // Both in one product, unless that would be one of many rows.
    const bool apart = batch_.rows <= kFewRows && 2 * batch_.rows > kFewRows;
    const std::int64_t rows = apart ? batch_.rows : 2 * batch_.rows;
    for (std::int64_t first = 0; first < 2 * batch_.rows; first += rows) {
      const Product product{.m = gate,
                            .outs = gate.out,
                            .rows = rows,
                            .x_stride = gate.in,
                            .y = scratch_.route_logits + first * gate.out,
                            .y_stride = gate.out};
      if (x == scratch_.mixed_half && routes_beside_shared(product)) pending_route_.emplace(product);
      else half_product(product, x + first * gate.in, stream());
    }
  } else {
    multiply(gate, args.x.data, batch_.rows, scratch_.route_logits, nullptr, stream());
  }
  pending_choice_ =
      RouteChoice{.logits = scratch_.route_logits,
                  .low_logits = gate.tiled ? scratch_.route_logits + std::int64_t{batch_.rows} * d.experts : nullptr,
                  .bias = args.bias.present() ? vector(args.bias) : nullptr,
                  .token_experts = args.token_experts.present()
                                       ? reinterpret_cast<const std::int32_t*>(matrix(args.token_experts).data)
                                       : nullptr,
                  .tokens = batch_.tokens,
                  .experts = d.experts,
                  .used = d.experts_used,
                  .rows = batch_.rows,
                  .scale = d.route_scale,
                  .chosen = args.experts.data,
                  .weights = args.weights.data};
  if (batch_.rows > kRowsThatChoose) flush();
}

void CudaBackend::experts(const ExpertsArgs& args) {
  if (!enqueue(kExperts, args.y.data)) return;
  std::optional<RouteChoice> choice;
  if (pending_choice_ && pending_choice_->chosen == args.experts.data)
    choice = std::exchange(pending_choice_, std::nullopt);
  const Dims& d = config_.dims;
  const ExpertMatrices w{matrix(args.gate),        matrix(args.up),        matrix(args.down),
                         matrix(args.shared_gate), matrix(args.shared_up), matrix(args.shared_down)};
  const bool tiled =
      w.gate.tiled && w.up.tiled && w.down.tiled && w.shared_gate.tiled && w.shared_up.tiled && w.shared_down.tiled;
  const bool alike = w.gate.type == w.up.type && w.shared_gate.type == w.shared_up.type;
  const bool few = tiled && alike && batch_.rows <= kFewRows;
  if (!few) pending_choice_ = std::exchange(choice, std::nullopt);
  std::optional<Product> route;
  if (choice && pending_route_) {
    route.emplace(*pending_route_);
    pending_route_.reset();
  }
  flush();
  if (!tiled || !alike) {
    file_experts({w.gate, w.up, w.down, w.shared_gate, w.shared_up, w.shared_down, args.x.data, args.experts.data,
                  args.weights.data, batch_.rows, d.experts_used, args.limit, args.shared_limit, scratch_.pair_out,
                  scratch_.shared_float, args.y.data},
                 stream());
    device_.launched("experts");
    return;
  }
  const __half* x = halves(args.x.data, batch_.rows, d.hidden, scratch_.wide_half);
  experts_target_ = args.y.data;
  if (batch_.rows > kFewRows) {
    many_experts({.w = w,
                  .x = x,
                  .experts = args.experts.data,
                  .weights = args.weights.data,
                  .rows = batch_.rows,
                  .used = d.experts_used,
                  .limit = args.limit,
                  .shared_limit = args.shared_limit,
                  .hidden = scratch_.hidden,
                  .shared_hidden = scratch_.shared_hidden,
                  .pair_out = scratch_.pair_out,
                  .cursors = scratch_.cursors,
                  .pair_row = scratch_.pair_row,
                  .pair_weight = scratch_.pair_weight,
                  .place_of = scratch_.place_of,
                  .items = scratch_.items,
                  .item_count = scratch_.item_count,
                  .y = args.y.data},
                 stream());
    device_.launched("experts");
    experts_ = {scratch_.pair_out, scratch_.place_of, scratch_.place_of, d.experts_used};
    return;
  }
  const FewExperts few_of{.w = w,
                          .x = x,
                          .experts = args.experts.data,
                          .weights = args.weights.data,
                          .rows = batch_.rows,
                          .used = d.experts_used,
                          .limit = args.limit,
                          .shared_limit = args.shared_limit,
                          .hidden = scratch_.hidden,
                          .shared_hidden = scratch_.shared_hidden,
                          .pair_out = scratch_.pair_out,
                          .y = args.y.data,
                          .choice = choice ? &*choice : nullptr};
  // The shared expert runs beside the router and the routed ones: its first half in the router's kernel, or beside it
  // where its input was complete before.
  if (route) shared_gated(few_of, &*route, stream());
  if (route || fork_source_ != args.x.data) fork(args.x.data);
  const cudaStream_t beside = side(1);
  if (!route) shared_gated(few_of, nullptr, beside);
  shared_down(few_of, beside);
  routed_experts(few_of, stream());
  device_.launched("experts");
  join(1);
  fork_source_ = nullptr;
  experts_ = {scratch_.pair_out, args.experts.data, nullptr, d.experts_used};
}

void CudaBackend::logits(const LogitsArgs& args) {
  if (!enqueue(kLogits, args.logits.data)) return;
  flush();
  multiply(matrix(args.output), args.h.data, args.h.rows, args.logits.data, scratch_.wide_half, stream());
}

Status CudaBackend::top_logits(const Tensor& logits, std::span<TopLogits> top) {
  finish_step();  // no part of a recorded step: the caller may also want all logits
  constexpr std::size_t kMost = TopLogits::kMost;
  const std::size_t rows = top.size();
  DS4_CHECK(static_cast<std::int64_t>(rows) <= config_.max_logit_rows &&
            static_cast<std::int64_t>(rows) <= logits.rows);
  std::int32_t* tokens = scratch_.top;
  std::int32_t* values = tokens + rows * kMost;
  std::int32_t* not_finite = values + rows * kMost;
  device_.check(cudaMemsetAsync(not_finite, 0, rows * sizeof(std::int32_t), stream()), "ranking logits");
  select({.scores = logits.data,
          .pitch = logits.cols,
          .rows = static_cast<int>(rows),
          .topk = static_cast<int>(kMost),
          .visible = logits.cols,
          .most = logits.cols,
          .maxima = logits.cols <= config_.dims.vocab ? scratch_.top_maxima : nullptr,
          .selected = tokens,
          .values = reinterpret_cast<float*>(values),
          .not_finite = not_finite},
         stream());
  device_.launched("ranking logits");
  std::vector<std::int32_t> host(rows * (2 * kMost + 1));
  DS4_RETURN_IF_ERROR(download(host.data(), scratch_.top, host.size() * sizeof(std::int32_t)));
  for (std::size_t row = 0; row < rows; ++row) {
    const auto count = std::min(kMost, static_cast<std::size_t>(logits.cols));
    top[row].count = host[2 * rows * kMost + row] != 0 ? 0 : static_cast<int>(count);
    std::array<std::pair<float, std::int32_t>, kMost> best;
    for (std::size_t i = 0; i < count; ++i)
      best[i] = {std::bit_cast<float>(host[(rows + row) * kMost + i]), host[row * kMost + i]};
    std::sort(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(count), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    for (std::size_t i = 0; i < count; ++i) std::tie(top[row].logits[i], top[row].tokens[i]) = best[i];
  }
  return {};
}

}  // namespace ds4::cuda
