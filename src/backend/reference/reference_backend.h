// The oracle: every op in its most obvious form, one thread, sums in double. Slow on purpose; never optimised beyond
// what keeps the tests short. Each op is in the file of its name.
#pragma once

#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/host_kv.h"

namespace ds4 {

class ReferenceBackend final : public Backend {
 public:
  std::string name() const override { return "reference"; }
  bool shows_inner() const override { return true; }
  bool ranks() const override { return true; }  // it costs more here, but the oracle goes the way of the devices

  std::uint64_t weight_bytes(const HostWeight& weight) const override;
  std::uint64_t scratch_bytes(const BackendConfig& config) const override;
  Result<Weight> load(const HostWeight& weight) override;
  Status configure(const BackendConfig& config) override;
  Result<Buffer> allocate(std::size_t bytes) override;
  void upload(void* device, const void* host, std::size_t bytes) override;
  Status download(void* host, const void* device, std::size_t bytes) override;

  Result<std::int32_t> new_page() override { return kv_.new_page(); }
  void free_page(std::int32_t page) override { kv_.free_page(page); }
  Result<std::int32_t> new_tail() override { return kv_.new_tail(); }
  void free_tail(std::int32_t tail) override { kv_.free_tail(tail); }
  void copy_page(std::int32_t to, std::int32_t from) override;
  void copy_tail(std::int32_t to, std::int32_t from) override;
  Status read_page(std::int32_t page, std::span<std::byte> host) override;
  void write_page(std::int32_t page, std::span<const std::byte> host) override;
  Status read_tail(std::int32_t tail, std::span<std::byte> host) override;
  void write_tail(std::int32_t tail, std::span<const std::byte> host) override;

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
  Status wait() override { return {}; }

 private:
  BackendConfig config_;
  HostKv kv_;
  BatchView batch_;
  /// Window rows of this batch, encoded: they reach the ring when the layer's attention has read the old ones.
  std::vector<std::byte> fresh_rows_;
};

}  // namespace ds4
