// NVIDIA cards. Ops enqueue kernels on a stream and on branches beside it; wait() and download() report faults.
//
// Weights are copied to the card, most of them into tiles (matrix.h); `Weight::data` points to a Matrix on the host.
// KV pages and tails are slots of two allocations. What the kernels need to know of a step (tokens, positions, pages)
// goes to the card in one copy at begin(), to addresses that never change.
//
// A repeatable step of few rows is recorded the second time its key is seen, and replayed from the third on: the ops
// are then only compared with those recorded, and the graph is launched when the results are asked for. Grids depend on
// the key alone, which holds the number of rows and the context rounded up; everything else is read on the card.
//
// Neighbouring ops run as one, or beside each other (pending.cu): hc_post waits for the hc_pre after it, hc_pre for the
// rms_norm; in steps of few rows the products of a sub-layer's input wait for each other, and the router's for the
// experts.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/batch.cuh"
#include "backend/cuda/device.h"
#include "backend/cuda/hyper_connection.h"
#include "backend/cuda/index_topk.h"
#include "backend/cuda/kv_ops.h"
#include "backend/cuda/matrix.h"
#include "backend/cuda/products.h"
#include "backend/cuda/rows.h"
#include "backend/cuda/sparse_attention.h"
#include "backend/cuda/upload.h"

namespace ds4::cuda {

/// Device memory of all ops; see scratch.cu.
struct Scratch {
  __half* mixed_half;     // [2 * rows, d]: the sub-layer's input, high parts and low parts (products.h)
  __half* qr_half;        // [rows, q_lora]
  float* low_rank_query;  // [few rows, q_lora], before its norm
  __half* wide_half;      // [rows, widest]: any other input
  __half* query_half;     // [rows, H * head_dim]: finished queries
  float* low_rank;        // [rows, G * o_lora]
  __half* low_rank_half;
  float* kv;  // [rows, head_dim]
  float* z;   // [rows, 2 * head_dim]
  float* g;
  float* index_z;  // [rows, 2 * index_dim]
  float* index_g;
  std::byte* fresh_rows;  // [rows] encoded
  float* index_queries;   // [rows, index_heads * index_dim]
  __half* index_half;
  float* index_weights;  // [rows, index_heads]
  float* index_scores;   // [score_rows, max_context / 4]
  std::uint32_t* index_maxima;
  float* attention_parts;
  float* route_logits;    // [2 * rows, experts]
  __half* hidden;         // [rows * used, expert_ff]
  __half* shared_hidden;  // [rows, shared_ff]
  float* pair_out;        // [rows * used, max(d, expert_ff)]
  float* shared_float;    // [rows, shared_ff]
  std::int32_t* cursors;
  std::int32_t* pair_row;
  float* pair_weight;
  std::int32_t* place_of;
  int4* items;
  std::int32_t* item_count;
  float* hc_sums;
  __half* head_half;  // [logit rows, d]
  std::int32_t* top;  // [logit rows] of tokens, logits and one flag (top_logits)
  std::uint32_t* top_maxima;
  int score_rows;
  std::uint64_t bytes;
};
Scratch carve_scratch(const BackendConfig& config, int multiprocessors, std::byte* base);

class CudaBackend final : public Backend {
 public:
  CudaBackend(Device device, bool exact) : device_(std::move(device)), exact_(exact) {}
  ~CudaBackend() override;
  Status prepare();

  std::string name() const override;
  int good_rows() const override { return 4096; }  // an expert sees a hundred of them
  bool ranks() const override { return true; }
  std::optional<std::uint64_t> available_memory() const override;
  std::uint64_t weight_bytes(const HostWeight& weight) const override;
  std::uint64_t scratch_bytes(const BackendConfig& config) const override;
  Result<Weight> load(const HostWeight& weight) override;
  Status configure(const BackendConfig& config) override;
  Result<Buffer> allocate(std::size_t bytes) override;
  void upload(void* device, const void* host, std::size_t bytes) override;
  Status download(void* host, const void* device, std::size_t bytes) override;
  Status receive(void* to, Backend& from, const void* data, std::size_t bytes) override;

  Result<std::int32_t> new_page() override;
  void free_page(std::int32_t page) override;
  Result<std::int32_t> new_tail() override;
  void free_tail(std::int32_t tail) override;
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
  Status top_logits(const Tensor& logits, std::span<TopLogits> top) override;
  Status wait() override;
  Status health() const override { return device_.status(); }

 private:
  /// Equal slots of one allocation.
  struct Slots {
    std::byte* base = nullptr;
    std::uint64_t bytes = 0;
    std::vector<std::int32_t> free;
    std::byte* at(std::int32_t slot) const { return base + static_cast<std::uint64_t>(slot) * bytes; }
  };
  enum class Mode { kEager, kRecord, kReplay };
  struct Call {
    int op;
    const void* argument;
    bool operator==(const Call&) const = default;
  };
  using StepKey = std::tuple<int, int, std::int64_t>;  // rows, logit rows, context rounded up
  struct Recording {
    int seen = 0;
    std::vector<Call> calls;
    cudaGraphExec_t graph = nullptr;
  };

  Status reserve(Slots& slots, std::uint64_t bytes, int count, const char* what);
  Result<std::int32_t> take(Slots& slots, const char* what);

  /// Every op begins here: false when the step is replayed and there is nothing to do.
  bool enqueue(int op, const void* argument);
  /// Runs what waits for a neighbour.
  void flush();
  /// Finishes queries that no attention of few rows has taken as they are.
  void flush_heads();
  Attention attention_shape() const;
  /// Adds the routed experts up when nobody else did.
  void finish_experts();
  /// Lets the copy engines reach another card's memory, where the machine can.
  void connect(const Device& sender);
  /// Ends a recording or starts a replay.
  void finish_step();
  void drop_recording();

  const Matrix& matrix(const Weight& weight) const { return *static_cast<const Matrix*>(weight.data); }
  const float* vector(const Weight& weight) const { return reinterpret_cast<const float*>(matrix(weight).data); }
  /// The rows of a batch lie like those of a store, so that rows start at the same alignment.
  Rows fresh_rows(const RowStore& store) const {
    return {0, config_.max_rows, store.row.main_bytes, store.row.scale_bytes};
  }
  const LayerKvLayout& layer(int number) const { return config_.kv.layers[static_cast<std::size_t>(number)]; }
  /// `x` as halves: what the norm left, or converted into `to`.
  const __half* halves(const float* x, std::int64_t rows, std::int64_t columns, __half* to);
  /// y = m x for the rows of the batch, tensor cores where the matrix is tiled.
  void multiply(const Matrix& m, const float* x, std::int64_t rows, float* y, __half* space, cudaStream_t stream);
  HcSums hc_sums_of(const HyperConnectionWeights& hc, Tensor streams, const HcPost& post, const std::int32_t* rows_of,
                    int rows, int controls) const;
  int run_hc_sums(const HcSums& sums);
  void run_mix(const float* norm_weight, __half* y_half, __half* y_low);

  cudaStream_t stream() const { return device_.stream(); }
  /// Adds y = m x to those products of the layer's input that run as one kernel (products.h); false when it cannot be
  /// one.
  bool join_product(const Weight& weight, const float* x, float* y);
  /// Runs them, and what waits for their results.
  void run_joint();
  struct IndexQueries {
    const Matrix* q_b;
    IndexTopk topk;
  };
  struct LowRankQuery {
    QueryHeadsArgs args;
    const float* raw;  // the low-rank query before its norm
    std::optional<IndexQueries> index;
  };
  void finish_low_rank(const LowRankQuery& query);

  /// The window and compressor branches run beside the queries, the shared expert beside the router and the routed
  /// ones: side stream `branch` starts after `fork_`, when `source`, a sub-layer's input, is complete.
  void fork(const float* source);
  cudaStream_t side(int branch);
  void join(int branch) { join(branch, stream()); }
  void join(int branch, cudaStream_t into);
  /// The stream for an op that may run beside the queries.
  cudaStream_t branch(int number, const float* x, const Weight& weight);

  Device device_;
  const bool exact_;
  std::unique_ptr<Uploader> uploader_;  // while weights are loaded
  const Iq2Tables* iq2_ = nullptr;
  std::vector<void*> allocations_;
  std::deque<Matrix> matrices_;
  BackendConfig config_;
  Scratch scratch_{};
  Slots pages_;
  Slots tails_;

  std::byte* step_host_ = nullptr;  // pinned
  std::byte* step_device_ = nullptr;
  std::uint64_t step_bytes_ = 0;
  Batch batch_{};
  int logit_rows_ = 0;
  bool long_segments_ = false;
  std::int64_t end_position_ = 0;  // of the longest sequence, rounded up in repeatable steps
  bool in_flight_ = false;         // something was enqueued since anybody waited
  bool complete_ = false;          // finish_step() has seen the last of it

  Mode mode_ = Mode::kEager;
  StepKey key_{};
  std::map<StepKey, Recording> recordings_;
  std::vector<Call> calls_;  // of this step, when it is recorded or replayed

  // Window rows and the hyper-connection's controls; compressor, or the shared expert; indexer's compressor and choice;
  // indexer's queries.
  static constexpr int kBranches = 4;
  cudaStream_t sides_[kBranches] = {};
  cudaEvent_t fork_ = nullptr;  // the sub-layer's input is complete
  cudaEvent_t query_fork_ =
      nullptr;  // the low-rank query is complete, and the indexer's queries that run before the attention's
  cudaEvent_t sums_ready_ = nullptr;  // the hyper-connection's sums are complete
  cudaEvent_t step_sent_ = nullptr;   // step_host_ may be written again
  cudaEvent_t left_ = nullptr;        // all that another card waits for is computed
  cudaEvent_t arrived_ = nullptr;     // what came from another card
  int connected_ = -1;                // the last card that connect() saw
  cudaEvent_t joins_[kBranches] = {};
  const float* fork_source_ = nullptr;  // what was complete at fork_; null: nothing of this sub-layer
  bool at_fork_[kBranches] = {};        // the branch has waited for the last fork
  bool running_[kBranches] = {};        // the branch has work that nobody has waited for

  const float* half_source_ = nullptr;  // what half_data_ holds
  __half* half_data_ = nullptr;
  const float* qr_source_ = nullptr;     // what scratch_.qr_half holds
  const float* heads_source_ = nullptr;  // what scratch_.wide_half holds
  const float* query_source_ = nullptr;  // what scratch_.query_half holds
  float* experts_target_ = nullptr;      // the output that experts_ belong to
  ExpertOutputs experts_;
  WindowRows window_{};         // of the layer at work
  std::vector<Product> joint_;  // of half_source_; what waits for them:
  std::optional<LowRankQuery> pending_low_rank_;
  bool pending_window_ = false;                      // window_
  std::optional<CompressRows> pending_compress_[2];  // layer's, indexer's
  std::optional<HcPostArgs> pending_post_;
  std::optional<HcSums> pending_sums_;  // of pending_mix_, when one kernel does both
  std::optional<HcMix> pending_mix_;
  std::optional<QueryHeadsArgs> pending_heads_;
  std::optional<Product> pending_route_;  // of mixed_half; the choice waits for it
  std::optional<RouteChoice> pending_choice_;
};

}  // namespace ds4::cuda
