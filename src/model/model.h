// DeepSeek V4 as a function: tokens in, logits out, KV state on the side (spec sections 2 and 3).
//
// A Model owns the weights (through its backends) and the memory of all KV state; a Sequence is one timeline in it.
// forward() takes rows of (sequence, token, position, wants_logits), prefill and decode mixed freely. A sequence moves
// forward only when the whole call succeeds; after an error or a cancel it is what it was before.
// One thread drives a Model at a time. Sequences must not outlive their Model.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/result.h"
#include "gguf/file.h"
#include "model/shape.h"
#include "quant/kv_row.h"

namespace ds4 {

struct ModelOptions {
  KvFormat kv = KvFormat::kPacked;
  std::int64_t context = 32768;    // tokens of the longest sequence
  int max_sequences = 1;           // sequences and snapshots alive at once
  std::int64_t max_tokens = 0;     // tokens of KV in all sequences together; 0: context * max_sequences
  int max_rows = 512;              // rows of the largest batch (prefill chunk)
  int step_rows = 0;               // rows that a device computes together, a longer batch being cut; 0: max_rows
  int max_logit_rows = 1;          // rows of one batch that may ask for logits
  std::vector<int> layer_backend;  // index into the backends, one per layer; empty: the first for all
  bool expert_tap = false;         // ForwardOptions::expert_tap will be used

  int rows_of_step() const { return step_rows > 0 && step_rows < max_rows ? step_rows : max_rows; }
};

/// Places the layers on `devices` devices, as many on each and in order, and has long batches cut so that all of them
/// work on one.
void spread_layers(ModelOptions& options, int layers, int devices);

/// What a model needs, counted before anything is allocated.
struct MemoryPlan {
  std::uint64_t weights_mapped = 0;  // read from the file's own pages, shared and evictable
  std::uint64_t weights = 0;         // copied or repacked
  std::uint64_t kv_pages = 0;        // when every token of max_tokens is in use
  std::uint64_t kv_tails = 0;
  std::uint64_t scratch = 0;        // activations and op scratch
  std::uint64_t kv_page_bytes = 0;  // of kPageTokens tokens, all backends
  std::uint64_t kv_bytes_per_token() const { return kv_page_bytes / kPageTokens; }
  std::uint64_t total() const { return weights + kv_pages + kv_tails + scratch; }
  MemoryPlan& operator+=(const MemoryPlan& other);
};

class Model;

/// Everything of a sequence in host memory: can be stored, and restored into any Model of the same file and options.
struct SequenceImage {
  std::int64_t length = 0;
  std::int64_t written = 0;                   // see Sequence::rewind_floor
  std::vector<std::vector<std::byte>> pages;  // per backend, concatenated pages
  std::vector<std::vector<std::byte>> tails;  // per backend
};

/// A sequence in pieces (model/kv_blocks.h), each of all backends, one after the other. Views.
struct SequencePieces {
  std::vector<std::span<const std::byte>> blocks;  // from the start of the history
  std::span<const std::byte> point;                // at the end of the last block
};

/// One timeline: how many tokens it holds and where its KV state lies. Move-only; gives its memory back when destroyed.
class Sequence {
 public:
  Sequence(Sequence&&) noexcept;
  Sequence& operator=(Sequence&&) noexcept;
  ~Sequence();

  std::int64_t length() const { return length_; }
  /// The shortest length rewind() can go back to without recomputing (0 is always possible besides).
  std::int64_t rewind_floor() const;
  /// Takes tokens back: `to` is 0, or from rewind_floor() to length(). False, and no change, otherwise.
  bool rewind(std::int64_t to);
  /// A second timeline with the same history: pages are shared (copied when one side writes), the tail is copied.
  Result<Sequence> fork() const;
  Result<SequenceImage> save() const;
  /// The rows of blocks [first, first + count), all of them behind the sequence.
  Result<std::vector<std::vector<std::byte>>> save_blocks(std::int64_t first, std::int64_t count) const;
  /// What a restart at `at` needs besides them: a multiple of kBlockTokens from rewind_floor() to length(), not 0.
  Result<std::vector<std::byte>> save_point(std::int64_t at) const;

 private:
  friend class Model;  // and its passes
  Sequence(Model* model, std::vector<std::int32_t> tails);
  void release();
  Model* model_ = nullptr;
  std::int64_t length_ = 0;
  std::int64_t written_ = 0;                      // positions ever written to the rings
  std::vector<std::int32_t> tails_;               // [backend]
  std::vector<std::vector<std::int32_t>> pages_;  // [backend][page index] -> page id
};

struct BatchRow {
  Sequence* sequence = nullptr;
  std::int32_t token = 0;
  std::int64_t position = 0;  // sequence->length() + how many rows of it come before
  bool wants_logits = false;
};

/// Copies the streams [rows, hc, d] after trunk layer `layer` to the host (drafters, steering, importance matrices).
struct StreamTap {
  int layer = 0;
  std::span<float> streams;
};

/// What the matrices of the routed experts of a layer were multiplied with (importance matrices).
struct ExpertInputs {
  int layer = 0;
  int experts_used = 0;
  std::span<const float> x;               // [rows, d]: of W1 and W3, the same for all experts of a row
  std::span<const std::int32_t> experts;  // [rows, experts_used]
  std::span<const float> inner;           // [rows, experts_used, expert_ff]: of W2, times the routing weight
};
using ExpertTap = std::function<void(const ExpertInputs&)>;

struct ForwardOptions {
  const std::atomic<bool>* cancel = nullptr;  // polled between layers
  std::span<const StreamTap> taps;
  /// [rows that want logits]. With it their largest logits come here, and `logits` stays empty: see read_logits().
  std::span<TopLogits> top;
  ExpertTap expert_tap;  // called after every layer; the views end with the call. Needs ModelOptions::expert_tap
  std::function<void(int layers_done)> progress;
};

class Model {
 public:
  /// Plans, without allocating, what each backend takes. `backends` may be fresh.
  static Result<std::vector<MemoryPlan>> plan(const gguf::File& file,
                                              std::span<const std::unique_ptr<Backend>> backends,
                                              const ModelOptions& options);
  /// Binds every weight by name (a missing or misshapen one is an Error that names it) and allocates what plan() says.
  /// The file must outlive the model.
  static Result<std::unique_ptr<Model>> load(const gguf::File& file, std::vector<std::unique_ptr<Backend>> backends,
                                             const ModelOptions& options);
  ~Model();

  const ModelShape& shape() const;
  const ModelOptions& options() const;
  std::string backend_name() const;

  Result<Sequence> new_sequence();
  Result<Sequence> restore(const SequenceImage& image);
  /// The sequence at the end of the last block. It cannot be taken back from there, except to 0.
  Result<Sequence> restore(const SequencePieces& pieces);
  std::uint64_t block_bytes() const;
  std::uint64_t point_bytes() const;

  /// Runs the rows. `logits` receives [rows with wants_logits][vocab] in row order. The rows of one sequence must be
  /// consecutive and in order. A non-finite logit is an Error.
  Status forward(std::span<const BatchRow> rows, std::span<float> logits, const ForwardOptions& options = {});
  /// Whether ForwardOptions::top costs less than all logits.
  bool ranks() const;
  /// All logits of row `row`, of those that wanted some, of the last forward(). Only where that was no more rows than
  /// ModelOptions::rows_of_step().
  Status read_logits(int row, std::span<float> logits);
  /// The first fault of a device: nothing more can be computed. Sequences can still be destroyed, and so can the model.
  Status health() const;

 private:
  friend class Sequence;
  struct Impl;
  class Pass;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ds4
