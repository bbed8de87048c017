// Memory of the CPU backend, and what the ops share.
#include "backend/cpu/cpu_backend.h"

#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "backend/cpu/create.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/rotation.h"
#include "base/check.h"
#include "base/cpus.h"
#include "base/text.h"
#include "quant/codec.h"

namespace ds4 {

Result<std::unique_ptr<Backend>> create_cpu_backend(const BackendOptions& options) {
  DS4_ASSIGN_OR_RETURN(const cpu::KernelTable* kernels, cpu::choose_table(options.isa));
  if (options.threads < 0)
    return Error{ErrorCode::kUsage, cat("threads: expected 0 (one per core) or more, found ", options.threads)};
  const int threads = options.threads == 0 ? default_thread_count() : options.threads;
  DS4_ASSIGN_OR_RETURN(Placement placement, place_threads(threads, options.pinning));
  if (options.memories > 0) placement = Placement::unpinned(threads, options.memories);
  return std::unique_ptr<Backend>(
      std::make_unique<cpu::CpuBackend>(*kernels, threads, std::move(placement), options.quality, options.repack));
}

std::vector<std::string> cpu_isa_names() {
  std::vector<std::string> names;
  for (const cpu::KernelTable* table : cpu::available_tables()) names.emplace_back(table->name);
  return names;
}

namespace cpu {

namespace {

/// Norms, biases and sinks are read as f32 everywhere; in 16 bits they would need a path of their own.
bool converts(const HostWeight& weight) {
  return weight.out == 1 && weight.count == 1 && (weight.type == DType::kF16 || weight.type == DType::kBF16);
}

/// Bytes of the shared part: the largest op.
std::size_t op_bytes(const Sizes& z) {
  std::size_t most = 0;
  const auto count = [&]<typename OpScratch>() {
    Scratch counting;
    OpScratch(counting, z);
    most = std::max(most, counting.used());
  };
  count.operator()<HyperConnectionScratch>();
  count.operator()<QueryHeadsScratch>();
  count.operator()<WindowKvScratch>();
  count.operator()<CompressScratch>();
  count.operator()<IndexScratch>();
  count.operator()<AttentionScratch>();
  count.operator()<AttentionOutputScratch>();
  count.operator()<RouteScratch>();
  count.operator()<ExpertsScratch>();
  count.operator()<LogitsScratch>();
  return most;
}

std::size_t persistent_bytes(const Sizes& z) {
  Scratch counting;
  PersistentScratch(counting, z);
  return counting.used();
}

void copy(std::span<std::byte> to, std::span<const std::byte> from) {
  DS4_CHECK(to.size() == from.size());
  if (!to.empty()) std::memcpy(to.data(), from.data(), from.size());
}

}  // namespace

CpuBackend::CpuBackend(const KernelTable& kernels, int threads, Placement placement, bool quality, bool repack)
    : kernels_(kernels),
      quality_(quality),
      repack_(repack && !quality),
      pool_(threads, "ds4-cpu", std::move(placement)),
      products_(kernels, quality) {}

std::string CpuBackend::name() const { return cat("cpu/", kernels_.name); }

bool CpuBackend::goes_to_tiles(const HostWeight& weight) const {
  return repack_ && !weight.lookup && has_tiles(weight.type);
}

std::uint64_t CpuBackend::weight_bytes(const HostWeight& weight) const {
  if (goes_to_tiles(weight)) return tiled_bytes(weight);
  return converts(weight) ? static_cast<std::uint64_t>(weight.in) * sizeof(float) : 0;
}

std::uint64_t CpuBackend::scratch_bytes(const BackendConfig& config) const {
  return persistent_bytes(sizes(config)) + op_bytes(sizes(config));
}

Result<Weight> CpuBackend::load(const HostWeight& weight) {
  Weight loaded{weight.type, weight.in, weight.out, weight.count, weight.data, 0};
  if (goes_to_tiles(weight)) {
    DS4_ASSIGN_OR_RETURN(TiledMatrix matrix, pack_tiles(weight, kernels_, pool_));
    pool_.release_caller();
    loaded.data = tiled_.emplace_back(std::make_unique<TiledMatrix>(std::move(matrix))).get();
    loaded.layout = kTiles;
    return loaded;
  }
  if (!converts(weight)) return loaded;
  DS4_ASSIGN_OR_RETURN(HugeMemory memory, HugeMemory::allocate(static_cast<std::size_t>(weight.in) * sizeof(float)));
  decode_row(weight.type, weight.data, reinterpret_cast<float*>(memory.data()), static_cast<std::size_t>(weight.in));
  loaded.type = DType::kF32;
  loaded.data = memory.data();
  converted_.push_back(std::move(memory));
  return loaded;
}

Status CpuBackend::configure(const BackendConfig& config) {
  if (config.dims.hc > kMaxStreams)
    return Error{ErrorCode::kBadModel,
                 cat("hyper-connection streams: expected at most ", kMaxStreams, ", found ", config.dims.hc)};
  if (config.dims.rope_dim > 2 * kMaxRopePairs)
    return Error{ErrorCode::kBadModel,
                 cat("rotating dims: expected at most ", 2 * kMaxRopePairs, ", found ", config.dims.rope_dim)};
  config_ = config;
  DS4_ASSIGN_OR_RETURN(memory_, HugeMemory::allocate(scratch_bytes(config_)));
  Scratch scratch(memory_.data());
  const PersistentScratch persistent(scratch, sizes());
  iota_ = persistent.iota;
  row_segment_ = persistent.row_segment;
  fresh_rows_ = persistent.fresh_rows;
  op_memory_ = memory_.data() + scratch.used();
  std::iota(iota_, iota_ + PersistentScratch::iota_count(sizes()), 0);
  return kv_.configure(config_.kv, config_.max_pages, config_.max_tails);
}

Result<Buffer> CpuBackend::allocate(std::size_t bytes) {
  DS4_ASSIGN_OR_RETURN(HugeMemory memory, HugeMemory::allocate(std::max<std::size_t>(bytes, 1)));
  return Buffer(memory.release(), bytes,
                [bytes](void* data) { HugeMemory::unmap(data, std::max<std::size_t>(bytes, 1)); });
}

void CpuBackend::upload(void* device, const void* host, std::size_t bytes) {
  if (bytes != 0) std::memcpy(device, host, bytes);
}
Status CpuBackend::download(void* host, const void* device, std::size_t bytes) {
  if (bytes != 0) std::memcpy(host, device, bytes);
  return {};
}

void CpuBackend::copy_page(std::int32_t to, std::int32_t from) { copy(kv_.page(to), kv_.page(from)); }
void CpuBackend::copy_tail(std::int32_t to, std::int32_t from) { copy(kv_.tail(to), kv_.tail(from)); }
Status CpuBackend::read_page(std::int32_t page, std::span<std::byte> host) {
  copy(host, kv_.page(page));
  return {};
}
void CpuBackend::write_page(std::int32_t page, std::span<const std::byte> host) { copy(kv_.page(page), host); }
Status CpuBackend::read_tail(std::int32_t tail, std::span<std::byte> host) {
  copy(host, kv_.tail(tail));
  return {};
}
void CpuBackend::write_tail(std::int32_t tail, std::span<const std::byte> host) { copy(kv_.tail(tail), host); }

void CpuBackend::begin(const BatchView& batch) {
  DS4_CHECK(batch.rows <= config_.max_rows);
  batch_ = batch;
  for (std::size_t s = 0; s < batch.segments.size(); ++s) {
    const Segment& segment = batch.segments[s];
    std::fill_n(row_segment_ + segment.first_row, segment.rows, static_cast<std::int32_t>(s));
  }
}

void CpuBackend::normalise(const float* x, const float* weight, float* y, std::int64_t count) const {
  const float mean = kernels_.sum_squares(x, count) / static_cast<float>(count);
  kernels_.scale(x, 1.0F / std::sqrt(mean + config_.dims.rms_eps), weight, y, count);
}

Product CpuBackend::product(const Weight& weight, const Activations& x, float* y, bool exact) const {
  return {.weight = &weight,
          .outputs = weight.out,
          .x = &x,
          .index = iota_,
          .count = x.rows,
          .y = y,
          .y_stride = weight.out,
          .exact = exact};
}

}  // namespace cpu
}  // namespace ds4
