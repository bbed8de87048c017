#include "engine/engine.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"

namespace ds4 {

namespace {

constexpr std::int64_t kDefaultContext = 32768;

using Backends = std::vector<std::unique_ptr<Backend>>;

/// What the devices like best; with several, each has a step of it at a time.
std::int64_t good_chunk(const Backends& backends) {
  std::int64_t rows = backends.front()->good_rows();
  for (const auto& backend : backends) rows = std::min<std::int64_t>(rows, backend->good_rows());
  return rows * std::ssize(backends);
}

Result<ModelOptions> model_options(const ModelShape& shape, const EngineOptions& options, const Backends& backends) {
  const std::int64_t trained = shape.context_length > 0 ? shape.context_length : INT64_MAX;
  ModelOptions model;
  model.kv = options.kv;
  model.context = options.context != 0 ? options.context : std::min(kDefaultContext, trained);
  if (model.context < 1 || model.context > trained) {
    return Error{ErrorCode::kUsage, cat("a context of ", model.context, " tokens: this model takes 1 to ", trained)};
  }
  const std::int64_t chunk = options.prefill_chunk != 0 ? options.prefill_chunk : good_chunk(backends);
  if (chunk < 1) return Error{ErrorCode::kUsage, cat("a prefill chunk of ", chunk, " tokens: expected at least 1")};
  model.max_rows = static_cast<int>(std::min(chunk, model.context));
  model.max_rows = std::max(model.max_rows, options.sessions);  // a row for everybody
  model.max_logit_rows = options.all_logits ? model.max_rows : options.sessions;
  model.max_sequences = options.sessions * (1 + options.snapshots);
  // A snapshot is a prefix of its session and shares its pages; the model counts one that is only begun for each.
  model.max_tokens = options.sessions * model.context;
  model.expert_tap = options.expert_tap;
  spread_layers(model, static_cast<int>(shape.layers.size()), static_cast<int>(backends.size()));
  return model;
}

Result<Backends> make_backends(const EngineOptions& options) {
  DS4_ASSIGN_OR_RETURN(const std::vector<std::string> names, device_names(options.backend.device));
  Backends backends;
  for (const std::string& name : names) {
    BackendOptions one = options.backend;
    one.device = name;
    DS4_ASSIGN_OR_RETURN(backends.emplace_back(), create_backend(one));
  }
  return backends;
}

Result<EnginePlan> plan_with(const ModelFile& file, const EngineOptions& options, const Backends& backends) {
  EnginePlan plan;
  DS4_ASSIGN_OR_RETURN(plan.model, model_options(file.shape, options, backends));
  DS4_ASSIGN_OR_RETURN(const std::vector<MemoryPlan> plans, Model::plan(file.gguf, backends, plan.model));
  std::optional<double> least_room;
  for (std::size_t d = 0; d < backends.size(); ++d) {
    plan.memory += plans[d];
    plan.backend += cat(d == 0 ? "" : " + ", backends[d]->name());
    std::optional<std::uint64_t> available = backends[d]->available_memory();
    if (!available) available = available_memory(options.memory);
    const double room = available ? static_cast<double>(*available) - static_cast<double>(plans[d].total()) : HUGE_VAL;
    if (least_room && room >= *least_room) continue;
    least_room = room;
    plan.tight = plans[d];
    plan.available = available;
    if (backends.size() > 1) plan.tight_name = cat("device ", d, " (", backends[d]->name(), ")");
  }
  return plan;
}

struct Planned {
  Backends backends;
  EnginePlan plan;
  EngineOptions options;  // with the devices and the layout of weights that it is for
};

Result<Planned> plan_for(const ModelFile& file, const EngineOptions& options) {
  Planned planned;
  planned.options = options;
  DS4_ASSIGN_OR_RETURN(planned.backends, make_backends(options));
  DS4_ASSIGN_OR_RETURN(planned.plan, plan_with(file, options, planned.backends));
  return planned;
}

/// What one card has no room for goes to all of them. Repacked weights are read faster than the file's; where there is
/// no room for them, the file's have to do.
Result<Planned> plan_best(const ModelFile& file, EngineOptions options) {
  DS4_ASSIGN_OR_RETURN(Planned planned, plan_for(file, options));
  if (planned.plan.fits()) return planned;
  if (options.backend.device == "cuda") {
    options.backend.device = "cuda:all";
    DS4_ASSIGN_OR_RETURN(const auto cards, device_names(options.backend.device));
    if (cards.size() == 1) return planned;
    planned.backends.clear();  // what it holds of the first card counts
    return plan_for(file, options);
  }
  if (!options.backend.repack) return planned;
  options.backend.repack = false;
  return plan_for(file, options);
}

}  // namespace

Result<ModelFile> open_model_file(const std::string& path) {
  DS4_ASSIGN_OR_RETURN(gguf::File file, gguf::File::open(path));
  DS4_ASSIGN_OR_RETURN(ModelShape shape, read_shape(file));
  DS4_ASSIGN_OR_RETURN(std::optional<Tokenizer> tokenizer, Tokenizer::from_gguf(file));
  return ModelFile{std::move(file), std::move(shape), std::move(tokenizer)};
}

Result<VerifyReport> verify_model_file(const ModelFile& file, const std::atomic<bool>* cancel,
                                       const std::function<void(std::uint64_t done, std::uint64_t total)>& progress) {
  return verify_weights(file.gguf, file.shape, cancel, progress);
}

std::int64_t EnginePlan::fitting_context() const {
  const std::uint64_t fixed = need() - tight.kv_pages;
  if (!available || *available <= fixed || tight.kv_page_bytes == 0) return 0;
  const std::uint64_t page_bytes = tight.kv_page_bytes;
  const auto pages = static_cast<std::int64_t>((*available - fixed) / page_bytes);
  const std::int64_t all_pages = static_cast<std::int64_t>(tight.kv_pages / page_bytes);
  const std::int64_t for_context = (model.max_tokens + kPageTokens - 1) / kPageTokens;
  const std::int64_t sessions = model.max_tokens / model.context;
  // Sequences need a few pages besides those of their tokens, whatever the context.
  const std::int64_t context = (pages - (all_pages - for_context)) / sessions * kPageTokens;
  return std::clamp<std::int64_t>(context, 0, model.context - 1);
}

Error EnginePlan::refusal() const {
  const std::uint64_t kv = tight.kv_pages + tight.kv_tails;
  std::string message = cat("not enough memory", tight_name.empty() ? "" : cat(" on ", tight_name), ": a context of ",
                            model.context, " tokens needs ", human_bytes(need()), " (KV state ", human_bytes(kv),
                            ", weights copied ", human_bytes(tight.weights), ", buffers ", human_bytes(tight.scratch),
                            "), and ", human_bytes(available.value_or(0)), " are available. ");
  if (const std::int64_t context = fitting_context(); context > 0) {
    message += cat("Lower the context: ", context, " tokens fit.");
  } else {
    message += "Even a short context does not fit: lower the prefill chunk, or free memory.";
  }
  if (model.kv != KvFormat::kPacked) message += " KV rows as fp8 take the least.";
  return Error{ErrorCode::kOutOfMemory, std::move(message)};
}

std::string EnginePlan::note() const {
  if (!available || need() + tight.weights_mapped <= *available) return {};
  return cat("the weights (", human_bytes(tight.weights_mapped), ") do not fit into the ", human_bytes(*available),
             " of available memory: they will be read from disk again and again, and answers will be slow");
}

Result<EnginePlan> plan_engine(const ModelFile& file, const EngineOptions& options) {
  DS4_ASSIGN_OR_RETURN(Planned planned, plan_best(file, options));
  return std::move(planned.plan);
}

Result<std::unique_ptr<Engine>> Engine::load(ModelFile file, const EngineOptions& options) {
  DS4_ASSIGN_OR_RETURN(Planned planned, plan_best(file, options));
  if (!planned.plan.fits()) return planned.plan.refusal();
  std::unique_ptr<Engine> engine(new Engine(std::move(file), std::move(planned.plan), planned.options));
  DS4_ASSIGN_OR_RETURN(engine->model_,
                       Model::load(engine->file_.gguf, std::move(planned.backends), engine->plan_.model));
  engine->tokens_ = make_token_model(*engine->model_, [made = engine.get()] { return made->remake(); });
  return engine;
}

/// The same devices, the same sizes: sessions, limits and what is on disk fit the new model as they fitted the old one.
Result<Model*> Engine::remake() {
  model_.reset();
  DS4_ASSIGN_OR_RETURN(Backends backends, make_backends(options_));
  DS4_ASSIGN_OR_RETURN(const EnginePlan plan, plan_with(file_, options_, backends));
  if (!plan.fits()) return plan.refusal();
  DS4_ASSIGN_OR_RETURN(model_, Model::load(file_.gguf, std::move(backends), plan_.model));
  return model_.get();
}

Result<Session> Engine::new_session() { return Session::create(*tokens_, tokenizer(), options_.snapshots); }

Result<std::unique_ptr<DiskStates>> Engine::open_disk(DiskOptions options) const {
  // Kernels of another instruction set or device round differently: what they wrote is not what we would.
  const std::string device = cat(plan_.backend, options_.backend.quality ? " quality" : "");
  const KvFormat kv = plan_.model.kv;
  const PieceSizes sizes = tokens_->piece_sizes();
  const std::string label = cat(kv_format_name(kv), " ", device, " ", file_.shape.name);
  return DiskStates::open(state_identity(file_, kv, device, sizes), label, sizes, std::move(options));
}

Status Engine::warm_weights(const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                            const std::atomic<bool>* cancel) const {
  // What was copied has been read; of what is left beside it, tables, a step reads a few rows.
  if (plan_.memory.weights > plan_.memory.weights_mapped) return {};
  constexpr std::size_t kPage = 4096;
  constexpr std::uint64_t kReportEvery = std::uint64_t{64} << 20;
  std::uint64_t done = 0;
  std::uint64_t reported = 0;
  for (const gguf::TensorInfo& tensor : file_.gguf.tensors()) {
    const volatile std::byte* data = tensor.data.data();
    for (std::size_t at = 0; at < tensor.data.size(); at += kPage) {
      static_cast<void>(data[at]);
      if (done + at - reported < kReportEvery) continue;
      reported = done + at;
      if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
        return Error{ErrorCode::kCancelled, "cancelled while reading the weights"};
      }
      if (progress) progress(reported, file_.gguf.size());
    }
    done += tensor.data.size();
  }
  if (progress) progress(file_.gguf.size(), file_.gguf.size());
  return {};
}

}  // namespace ds4
