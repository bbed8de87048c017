// What a device must do to run DeepSeek V4: about twenty ops, one box of the paper's figure each, in forward order.
// The maths of every op is in the spec section beside it; `reference/` is the oracle, one short function per op.
//
// Life: create_backend() -> load() every weight -> configure() once -> per step: begin(batch), ops, wait().
// Ops only enqueue work and return nothing; a device fault surfaces at wait(), download() and top_logits(), and stays.
// One thread drives a backend at a time. All activations are f32 at this boundary; what a backend does inside is its
// own business, within the bound stated per op in tests/conformance.
//
// Rows of a batch: the rows of one sequence are consecutive, at consecutive positions, and form a Segment. Decode and
// prefill are the same ops: a decode step is a segment of one row.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/dims.h"
#include "backend/kv_layout.h"
#include "backend/tensor.h"
#include "base/cpus.h"
#include "base/result.h"

namespace ds4 {

/// The rows of one sequence in a batch.
struct Segment {
  int first_row = 0;
  int rows = 0;
  std::int64_t first_position = 0;      // tokens of the sequence before this batch
  int tail = 0;                         // kv tail slot
  std::span<const std::int32_t> pages;  // page ids; page i covers tokens [i * kPageTokens, (i + 1) * kPageTokens)
  std::int64_t end_position() const { return first_position + rows; }
};

/// One step. Views stay valid until its last op has been asked for.
struct BatchView {
  int rows = 0;
  std::span<const std::int32_t> tokens;     // [rows]
  std::span<const std::int32_t> positions;  // [rows]
  std::span<const Segment> segments;
  std::span<const std::int32_t> logit_rows;  // rows whose logits are wanted, ascending
  /// The caller makes the same calls, with the same arguments, for every batch of so many rows and logit rows whose
  /// segments have one row each, and neither reads nor hands on anything before the last: a device may record such a
  /// step and replay it.
  bool repeatable = false;
};

struct BackendConfig {
  Dims dims;
  KvLayout kv;
  int max_rows = 0;  // rows of the largest batch
  int max_logit_rows = 0;
  std::int64_t max_context = 0;  // tokens of the longest sequence
  int max_tails = 0;             // sequences and resume points alive at once
  int max_pages = 0;
};

// --- op arguments: inputs, weights, then outputs -------------------------------------------------------------------

struct HyperConnectionWeights {
  Weight fn;     // [controls, hc * d]; head: [hc, hc * d]
  Weight base;   // [controls]; head: [hc]
  Weight scale;  // [3]; head: [1]
};

struct CompressorWeights {
  Weight kv;    // [c * hd, d]; c = 2 for ratio 4, 1 for 128; hd = head_dim, or index_dim in the indexer
  Weight gate;  // [c * hd, d]
  Weight ape;   // [ratio, c * hd]
  Weight norm;  // [hd]
};

struct EmbedArgs {      // §2.1
  const Weight& table;  // [vocab, d]
  Tensor streams;       // out [rows, hc, d]
};
struct HcPreArgs {  // §2.2
  Tensor streams;   // [rows, hc, d]
  const HyperConnectionWeights& hc;
  Tensor y;     // out [rows, d]
  Tensor post;  // out [rows, hc]
  Tensor comb;  // out [rows, hc, hc]: row = source stream, column = produced stream
};
struct HcPostArgs {  // §2.2
  Tensor o;          // [rows, d]
  Tensor post;       // [rows, hc]
  Tensor comb;       // [rows, hc, hc]
  Tensor streams;    // in and out [rows, hc, d]
};
struct HcHeadArgs {  // §2.2, for batch.logit_rows only
  Tensor streams;    // [rows, hc, d]
  const HyperConnectionWeights& hc;
  Tensor h;  // out [logit rows, d]
};
struct RmsNormArgs {     // §2.3
  Tensor x;              // [rows, d]
  const Weight& weight;  // [d]
  Tensor y;              // out [rows, d]; may be x
};
struct QueryHeadsArgs {    // §2.5 steps 1-4
  Tensor x;                // [rows, d]
  const Weight& q_a;       // [q_lora, d]
  const Weight& q_a_norm;  // [q_lora]
  const Weight& q_b;       // [H * head_dim, q_lora]
  Tensor rope;             // [1, rope_dim / 2] frequencies of this layer
  Tensor qr;               // out [rows, q_lora]
  Tensor q;                // out [rows, H, head_dim]
};
struct WindowKvArgs {  // §2.5 steps 5-7; the rows become visible to sparse_attention of the same layer
  int layer;
  Tensor x;               // [rows, d]
  const Weight& kv;       // [head_dim, d]
  const Weight& kv_norm;  // [head_dim]
  Tensor rope;
};
enum class CompressorKind { kMain, kIndexer };
struct CompressArgs {  // §2.6; completed rows go to the pages, (z, g) to the tail
  int layer;
  CompressorKind kind;
  Tensor x;  // [rows, d]
  const CompressorWeights& weights;
  Tensor rope;
};
struct IndexTopkArgs {  // §2.7; ratio-4 layers, after compress(kIndexer)
  int layer;
  Tensor x;            // [rows, d]
  Tensor qr;           // [rows, q_lora]
  const Weight& q_b;   // [index_heads * index_dim, q_lora]
  const Weight& proj;  // [index_heads, d]
  Tensor rope;
  IntTensor selected;  // out [rows, index_topk]: ascending compressed-row numbers, ties to the lower row
  IntTensor count;     // out [rows, 1]: min(index_topk, visible)
};
struct SparseAttentionArgs {  // §2.5 steps 8-10, §2.8
  int layer;
  Tensor q;             // [rows, H, head_dim]
  const Weight& sinks;  // [H]
  Tensor rope;
  IntTensor selected;  // ratio 4: from index_topk; otherwise empty: window only (ratio 0) or all visible rows (128)
  IntTensor count;
  Tensor o;  // out [rows, H, head_dim]
};
struct AttentionOutputArgs {  // §2.5 step 11
  Tensor o;                   // [rows, H, head_dim]
  const Weight& output_a;     // [G * o_lora, H / G * head_dim]
  const Weight& output_b;     // [d, G * o_lora]
  Tensor y;                   // out [rows, d]
};
struct RouteArgs {              // §2.9
  Tensor x;                     // [rows, d]
  const Weight& gate;           // [experts, d]
  const Weight& bias;           // [experts]; absent in hash-routed layers
  const Weight& token_experts;  // i32 [vocab, experts_used]; present in hash-routed layers
  IntTensor experts;            // out [rows, experts_used], in order of selection
  Tensor weights;               // out [rows, experts_used]
};
struct ExpertsArgs {          // §2.9: sum of the routed experts, in ascending expert id, plus the shared one
  Tensor x;                   // [rows, d]
  IntTensor experts;          // [rows, experts_used]
  Tensor weights;             // [rows, experts_used]
  const Weight& gate;         // [experts][expert_ff, d]   W1
  const Weight& up;           // [experts][expert_ff, d]   W3
  const Weight& down;         // [experts][d, expert_ff]   W2
  const Weight& shared_gate;  // [shared_ff, d]
  const Weight& shared_up;
  const Weight& shared_down;
  float limit;  // SwiGLU clamp of the routed experts
  float shared_limit;
  Tensor y;           // out [rows, d]
  Tensor inner = {};  // out [rows, experts_used, expert_ff], if given: what W2 of each expert is multiplied with
};
struct LogitsArgs {      // §2.10
  Tensor h;              // [logit rows, d], normalised
  const Weight& output;  // [vocab, d]
  Tensor logits;         // out [logit rows, vocab]
};

/// The largest of a row of logits: the larger first, ties to the lower token.
struct TopLogits {
  static constexpr int kMost = 64;
  int count = 0;  // min(kMost, vocab); 0: the row has a value that is not finite
  std::array<std::int32_t, kMost> tokens{};
  std::array<float, kMost> logits{};
};
/// Of a row on the host.
TopLogits top_logits_of(std::span<const float> row);

class Backend {
 public:
  virtual ~Backend() = default;

  /// "reference", "cpu/avx512", ...: what runs, for people.
  virtual std::string name() const = 0;

  /// How many rows of a prompt it computes together at a good speed: what a prefill chunk is unless somebody says
  /// otherwise.
  virtual int good_rows() const { return 512; }

  /// Whether experts() can fill ExpertsArgs::inner.
  virtual bool shows_inner() const { return false; }

  /// Whether top_logits() costs less than bringing the logits to the host.
  virtual bool ranks() const { return false; }

  // --- memory; planned before anything is allocated
  /// What the device still has for everything counted below; nullopt: the host's memory, which others know better.
  virtual std::optional<std::uint64_t> available_memory() const { return std::nullopt; }
  /// Bytes that load() will take beyond the mapped file.
  virtual std::uint64_t weight_bytes(const HostWeight& weight) const = 0;
  /// Bytes that configure() will take besides KV: scratch of all ops.
  virtual std::uint64_t scratch_bytes(const BackendConfig& config) const = 0;
  /// The host bytes must stay valid as long as the backend.
  virtual Result<Weight> load(const HostWeight& weight) = 0;
  virtual Status configure(const BackendConfig& config) = 0;
  virtual Result<Buffer> allocate(std::size_t bytes) = 0;
  virtual void upload(void* device, const void* host, std::size_t bytes) = 0;
  /// Waits for the work before it; reports device faults.
  virtual Status download(void* host, const void* device, std::size_t bytes) = 0;
  /// Copies to `to`, on this device, `bytes` at `data` that `from` has been asked to compute so far, before anything
  /// that is asked of this device next; what `from` is asked next leaves them alone until then. By way of the host,
  /// where devices know no shorter one.
  virtual Status receive(void* to, Backend& from, const void* data, std::size_t bytes);

  // --- KV memory: pages and tails are numbered slots; the owner counts references
  virtual Result<std::int32_t> new_page() = 0;  // zeroed
  virtual void free_page(std::int32_t page) = 0;
  virtual Result<std::int32_t> new_tail() = 0;  // zeroed
  virtual void free_tail(std::int32_t tail) = 0;
  virtual void copy_page(std::int32_t to, std::int32_t from) = 0;
  virtual void copy_tail(std::int32_t to, std::int32_t from) = 0;
  virtual Status read_page(std::int32_t page, std::span<std::byte> host) = 0;
  virtual void write_page(std::int32_t page, std::span<const std::byte> host) = 0;
  virtual Status read_tail(std::int32_t tail, std::span<std::byte> host) = 0;
  virtual void write_tail(std::int32_t tail, std::span<const std::byte> host) = 0;

  // --- one step
  virtual void begin(const BatchView& batch) = 0;
  virtual void embed(const EmbedArgs& args) = 0;
  virtual void hc_pre(const HcPreArgs& args) = 0;
  virtual void rms_norm(const RmsNormArgs& args) = 0;
  virtual void query_heads(const QueryHeadsArgs& args) = 0;
  virtual void window_kv(const WindowKvArgs& args) = 0;
  virtual void compress(const CompressArgs& args) = 0;
  virtual void index_topk(const IndexTopkArgs& args) = 0;
  virtual void sparse_attention(const SparseAttentionArgs& args) = 0;
  virtual void attention_output(const AttentionOutputArgs& args) = 0;
  virtual void hc_post(const HcPostArgs& args) = 0;
  virtual void route(const RouteArgs& args) = 0;
  virtual void experts(const ExpertsArgs& args) = 0;
  virtual void hc_head(const HcHeadArgs& args) = 0;
  virtual void logits(const LogitsArgs& args) = 0;
  /// After logits(), whose output `logits` is; one element of `top` a row. Waits, as download() does.
  virtual Status top_logits(const Tensor& logits, std::span<TopLogits> top);
  virtual Status wait() = 0;
  /// The fault that the device has had, as far as anybody has noticed; never waits. A device with a fault computes
  /// nothing any more: its backend can only be destroyed and made anew.
  virtual Status health() const { return {}; }
};

struct BackendOptions {
  std::string device = "cpu";        // "cpu", "reference", "cuda" (the first card) or "cuda:N"
  int threads = 0;                   // 0: one per physical core
  Pinning pinning = Pinning::kAuto;  // cpu: whether threads stay on their CPUs
  int memories = 0;                  // cpu: parts of weights and of the threads, unpinned; 0: as the machine has them
  std::string isa;                   // cpu: force "scalar", "avx2", "avx512" or "neon"; empty: best (or DS4_CPU_ISA)
  bool quality = false;              // exact kernels: quantised weights against f32 activations
  bool repack = true;  // cpu: copy quantised weights into the layout that is read fastest; not with quality
};

/// The devices of a list such as "cuda:0,cuda:1"; "cuda:all" stands for every card there is.
Result<std::vector<std::string>> device_names(std::string_view list);

/// The only place that knows the device folders. An unknown or unusable device is an Error that lists what exists.
Result<std::unique_ptr<Backend>> create_backend(const BackendOptions& options);

}  // namespace ds4
