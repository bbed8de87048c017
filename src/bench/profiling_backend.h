// A Backend around another one that can count or time its ops. Off, it only passes calls on. kCount adds up what the
// ops must move and compute; kTime also waits for the device after each op, so that an op's time is its own: the sum is
// then more than a step takes undisturbed, by the cost of waiting.
//
// Driven by the thread that drives the backend inside. The model owns it; who made it keeps a pointer to read it out.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "bench/op_cost.h"

namespace ds4::bench {

/// The rows of the table, in forward order. Ops that differ by the kind of layer are counted apart.
enum class Op {
  kBegin,
  kEmbed,
  kHcPre,
  kRmsNorm,
  kQueryHeads,
  kWindowKv,
  kCompress4,
  kCompress128,
  kCompressIndex,
  kIndexTopk,
  kAttention0,
  kAttention4,
  kAttention128,
  kAttentionOutput,
  kHcPost,
  kRoute,
  kExperts,
  kHcHead,
  kLogits,
  kTopLogits,
  kDownload,
  kReceive,
  kWait,
  kCount,
};
std::string_view op_name(Op op);

struct OpTotals {
  std::int64_t calls = 0;
  double seconds = 0;
  Cost cost;
};
using Profile = std::array<OpTotals, static_cast<std::size_t>(Op::kCount)>;

Profile& operator+=(Profile& a, const Profile& b);
Cost total_cost(const Profile& profile);

class ProfilingBackend final : public Backend {
 public:
  enum class Mode { kOff, kCount, kTime };

  explicit ProfilingBackend(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}

  void set_mode(Mode mode) { mode_ = mode; }
  /// What was counted since the last call.
  Profile take();

  std::string name() const override { return inner_->name(); }
  int good_rows() const override { return inner_->good_rows(); }
  bool ranks() const override { return inner_->ranks(); }
  std::optional<std::uint64_t> available_memory() const override { return inner_->available_memory(); }
  std::uint64_t weight_bytes(const HostWeight& weight) const override { return inner_->weight_bytes(weight); }
  std::uint64_t scratch_bytes(const BackendConfig& config) const override { return inner_->scratch_bytes(config); }
  Result<Weight> load(const HostWeight& weight) override { return inner_->load(weight); }
  Status configure(const BackendConfig& config) override;
  Result<Buffer> allocate(std::size_t bytes) override { return inner_->allocate(bytes); }
  void upload(void* device, const void* host, std::size_t bytes) override { inner_->upload(device, host, bytes); }
  Status download(void* host, const void* device, std::size_t bytes) override;
  Status top_logits(const Tensor& logits, std::span<TopLogits> top) override;
  Status receive(void* to, Backend& from, const void* data, std::size_t bytes) override;

  Result<std::int32_t> new_page() override { return inner_->new_page(); }
  void free_page(std::int32_t page) override { inner_->free_page(page); }
  Result<std::int32_t> new_tail() override { return inner_->new_tail(); }
  void free_tail(std::int32_t tail) override { inner_->free_tail(tail); }
  void copy_page(std::int32_t to, std::int32_t from) override { inner_->copy_page(to, from); }
  void copy_tail(std::int32_t to, std::int32_t from) override { inner_->copy_tail(to, from); }
  Status read_page(std::int32_t page, std::span<std::byte> host) override { return inner_->read_page(page, host); }
  void write_page(std::int32_t page, std::span<const std::byte> host) override { inner_->write_page(page, host); }
  Status read_tail(std::int32_t tail, std::span<std::byte> host) override { return inner_->read_tail(tail, host); }
  void write_tail(std::int32_t tail, std::span<const std::byte> host) override { inner_->write_tail(tail, host); }

  void begin(const BatchView& batch) override;
  void embed(const EmbedArgs& args) override;
  void hc_pre(const HcPreArgs& args) override;
  void rms_norm(const RmsNormArgs& args) override;
  void query_heads(const QueryHeadsArgs& args) override;
  void window_kv(const WindowKvArgs& args) override;
  void compress(const CompressArgs& args) override;
  void index_topk(const IndexTopkArgs& args) override;
  void sparse_attention(const SparseAttentionArgs& args) override;
  void attention_output(const AttentionOutputArgs& args) override;
  void hc_post(const HcPostArgs& args) override;
  void route(const RouteArgs& args) override;
  void experts(const ExpertsArgs& args) override;
  void hc_head(const HcHeadArgs& args) override;
  void logits(const LogitsArgs& args) override;
  Status wait() override;
  Status health() const override { return inner_->health(); }

 private:
  /// Calls f; in the other modes also counts it under `op`.
  template <typename F>
  void measure(Op op, F f);
  template <typename Args>
  void count(Op op, const Args& args);
  OpTotals& totals(Op op) { return profile_[static_cast<std::size_t>(op)]; }
  std::int64_t distinct_experts(const IntTensor& experts);
  void settle();

  std::unique_ptr<Backend> inner_;
  Mode mode_ = Mode::kOff;
  BackendConfig config_;
  StepView step_;
  Profile profile_{};
  Status fault_;  // of a wait() in the middle of a step; the next download() or wait() reports it
  std::vector<std::int32_t> chosen_;
};

}  // namespace ds4::bench
