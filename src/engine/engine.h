// A DeepSeek V4 model ready to answer: the file, the weights on a backend, the tokenizer, and the memory of all
// sessions, planned before anything is allocated. Makes Sessions, which must not outlive it. An Engine and its sessions
// are driven by one thread at a time.
//
//   open_model_file(path)  ->  plan_engine(file, options)  ->  Engine::load(file, options)  ->  new_session()
//
// The first two read the header only: they are enough to inspect a file or to tokenize.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "base/available_memory.h"
#include "base/result.h"
#include "engine/disk_states.h"
#include "engine/session.h"
#include "gguf/file.h"
#include "model/model.h"
#include "model/shape.h"
#include "model/verify.h"
#include "tokenizer/tokenizer.h"

namespace ds4 {

/// A model file whose header has been checked. The tokenizer is absent when the file has none.
struct ModelFile {
  gguf::File gguf;
  ModelShape shape;
  std::optional<Tokenizer> tokenizer;
};

Result<ModelFile> open_model_file(const std::string& path);

/// Reads every weight and looks for what the header cannot show; see model/verify.h.
Result<VerifyReport> verify_model_file(const ModelFile& file, const std::atomic<bool>* cancel,
                                       const std::function<void(std::uint64_t done, std::uint64_t total)>& progress);

struct EngineOptions {
  std::int64_t context = 0;         // tokens of one session; 0: 32768, or fewer when the model was trained on fewer
  KvFormat kv = KvFormat::kPacked;  // how KV rows are stored; the official rounding
  int prefill_chunk = 0;            // tokens computed together; 0: what suits the devices
  bool all_logits = false;          // sessions can evaluate() whole chunks; costs chunk * vocabulary floats
  int sessions = 1;                 // conversations alive at once
  int snapshots = 3;                // resume points kept per session
  bool expert_tap = false;          // see ModelOptions
  BackendOptions backend;           // `device` may be a list (device_names()): the layers are split between them
  MemorySource memory;
};

/// What an engine with these options takes, and what there is.
struct EnginePlan {
  ModelOptions model;
  MemoryPlan memory;                       // of all devices
  std::string backend;                     // as Backend::name()
  MemoryPlan tight;                        // of the device that has the least room left
  std::string tight_name;                  // that device, where there are several
  std::optional<std::uint64_t> available;  // on that device; unknown when the system does not say

  std::uint64_t need() const { return tight.total(); }
  bool fits() const { return !available || need() <= *available; }
  /// The longest context that fits, in whole pages; 0 when none does.
  std::int64_t fitting_context() const;
  /// "needs 5.1 GiB (...), 4.0 GiB are available: ..." with what to lower.
  Error refusal() const;
  /// A warning when the mapped weights do not fit besides; empty otherwise.
  std::string note() const;
};

Result<EnginePlan> plan_engine(const ModelFile& file, const EngineOptions& options);

class Engine {
 public:
  /// Refuses a plan that does not fit, before allocating.
  static Result<std::unique_ptr<Engine>> load(ModelFile file, const EngineOptions& options);

  Result<Session> new_session();
  /// What a Worker drives, in place of sessions of one's own; lives as long as the engine. Its rebuild() makes the
  /// backends anew and reads the weights again; sessions must be gone by then.
  TokenModel& token_model() { return *tokens_; }
  /// See TokenModel::health().
  Status health() const { return tokens_->health(); }

  /// States on disk that this engine can use and leave. Call before anything is answered; `options.folder` is there.
  Result<std::unique_ptr<DiskStates>> open_disk(DiskOptions options) const;

  const ModelShape& shape() const { return file_.shape; }
  /// Null when the model has none.
  const Tokenizer* tokenizer() const { return file_.tokenizer ? &*file_.tokenizer : nullptr; }
  const EnginePlan& plan() const { return plan_; }
  std::int64_t context() const { return plan_.model.context; }
  std::string backend_name() const { return plan_.backend; }

  /// Reads every page of the weights once, so that the first answer does not wait for the disk.
  Status warm_weights(const std::function<void(std::uint64_t done, std::uint64_t total)>& progress,
                      const std::atomic<bool>* cancel) const;

 private:
  Engine(ModelFile file, EnginePlan plan, const EngineOptions& options)
      : file_(std::move(file)), plan_(std::move(plan)), options_(options) {}
  Result<Model*> remake();

  ModelFile file_;
  EnginePlan plan_;
  EngineOptions options_;         // as they were used
  std::unique_ptr<Model> model_;  // null after a fault that nothing could be done about
  std::unique_ptr<TokenModel> tokens_;
};

}  // namespace ds4
