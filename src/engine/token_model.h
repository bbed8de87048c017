// What a session needs of a model: timelines that move forward, back and fork. The seam between the engine's logic and
// the forward pass, so that the logic is tested without weights.
//
// One thread drives a TokenModel and its tracks at a time. Tracks must not outlive their model.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "engine/sampler.h"
#include "model/model.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

/// The KV state of one timeline. Destroying it gives its memory back.
class Track {
 public:
  virtual ~Track() = default;
  virtual std::int64_t length() const = 0;
  /// The shortest length rewind() reaches without recomputing; 0 is always possible besides.
  virtual std::int64_t rewind_floor() const = 0;
  virtual bool rewind(std::int64_t to) = 0;
  virtual Result<std::unique_ptr<Track>> fork() const = 0;
  /// As Sequence::save_blocks() and save_point(); for models whose piece_sizes() are not 0.
  virtual Result<std::vector<std::vector<std::byte>>> save_blocks(std::int64_t first, std::int64_t count) const;
  virtual Result<std::vector<std::byte>> save_point(std::int64_t at) const;
};

/// Bytes of the pieces that a track can be saved in; 0 when it cannot.
struct PieceSizes {
  std::uint64_t block = 0;
  std::uint64_t point = 0;
};

/// The logits after a token: all of them, or the largest where they settle the draw.
struct NextLogits {
  std::vector<float> all;
  TopLogits top = {};
  bool none() const { return all.empty() && top.count == 0; }
};

/// What one track does in a forward().
struct TrackStep {
  Track* track = nullptr;
  std::span<const TokenId> tokens;
  std::span<float> logits;  // receives those of the last logits.size() / vocab() tokens
  /// Where draws(), in place of `logits`: what `sampling`, or a greedy draw, needs after the last token goes to `next`.
  const Sampling* sampling = nullptr;
  NextLogits* next = nullptr;
};

struct StepOptions {
  const std::atomic<bool>* cancel = nullptr;
  std::function<void(int layers_done)> progress;
};

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  virtual int vocab() const = 0;
  virtual int layers() const = 0;
  virtual std::int64_t context() const = 0;
  virtual int max_rows() const = 0;             // tokens of one forward()
  virtual int max_logit_rows() const = 0;       // of them, with logits
  virtual bool draws() const { return false; }  // takes TrackStep::next, and is faster with it
  virtual Result<std::unique_ptr<Track>> new_track() = 0;
  virtual PieceSizes piece_sizes() const { return {}; }
  /// A track at the end of the last block, with nothing before it to go back to.
  virtual Result<std::unique_ptr<Track>> restore(const SequencePieces& pieces);
  /// Appends the tokens of every step to its track, all or none. Tracks differ; together at most max_rows() tokens and
  /// max_logit_rows() rows of logits.
  virtual Status forward(std::span<const TrackStep> steps, const StepOptions& options) = 0;
  /// The fault of the device, if it has had one: forward() fails from then on, tracks can only be destroyed.
  virtual Status health() const { return {}; }
  /// After a fault, when no track is left: sets the device up again, weights and all. An error: there is no model any
  /// more.
  virtual Status rebuild();
};

/// Destroys the model that has failed and makes it anew.
using Remake = std::function<Result<Model*>()>;

/// The real thing; `model`, and what `remake` gives, must outlive it. Without `remake` a fault is the end.
std::unique_ptr<TokenModel> make_token_model(Model& model, Remake remake = {});

}  // namespace ds4
