// What ops of the CUDA backend leave for a neighbour: kernels that run as one, or beside each other, once it is known
// what follows. flush() runs everything that waits.
#include <iterator>
#include <optional>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/index_topk.h"
#include "backend/cuda/rows.h"

namespace ds4::cuda {

void CudaBackend::flush() {
  run_joint();
  if (pending_route_) half_product(*pending_route_, scratch_.mixed_half, stream());
  pending_route_.reset();
  if (pending_choice_) {
    choose_experts(*pending_choice_, stream());
    device_.launched("route");
    pending_choice_.reset();
  }
  if (!pending_post_) finish_experts();
  if (pending_mix_) run_mix(nullptr, nullptr, nullptr);
  if (!pending_post_) return;
  const HcPostArgs& p = *pending_post_;
  finish_experts();
  join(0);
  cuda::hc_post(p.streams.data, {p.o.data, {}, p.post.data, p.comb.data}, config_.dims.hc, config_.dims.hidden,
                static_cast<int>(p.o.rows), stream());
  device_.launched("hc_post");
  pending_post_.reset();
}

void CudaBackend::flush_heads() {
  if (!pending_heads_) return;
  const QueryHeadsArgs& args = *pending_heads_;
  const Dims& d = config_.dims;
  finish_heads(args.q.data, scratch_.query_half, batch_.positions, args.rope.data, static_cast<int>(args.rope.cols),
               d.heads, d.head_dim, d.rms_eps, batch_.rows, stream());
  device_.launched("query_heads");
  pending_heads_.reset();
}

void CudaBackend::finish_experts() {
  if (experts_.out == nullptr) return;
  add_experts(experts_, batch_.rows, config_.dims.hidden, experts_target_, stream());
  device_.launched("add_experts");
  experts_ = {};
}

bool CudaBackend::join_product(const Weight& weight, const float* x, float* y) {
  const Matrix& m = matrix(weight);
  if (batch_.rows > kFewRows || x != half_source_ || !joins(m) || joint_.size() == kMostJoined) return false;
  joint_.push_back({.m = m, .outs = m.out, .rows = batch_.rows, .x_stride = m.in, .y = y, .y_stride = m.out});
  return true;
}

void CudaBackend::run_joint() {
  if (joint_.empty()) return;
  joint_product(joint_, half_data_, stream());
  device_.launched("products");
  joint_.clear();
  fork(half_source_);
  if (pending_low_rank_) finish_low_rank(*pending_low_rank_);
  pending_low_rank_.reset();
  if (pending_window_) make_window_rows(batch_, window_, side(0));
  pending_window_ = false;
  for (std::size_t i = 0; i < std::size(pending_compress_); ++i)
    if (pending_compress_[i])
      compress_rows(batch_, *pending_compress_[i], long_segments_, side(1 + static_cast<int>(i)));
  for (auto& pending : pending_compress_) pending.reset();
  device_.launched("window_kv");
}

HcSums CudaBackend::hc_sums_of(const HyperConnectionWeights& hc, Tensor streams, const HcPost& post,
                               const std::int32_t* rows_of, int rows, int controls) const {
  return {.streams = streams.data,
          .source_row = rows_of,
          .post = post,
          .fn = matrix(hc.fn),
          .controls = controls,
          .streams_count = config_.dims.hc,
          .hidden = config_.dims.hidden,
          .rows = rows,
          .sums = scratch_.hc_sums};
}

int CudaBackend::run_hc_sums(const HcSums& sums) {
  join(0);  // what the last controls were made of and have left
  const int slices = hc_sums(sums, stream());
  device_.launched("hc_sums");
  if (batch_.rows <= kFewRows) device_.check(cudaEventRecord(sums_ready_, stream()), "fork");
  return slices;
}

void CudaBackend::run_mix(const float* norm_weight, __half* y_half, __half* y_low) {
  pending_mix_->norm_weight = norm_weight;
  pending_mix_->y_half = y_half;
  pending_mix_->y_low = y_low;
  const bool controls_beside = !pending_mix_->head && batch_.rows <= kFewRows;
  pending_mix_->leaves_controls = controls_beside;
  if (pending_sums_) {
    join(0);
    pending_mix_->slices = kHcStepBlocks;
    hc_step(*pending_sums_, *pending_mix_, stream());
    device_.check(cudaEventRecord(sums_ready_, stream()), "fork");
  }
  if (controls_beside) {
    device_.check(cudaStreamWaitEvent(sides_[0], sums_ready_, 0), "fork");
    hc_controls(*pending_mix_, sides_[0]);
    running_[0] = true;
  }
  if (!pending_sums_) hc_mix(*pending_mix_, stream());
  device_.launched("hc_mix");
  pending_sums_.reset();
  pending_mix_.reset();
}

void CudaBackend::finish_low_rank(const LowRankQuery& query) {
  const Dims& d = config_.dims;
  const QueryHeadsArgs& args = query.args;
  const Matrix& q_b = matrix(args.q_b);
  const float* weight = vector(args.q_a_norm);
  const bool normed_later = query.raw != args.qr.data && joins(q_b) && (!query.index || joins(*query.index->q_b)) &&
                            fits_normed(batch_.rows, d.q_lora);
  if (!normed_later)
    norm_rows(query.raw, weight, d.rms_eps, batch_.rows, d.q_lora, args.qr.data, scratch_.qr_half, nullptr, stream());
  qr_source_ = args.qr.data;
  if (fork_source_ != nullptr) device_.check(cudaEventRecord(query_fork_, stream()), "fork");
  const auto from_query = [&](const Matrix& m, float* y, bool keep) {
    if (!normed_later) return multiply(m, args.qr.data, batch_.rows, y, scratch_.wide_half, stream());
    half_product({.m = m,
                  .outs = m.out,
                  .rows = batch_.rows,
                  .y = y,
                  .y_stride = m.out,
                  .normed = {query.raw, weight, d.rms_eps, keep ? args.qr.data : nullptr, scratch_.qr_half}},
                 nullptr, stream());
  };
  // The indexer's queries come first: what follows from them takes longer than the attention's queries.
  if (query.index) {
    from_query(*query.index->q_b, scratch_.index_queries, false);
    device_.check(cudaEventRecord(query_fork_, stream()), "fork");
    device_.check(cudaStreamWaitEvent(side(3), query_fork_, 0), "fork");
    index_queries(batch_, query.index->topk, side(3));
  }
  from_query(q_b, args.q.data, true);
  if (normed_later && !query.index && fork_source_ != nullptr)  // only that product leaves the norm
    device_.check(cudaEventRecord(query_fork_, stream()), "fork");
  device_.launched("query_heads");
}

}  // namespace ds4::cuda
