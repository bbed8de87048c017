#include "bench/profiling_backend.h"

#include <algorithm>

#include "base/check.h"

namespace ds4::bench {

std::string_view op_name(Op op) {
  constexpr std::array<std::string_view, static_cast<std::size_t>(Op::kCount)> kNames = {
      "begin",       "embed",       "hc_pre",        "rms_norm",         "query_heads",
      "window_kv",   "compress.4",  "compress.128",  "compress.index",   "index_topk",
      "attention.0", "attention.4", "attention.128", "attention_output", "hc_post",
      "route",       "experts",     "hc_head",       "logits",           "top_logits",
      "download",    "receive",     "wait"};
  return kNames[static_cast<std::size_t>(op)];
}

Profile& operator+=(Profile& a, const Profile& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    a[i].calls += b[i].calls;
    a[i].seconds += b[i].seconds;
    a[i].cost += b[i].cost;
  }
  return a;
}

Cost total_cost(const Profile& profile) {
  Cost total;
  for (const OpTotals& op : profile) total += op.cost;
  return total;
}

Profile ProfilingBackend::take() { return std::exchange(profile_, Profile{}); }

Status ProfilingBackend::configure(const BackendConfig& config) {
  config_ = config;
  step_.config = &config_;
  return inner_->configure(config);
}

void ProfilingBackend::settle() {
  Status status = inner_->wait();
  if (fault_.ok()) fault_ = std::move(status);
}

template <typename F>
void ProfilingBackend::measure(Op op, F f) {
  if (mode_ == Mode::kTime) {
    const auto start = std::chrono::steady_clock::now();
    f();
    settle();
    totals(op).seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  } else {
    f();
  }
  if (mode_ != Mode::kOff) ++totals(op).calls;
}

template <typename Args>
void ProfilingBackend::count(Op op, const Args& args) {
  if (mode_ != Mode::kOff) totals(op).cost += cost_of(args, step_);
}

void ProfilingBackend::begin(const BatchView& batch) {
  step_.segments = batch.segments;
  BatchView step = batch;
  step.repeatable = batch.repeatable && mode_ == Mode::kOff;  // counting reads results between the ops
  measure(Op::kBegin, [&] { inner_->begin(step); });
}

Status ProfilingBackend::receive(void* to, Backend& from, const void* data, std::size_t bytes) {
  Status status;
  auto* profiled = dynamic_cast<ProfilingBackend*>(&from);
  measure(Op::kReceive,
          [&] { status = inner_->receive(to, profiled != nullptr ? *profiled->inner_ : from, data, bytes); });
  return status;
}

Status ProfilingBackend::download(void* host, const void* device, std::size_t bytes) {
  Status status;
  measure(Op::kDownload, [&] { status = inner_->download(host, device, bytes); });
  if (!fault_.ok()) return std::exchange(fault_, Status());
  return status;
}

Status ProfilingBackend::top_logits(const Tensor& logits, std::span<TopLogits> top) {
  Status status;
  measure(Op::kTopLogits, [&] { status = inner_->top_logits(logits, top); });
  if (!fault_.ok()) return std::exchange(fault_, Status());
  return status;
}

Status ProfilingBackend::wait() {
  Status status;
  measure(Op::kWait, [&] { status = inner_->wait(); });
  if (!fault_.ok()) return std::exchange(fault_, Status());
  return status;
}

void ProfilingBackend::embed(const EmbedArgs& args) {
  count(Op::kEmbed, args);
  measure(Op::kEmbed, [&] { inner_->embed(args); });
}

void ProfilingBackend::hc_pre(const HcPreArgs& args) {
  count(Op::kHcPre, args);
  measure(Op::kHcPre, [&] { inner_->hc_pre(args); });
}

void ProfilingBackend::rms_norm(const RmsNormArgs& args) {
  count(Op::kRmsNorm, args);
  measure(Op::kRmsNorm, [&] { inner_->rms_norm(args); });
}

void ProfilingBackend::query_heads(const QueryHeadsArgs& args) {
  count(Op::kQueryHeads, args);
  measure(Op::kQueryHeads, [&] { inner_->query_heads(args); });
}

void ProfilingBackend::window_kv(const WindowKvArgs& args) {
  count(Op::kWindowKv, args);
  measure(Op::kWindowKv, [&] { inner_->window_kv(args); });
}

void ProfilingBackend::compress(const CompressArgs& args) {
  const Op op = args.kind == CompressorKind::kIndexer ? Op::kCompressIndex
                : step_.layer(args.layer).ratio == 4  ? Op::kCompress4
                                                      : Op::kCompress128;
  count(op, args);
  measure(op, [&] { inner_->compress(args); });
}

void ProfilingBackend::index_topk(const IndexTopkArgs& args) {
  count(Op::kIndexTopk, args);
  measure(Op::kIndexTopk, [&] { inner_->index_topk(args); });
}

void ProfilingBackend::sparse_attention(const SparseAttentionArgs& args) {
  const int ratio = step_.layer(args.layer).ratio;
  const Op op = ratio == 0 ? Op::kAttention0 : ratio == 4 ? Op::kAttention4 : Op::kAttention128;
  count(op, args);
  measure(op, [&] { inner_->sparse_attention(args); });
}

void ProfilingBackend::attention_output(const AttentionOutputArgs& args) {
  count(Op::kAttentionOutput, args);
  measure(Op::kAttentionOutput, [&] { inner_->attention_output(args); });
}

void ProfilingBackend::hc_post(const HcPostArgs& args) {
  count(Op::kHcPost, args);
  measure(Op::kHcPost, [&] { inner_->hc_post(args); });
}

void ProfilingBackend::route(const RouteArgs& args) {
  count(Op::kRoute, args);
  measure(Op::kRoute, [&] { inner_->route(args); });
}

std::int64_t ProfilingBackend::distinct_experts(const IntTensor& experts) {
  chosen_.resize(static_cast<std::size_t>(experts.rows * experts.cols));
  Status status = inner_->download(chosen_.data(), experts.data, chosen_.size() * sizeof(std::int32_t));
  if (!status.ok() && fault_.ok()) fault_ = std::move(status);
  std::ranges::sort(chosen_);
  return std::distance(chosen_.begin(), std::ranges::unique(chosen_).begin());
}

void ProfilingBackend::experts(const ExpertsArgs& args) {
  if (mode_ != Mode::kOff) totals(Op::kExperts).cost += cost_of(args, step_, distinct_experts(args.experts));
  measure(Op::kExperts, [&] { inner_->experts(args); });
}

void ProfilingBackend::hc_head(const HcHeadArgs& args) {
  count(Op::kHcHead, args);
  measure(Op::kHcHead, [&] { inner_->hc_head(args); });
}

void ProfilingBackend::logits(const LogitsArgs& args) {
  count(Op::kLogits, args);
  measure(Op::kLogits, [&] { inner_->logits(args); });
}

}  // namespace ds4::bench
