// Loading a model: the shape, the plan, the weights, the memory.
#include "model/model.h"

#include <algorithm>

#include "base/text.h"
#include "model/model_impl.h"

namespace ds4 {

int rollback_tails(const ModelOptions& options) {
  return std::min(options.max_sequences, std::max(1, options.max_rows / (kRewindSlack + 1)));
}

namespace {

Status check_options(const ModelShape& shape, const ModelOptions& options, std::size_t backends) {
  const auto refuse = [](std::string message) { return Error{ErrorCode::kUsage, std::move(message)}; };
  if (options.context < 1 || options.context > shape.context_length)
    return refuse(cat("context: expected 1..", shape.context_length, " tokens (what the model was trained for), found ",
                      options.context));
  if (options.max_rows < 1 || options.max_rows > (1 << 20))
    return refuse(cat("prefill chunk: expected 1..1048576 rows, found ", options.max_rows));
  if (options.max_sequences < 1 || options.max_sequences > (1 << 20))
    return refuse(cat("sequences: expected 1..1048576, found ", options.max_sequences));
  if (options.max_logit_rows < 1 || options.max_logit_rows > options.max_rows)
    return refuse(cat("logit rows: expected 1..", options.max_rows, ", found ", options.max_logit_rows));
  if (options.step_rows < 0) return refuse(cat("rows of a step: expected 0 or more, found ", options.step_rows));
  if (!options.layer_backend.empty() && options.layer_backend.size() != shape.layers.size())
    return refuse(
        cat("layer placement: expected ", shape.layers.size(), " entries, found ", options.layer_backend.size()));
  for (const int backend : options.layer_backend)
    if (backend < 0 || static_cast<std::size_t>(backend) >= backends)
      return refuse(cat("layer placement: expected a backend in 0..", backends - 1, ", found ", backend));
  return {};
}

std::vector<int> placement(const ModelShape& shape, const ModelOptions& options) {
  return options.layer_backend.empty() ? std::vector<int>(shape.layers.size(), 0) : options.layer_backend;
}

std::int64_t max_tokens(const ModelOptions& options) {
  return options.max_tokens > 0 ? options.max_tokens : options.context * options.max_sequences;
}

BackendConfig make_config(const ModelShape& shape, const ModelOptions& options, const std::vector<int>& layer_device,
                          int device) {
  std::vector<bool> mine;
  for (const int d : layer_device) mine.push_back(d == device);
  BackendConfig config;
  config.dims = shape.dims;
  config.kv = make_kv_layout(shape, options.kv, mine);
  config.max_rows = options.rows_of_step();
  config.max_logit_rows = options.max_logit_rows;
  config.max_context = options.context;
  config.max_tails = options.max_sequences + rollback_tails(options);
  // Full pages for all tokens, and for each sequence one page that is only begun and one being copied.
  config.max_pages =
      static_cast<int>((max_tokens(options) + kPageTokens - 1) / kPageTokens) + 2 * options.max_sequences;
  return config;
}

/// Hands out consecutive, cache-line aligned pieces; with a null base it only counts.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<std::byte*>(base)) {}
  template <typename T>
  T* take(std::int64_t count) {
    std::byte* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (static_cast<std::uint64_t>(count) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }
  Tensor floats(std::int64_t rows, std::int64_t cols) { return {take<float>(rows * cols), rows, cols}; }
  IntTensor integers(std::int64_t rows, std::int64_t cols) { return {take<std::int32_t>(rows * cols), rows, cols}; }
  std::uint64_t used() const { return used_; }

 private:
  std::byte* base_;
  std::uint64_t used_ = 0;
};

struct Carved {
  Activations buffers;
  Tensor rope_plain;
  Tensor rope_yarn;
  std::uint64_t bytes;
};

Carved carve(const Dims& dims, const ModelOptions& options, void* base) {
  Carver carver(base);
  const std::int64_t rows = options.rows_of_step();
  const std::int64_t wanted = options.max_logit_rows;
  Carved out;
  out.buffers.streams = carver.floats(rows, std::int64_t{dims.hc} * dims.hidden);
  out.buffers.mixed = carver.floats(rows, dims.hidden);
  out.buffers.post = carver.floats(rows, dims.hc);
  out.buffers.comb = carver.floats(rows, std::int64_t{dims.hc} * dims.hc);
  out.buffers.qr = carver.floats(rows, dims.q_lora);
  out.buffers.q = carver.floats(rows, std::int64_t{dims.heads} * dims.head_dim);
  out.buffers.heads = carver.floats(rows, std::int64_t{dims.heads} * dims.head_dim);
  out.buffers.out = carver.floats(rows, dims.hidden);
  out.buffers.route = carver.floats(rows, dims.experts_used);
  out.buffers.h = carver.floats(wanted, dims.hidden);
  out.buffers.logits = carver.floats(wanted, dims.vocab);
  out.buffers.experts = carver.integers(rows, dims.experts_used);
  out.buffers.selected = carver.integers(rows, dims.index_topk);
  out.buffers.count = carver.integers(rows, 1);
  if (options.expert_tap) out.buffers.inner = carver.floats(rows, std::int64_t{dims.experts_used} * dims.expert_ff);
  out.rope_plain = carver.floats(1, dims.rope_dim / 2);
  out.rope_yarn = carver.floats(1, dims.rope_dim / 2);
  out.bytes = carver.used();
  return out;
}

Status prepare_device(Device& device, const ModelShape& shape, const ModelOptions& options,
                      const BackendConfig& config) {
  device.layout = config.kv;
  DS4_RETURN_IF_ERROR(device.backend->configure(config));
  DS4_ASSIGN_OR_RETURN(device.memory, device.backend->allocate(carve(shape.dims, options, nullptr).bytes));
  const Carved carved = carve(shape.dims, options, device.memory.data());
  device.buffers = carved.buffers;
  device.rope_plain = carved.rope_plain;
  device.rope_yarn = carved.rope_yarn;
  const auto upload = [&](const Tensor& table, int ratio) {
    const std::vector<float> frequencies = rope_frequencies(shape.rope, shape.dims.rope_dim, ratio);
    device.backend->upload(table.data, frequencies.data(), frequencies.size() * sizeof(float));
  };
  upload(device.rope_plain, 0);
  upload(device.rope_yarn, 4);
  return {};
}

}  // namespace

void spread_layers(ModelOptions& options, int layers, int devices) {
  constexpr int kFewestRows = 512;  // fewer leave a device waiting for its weights
  if (devices < 2) return;
  options.layer_backend.clear();
  for (int layer = 0; layer < layers; ++layer) options.layer_backend.push_back(layer * devices / layers);
  const int steps = 2 * devices;  // with so many, a device waits for its neighbours a fifth to a third of the time
  options.step_rows = std::max(kFewestRows, (options.max_rows + steps - 1) / steps);
}

MemoryPlan& MemoryPlan::operator+=(const MemoryPlan& other) {
  weights_mapped += other.weights_mapped;
  weights += other.weights;
  kv_pages += other.kv_pages;
  kv_tails += other.kv_tails;
  scratch += other.scratch;
  kv_page_bytes += other.kv_page_bytes;
  return *this;
}

Result<std::vector<MemoryPlan>> Model::plan(const gguf::File& file, std::span<const std::unique_ptr<Backend>> backends,
                                            const ModelOptions& options) {
  DS4_ASSIGN_OR_RETURN(const ModelShape shape, read_shape(file));
  DS4_RETURN_IF_ERROR(check_options(shape, options, backends.size()));
  const std::vector<int> layer_device = placement(shape, options);
  std::vector<MemoryPlan> plans(backends.size());
  const auto count_weight = [&](const HostWeight& weight, int layer) -> Result<Weight> {
    const auto device = static_cast<std::size_t>(layer_device[static_cast<std::size_t>(layer)]);
    const std::uint64_t bytes = backends[device]->weight_bytes(weight);
    (bytes == 0 ? plans[device].weights_mapped : plans[device].weights) += bytes == 0 ? weight.bytes() : bytes;
    return Weight{};
  };
  DS4_RETURN_IF_ERROR(bind_weights(file, shape, count_weight));
  for (std::size_t d = 0; d < backends.size(); ++d) {
    const BackendConfig config = make_config(shape, options, layer_device, static_cast<int>(d));
    MemoryPlan& plan = plans[d];
    plan.kv_pages = config.kv.page_bytes * static_cast<std::uint64_t>(config.max_pages);
    plan.kv_tails = config.kv.tail_bytes * static_cast<std::uint64_t>(config.max_tails);
    plan.scratch = backends[d]->scratch_bytes(config) + carve(shape.dims, options, nullptr).bytes;
    plan.kv_page_bytes = config.kv.page_bytes;
  }
  return plans;
}

Result<std::unique_ptr<Model>> Model::load(const gguf::File& file, std::vector<std::unique_ptr<Backend>> backends,
                                           const ModelOptions& options) {
  DS4_CHECK(!backends.empty());
  auto impl = std::make_unique<Impl>();
  impl->file = &file;
  DS4_ASSIGN_OR_RETURN(impl->shape, read_shape(file));
  DS4_RETURN_IF_ERROR(check_options(impl->shape, options, backends.size()));
  impl->options = options;
  impl->layer_device = placement(impl->shape, options);
  std::vector<int> runs = impl->layer_device;
  runs.erase(std::unique(runs.begin(), runs.end()), runs.end());
  std::sort(runs.begin(), runs.end());
  impl->one_run_each = std::adjacent_find(runs.begin(), runs.end()) == runs.end();
  for (const auto& backend : backends)
    if (options.expert_tap && !backend->shows_inner())
      return Error{ErrorCode::kNoDevice,
                   cat("backend ", backend->name(), " cannot show what its experts compute: use cpu or reference")};
  for (auto& backend : backends) impl->devices.push_back(std::make_unique<Device>(std::move(backend)));
  const auto load_weight = [&](HostWeight weight, int layer) {
    weight.done_with = [&file](std::span<const std::byte> bytes) { file.release(bytes); };
    return impl->device_of(static_cast<std::size_t>(layer)).backend->load(weight);
  };
  DS4_ASSIGN_OR_RETURN(impl->weights, bind_weights(file, impl->shape, load_weight));
  DS4_RETURN_IF_ERROR(check_token_experts(file, impl->shape));
  for (std::size_t d = 0; d < impl->devices.size(); ++d) {
    const BackendConfig config = make_config(impl->shape, options, impl->layer_device, static_cast<int>(d));
    DS4_RETURN_IF_ERROR(prepare_device(*impl->devices[d], impl->shape, options, config));
  }
  return std::unique_ptr<Model>(new Model(std::move(impl)));
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

const ModelShape& Model::shape() const { return impl_->shape; }
const ModelOptions& Model::options() const { return impl_->options; }

std::string Model::backend_name() const {
  std::string names;
  for (const auto& device : impl_->devices) names += cat(names.empty() ? "" : " + ", device->backend->name());
  return names;
}

bool Model::ranks() const { return impl_->head_device().backend->ranks(); }

Status Model::read_logits(int row, std::span<float> logits) {
  const Tensor& from = impl_->head_device().buffers.logits;
  DS4_CHECK(row >= 0 && row < from.rows && static_cast<std::int64_t>(logits.size()) == from.cols);
  return impl_->head_device().backend->download(logits.data(), from.data + row * from.cols, logits.size_bytes());
}

Status Model::health() const {
  for (const auto& device : impl_->devices) DS4_RETURN_IF_ERROR(device->backend->health());
  return {};
}

}  // namespace ds4
