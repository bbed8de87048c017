#include "bench/program.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>

#include "base/available_memory.h"
#include "base/cpus.h"
#include "base/text.h"
#include "base/thread_pool.h"
#include "bench/machine.h"
#include "bench/measure.h"
#include "bench/profiling_backend.h"
#include "bench/report.h"
#include "bench/roof.h"
#include "bench/synthetic_model.h"
#include "model/model.h"

namespace ds4::bench {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double rounded(double value) { return std::round(value * 1000) / 1000; }
std::string seconds_text(double seconds) { return cat(rounded(seconds), " s"); }

int host_threads(const Options& options) {
  return options.backend.threads > 0 ? options.backend.threads : default_thread_count();
}

/// The file to measure, wherever its bytes are.
struct Source {
  std::optional<SyntheticModel> synthetic;
  std::optional<gguf::File> opened;
  const gguf::File& file() const { return synthetic ? synthetic->file() : *opened; }
};

Result<Source> open_source(const Options& options, const Events& events) {
  Source source;
  if (!options.synthetic) {
    DS4_ASSIGN_OR_RETURN(source.opened, gguf::File::open(options.model));
    return source;
  }
  SyntheticOptions synthetic;
  synthetic.spec = *options.synthetic;
  synthetic.aliased = options.synthetic_memory == SyntheticMemory::kAliased ||
                      (options.synthetic_memory == SyntheticMemory::kAuto && options.copies_weights() &&
                       options.synthetic_cache.empty());
  synthetic.pool_bytes = options.synthetic_pool;
  synthetic.cache = options.synthetic_cache;
  synthetic.seed = options.seed;
  synthetic.threads = std::max(host_threads(options), available_cpus());
  const auto start = Clock::now();
  DS4_ASSIGN_OR_RETURN(source.synthetic, SyntheticModel::create(synthetic));
  events.note(cat(synthetic.spec.name(), ": ", source.synthetic->how(), ", ", seconds_text(seconds_since(start))));
  return source;
}

/// Reads one byte of every page.
void warm(const gguf::File& file, int threads) {
  ThreadPool pool(threads, "ds4-warm");
  std::atomic<unsigned> kept{0};
  for (const gguf::TensorInfo& tensor : file.tensors()) {
    pool.run([&](int index, int count) {
      unsigned sum = 0;
      for (const auto page : share_of(static_cast<std::int64_t>(tensor.data.size() / 4096), index, count))
        sum += std::to_integer<unsigned>(tensor.data[static_cast<std::size_t>(page) * 4096]);
      kept.fetch_add(sum, std::memory_order_relaxed);
    });
  }
}

struct Loaded {
  std::unique_ptr<Model> model;
  std::vector<ProfilingBackend*> profilers;             // owned by the model
  std::vector<std::optional<std::uint64_t>> available;  // of each device, before anything was loaded
  MemoryPlan plan;
  double seconds = 0;
};

using Backends = std::vector<std::unique_ptr<Backend>>;

Result<Backends> make_backends(const Options& options, bool repack, std::vector<ProfilingBackend*>& profilers) {
  Backends backends;
  profilers.clear();
  for (const std::string& device : options.devices) {
    BackendOptions one = options.backend;
    one.device = device;
    one.repack = repack;
    DS4_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, create_backend(one));
    auto profiler = std::make_unique<ProfilingBackend>(std::move(backend));
    profilers.push_back(profiler.get());
    backends.push_back(std::move(profiler));
  }
  return backends;
}

Result<Loaded> load_model(const gguf::File& file, const Options& options, const std::vector<Frontier>& frontiers) {
  Loaded loaded;
  DS4_ASSIGN_OR_RETURN(Backends backends, make_backends(options, options.backend.repack, loaded.profilers));
  DS4_ASSIGN_OR_RETURN(const ModelShape shape, read_shape(file));
  const ModelOptions model =
      plan_model(options, frontiers, static_cast<int>(backends.size()), static_cast<int>(shape.layers.size()));
  const auto count = [&]() -> Status {
    DS4_ASSIGN_OR_RETURN(const std::vector<MemoryPlan> plans, Model::plan(file, backends, model));
    loaded.plan = {};
    for (const MemoryPlan& plan : plans) loaded.plan += plan;
    return {};
  };
  DS4_RETURN_IF_ERROR(count());
  const auto available = available_memory();
  const auto fits = [&] { return !options.on_host() || !available || loaded.plan.total() <= *available; };
  if (!fits() && options.backend.repack) {  // as the engine does
    DS4_ASSIGN_OR_RETURN(backends, make_backends(options, false, loaded.profilers));
    DS4_RETURN_IF_ERROR(count());
  }
  if (!fits())
    return Error{ErrorCode::kOutOfMemory,
                 cat("needs ", human_bytes(loaded.plan.total()), " besides the model file, ", human_bytes(*available),
                     " are available: a shorter context, fewer sequences or a smaller --kv need less")};
  for (const ProfilingBackend* device : loaded.profilers) loaded.available.push_back(device->available_memory());
  const auto start = Clock::now();
  DS4_ASSIGN_OR_RETURN(loaded.model, Model::load(file, std::move(backends), model));
  loaded.seconds = seconds_since(start);
  return loaded;
}

Result<Roof> find_roof(const Options& options) {
  Roof roof;
  const bool given = options.roof_gbps && options.roof_tflops;
  if (!given && options.on_host()) {
    DS4_ASSIGN_OR_RETURN(roof, measure_roof(host_threads(options)));
  } else {
    roof.how = "from flags";
  }
  if (options.roof_gbps) roof.bytes_per_second = *options.roof_gbps * 1e9;
  if (options.roof_tflops) roof.quantised_flops = roof.float_flops = *options.roof_tflops * 1e12;
  return roof;
}

std::string roof_text(const Roof& roof) {
  if (!roof.known()) return "unknown: give --roof-gbps and --roof-tflops";
  return cat(rounded(roof.bytes_per_second * 1e-9), " GB/s, ", rounded(roof.quantised_flops * 1e-12), " TFLOP/s int8, ",
             rounded(roof.float_flops * 1e-12), " TFLOP/s f32 (", roof.how, ")");
}

Facts header(const Options& options, const std::string& build, const std::string& flags, const gguf::File& file,
             const Loaded& loaded, const Roof& roof) {
  Facts facts = {{"ds4-bench", build}, {"flags", flags}};
  for (auto& fact : machine_facts()) facts.push_back(std::move(fact));
  facts.emplace_back("device", loaded.model->backend_name());
  if (options.on_host()) facts.emplace_back("threads", cat(host_threads(options)));
  facts.emplace_back("model", cat(escaped(loaded.model->shape().name), ", ", loaded.model->shape().layers.size(),
                                  " layers, ", human_bytes(file.size())));
  facts.emplace_back("load", cat(seconds_text(loaded.seconds), ", ",
                                 rounded(static_cast<double>(file.size()) / loaded.seconds * 1e-9), " GB/s"));
  const MemoryPlan& plan = loaded.plan;
  facts.emplace_back("plan",
                     cat("mapped ", human_bytes(plan.weights_mapped), ", weights ", human_bytes(plan.weights), ", KV ",
                         human_bytes(plan.kv_pages + plan.kv_tails), ", scratch ", human_bytes(plan.scratch)));
  facts.emplace_back("roof", roof_text(roof));
  if (!options.note.empty()) facts.emplace_back("note", options.note);
  return facts;
}

/// What the devices gave since nothing was loaded, beside the plan; empty where one of them cannot say.
std::string device_memory(const Loaded& loaded) {
  std::uint64_t in_use = 0;
  for (std::size_t d = 0; d < loaded.profilers.size(); ++d) {
    const auto before = loaded.available[d];
    const auto now = loaded.profilers[d]->available_memory();
    if (!before || !now) return {};
    in_use += *before > *now ? *before - *now : 0;  // others may have freed some
  }
  const std::uint64_t planned = loaded.plan.total();
  return cat(human_bytes(in_use), " in use, planned ", human_bytes(planned), ", ",
             rounded(100.0 * static_cast<double>(in_use) / static_cast<double>(planned)), " %");
}

std::int32_t stop_token(const gguf::File& file) {
  const auto found = file.get_uint("tokenizer.ggml.eos_token_id");
  return found.ok() && *found ? static_cast<std::int32_t>(**found) : -1;
}

Status check_prompt(const std::vector<std::int32_t>& prompt, const std::vector<Frontier>& frontiers) {
  if (prompt.empty() || std::ssize(prompt) >= frontiers.back().context) return {};
  return Error{ErrorCode::kUsage, cat("the prompt has ", prompt.size(), " tokens, but the last frontier is at ",
                                      frontiers.back().context, ": give a longer text or a smaller --ctx-max")};
}

}  // namespace

Status run(const Options& options, const std::string& build, const std::string& flags, const Events& events,
           const ReadPrompt& read_prompt) {
  const std::vector<Frontier> frontiers = plan_frontiers(options);
  DS4_ASSIGN_OR_RETURN(const Source source, open_source(options, events));
  std::vector<std::int32_t> prompt;
  if (!options.prompt_file.empty() || !options.chat_prompt_file.empty()) {
    if (!read_prompt) return Error{ErrorCode::kUsage, "this build has no tokenizer: it takes random ids only"};
    DS4_ASSIGN_OR_RETURN(prompt, read_prompt(source.file(), options));
    DS4_RETURN_IF_ERROR(check_prompt(prompt, frontiers));
  }
  DS4_ASSIGN_OR_RETURN(const Roof roof, find_roof(options));
  if (options.warm_weights) warm(source.file(), available_cpus());
  forget_peak_resident();  // what was taken to measure the roof
  DS4_ASSIGN_OR_RETURN(Loaded loaded, load_model(source.file(), options, frontiers));

  const Facts facts = header(options, build, flags, source.file(), loaded, roof);
  for (const auto& [name, value] : facts) events.note(cat(name, ": ", value));
  DS4_RETURN_IF_ERROR(events.csv(csv_comments(facts) + csv_head()));
  if (!options.ops_csv.empty()) DS4_RETURN_IF_ERROR(events.ops_csv(csv_comments(facts) + ops_csv_head()));

  Bench bench(*loaded.model, loaded.profilers, options, std::move(prompt), stop_token(source.file()),
              std::max(host_threads(options), available_cpus()));
  DS4_RETURN_IF_ERROR(bench.warm_up());
  for (const Frontier& frontier : frontiers) {
    DS4_ASSIGN_OR_RETURN(const Measurement measured, bench.measure(frontier));
    DS4_RETURN_IF_ERROR(events.csv(csv_row(measured, roof)));
    events.note(summary_line(measured, roof));
    for (const PhaseProfile& phase : measured.profiles) {
      events.note(ops_table(phase, roof));
      if (!options.ops_csv.empty()) DS4_RETURN_IF_ERROR(events.ops_csv(ops_csv_rows(phase, roof)));
    }
  }
  Facts end = {{"peak resident", human_bytes(peak_resident_bytes())}};
  // Nothing is given back before the model goes, so this is the most there was.
  if (const std::string memory = device_memory(loaded); !memory.empty()) end.emplace_back("device memory", memory);
  end.emplace_back("load at the end", load_average());
  for (const auto& [name, value] : end) events.note(cat(name, ": ", value));
  return events.csv(csv_comments(end));
}

}  // namespace ds4::bench
