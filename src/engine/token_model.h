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

#include "base/result.h"
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
};

/// What one track does in a forward().
struct TrackStep {
  Track* track = nullptr;
  std::span<const TokenId> tokens;
  std::span<float> logits;  // receives those of the last logits.size() / vocab() tokens
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
  virtual int max_rows() const = 0;        // tokens of one forward()
  virtual int max_logit_rows() const = 0;  // of them, with logits
  virtual Result<std::unique_ptr<Track>> new_track() = 0;
  /// Appends the tokens of every step to its track, all or none. Tracks differ; together at most max_rows() tokens and
  /// max_logit_rows() rows of logits.
  virtual Status forward(std::span<const TrackStep> steps, const StepOptions& options) = 0;
};

/// The real thing; `model` must outlive it.
std::unique_ptr<TokenModel> make_token_model(Model& model);

}  // namespace ds4
