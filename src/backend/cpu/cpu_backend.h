// The host backend: a thread pool and the kernels of one instruction set. Ops run to their end when called; wait() only
// lets the calling thread run on any CPU again. Each op is in the file of its name, split over outputs, rows or heads,
// never over the terms of a sum: results do not depend on the number of threads or on what else is in the batch.
//
// Memory: quantised matrices are repacked into tiles (tiles.h), unless they are to stay in the mapped file; vectors of
// 16-bit floats become f32; all else stays where it is. configure() takes one block
// for all scratch: a persistent part, then a part that every op lays out anew (op_scratch.h; the largest counts).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/kv_rows.h"
#include "backend/cpu/memory.h"
#include "backend/cpu/op_scratch.h"
#include "backend/cpu/products.h"
#include "backend/cpu/scratch.h"
#include "backend/host_kv.h"
#include "base/thread_pool.h"

namespace ds4::cpu {

class CpuBackend final : public Backend {
 public:
  CpuBackend(const KernelTable& kernels, int threads, Placement placement, bool quality, bool repack);

  std::string name() const override;
  bool shows_inner() const override { return true; }

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
  Status wait() override {
    pool_.release_caller();
    return {};
  }

 private:
  Sizes sizes() const { return {config_, pool_.size(), quality_}; }
  Sizes sizes(const BackendConfig& config) const { return {config, pool_.size(), quality_}; }
  /// The scratch of one op, laid out over the part that all ops share.
  template <typename OpScratch>
  OpScratch lay_out() const {
    Scratch scratch(op_memory_);
    return OpScratch(scratch, sizes());
  }

  /// Runs f(row) for all rows, on the caller alone when there are few.
  template <typename F>
  void for_rows(std::int64_t rows, F f) {
    if (rows <= 2) {
      for (std::int64_t r = 0; r < rows; ++r) f(r);
      return;
    }
    pool_.run([&](int thread, int threads) {
      for (const auto r : share_of(rows, thread, threads)) f(r);
    });
  }
  /// Runs f(thread, row, part, parts), cutting every row into as many parts as it takes to keep all threads busy.
  template <typename F>
  void for_row_parts(std::int64_t rows, std::int64_t most_parts, F f) {
    const std::int64_t parts = std::min<std::int64_t>(most_parts, rows >= 2 * pool_.size() ? 1 : pool_.size());
    pool_.run([&](int thread, int) {
      for (auto task = pool_.take_task(); task < rows * parts; task = pool_.take_task())
        f(thread, task / parts, task % parts, parts);
    });
  }
  bool goes_to_tiles(const HostWeight& weight) const;
  /// y = x * rsqrt(mean(x²) + eps) (* weight)
  void normalise(const float* x, const float* weight, float* y, std::int64_t count) const;
  /// y [x.rows, w.out] = w · x, as an entry for Products.
  Product product(const Weight& weight, const Activations& x, float* y, bool exact = false) const;
  const Segment& segment_of(std::int64_t row) const {
    return batch_.segments[static_cast<std::size_t>(row_segment_[row])];
  }
  const LayerKvLayout& layer(int index) const { return config_.kv.layers[static_cast<std::size_t>(index)]; }
  /// Where the window row of `position` lies: with this batch's fresh rows, or in the ring.
  RowPlace window_row(const Segment& segment, const LayerKvLayout& kv, std::int64_t position) const;
  RowStore fresh_store(const LayerKvLayout& kv) const { return {0, config_.max_rows, kv.window.row}; }
  /// Copies the fresh rows of long segments to the rings.
  void keep_window_rows(const LayerKvLayout& kv);
  void hyper_connection_controls(const Tensor& streams, const HyperConnectionWeights& hc, const std::int32_t* rows,
                                 std::int64_t count, const HyperConnectionScratch& scratch);

  const KernelTable& kernels_;
  const bool quality_;
  const bool repack_;
  ThreadPool pool_;
  Products products_;
  BackendConfig config_;
  HostKv kv_;
  BatchView batch_;
  std::vector<HugeMemory> converted_;  // vectors that load() turned into f32
  std::vector<std::unique_ptr<TiledMatrix>> tiled_;
  HugeMemory memory_;
  std::byte* op_memory_ = nullptr;

  std::int32_t* iota_ = nullptr;         // 0, 1, 2, ...
  std::int32_t* row_segment_ = nullptr;  // [max_rows]
  std::byte* fresh_rows_ = nullptr;      // fresh_store()
};

}  // namespace ds4::cpu
