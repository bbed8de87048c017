// Life, memory and steps of the CUDA backend; the ops are in ops.cu.
#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>

#include "backend/cuda/create.h"
#include "backend/cuda/trace.cuh"
#include "base/check.h"
#include "base/text.h"
#include "quant/codec.h"

namespace ds4 {

Result<std::unique_ptr<Backend>> create_cuda_backend(const BackendOptions& options) {
  int ordinal = 0;
  if (options.device.size() > 5) {  // "cuda:N"
    const char* first = options.device.data() + 5;
    const char* last = options.device.data() + options.device.size();
    const auto [end, error] = std::from_chars(first, last, ordinal);
    if (error != std::errc{} || end != last)
      return Error{ErrorCode::kUsage, cat("backend: expected cuda or cuda:N, found ", escaped(options.device))};
  }
  DS4_ASSIGN_OR_RETURN(cuda::Device device, cuda::Device::open(ordinal));
  auto backend = std::make_unique<cuda::CudaBackend>(std::move(device), options.quality);
  DS4_RETURN_IF_ERROR(backend->prepare());
  return std::unique_ptr<Backend>(std::move(backend));
}

int cuda_cards() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

namespace cuda {

namespace {

constexpr std::uint64_t kAlignment = 256;
std::uint64_t aligned(std::uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// Norms, biases and sinks are read as f32 everywhere.
bool converts(const HostWeight& weight) {
  return weight.out == 1 && weight.count == 1 && weight.type != DType::kF32 && weight.type != DType::kI32;
}

Matrix plan(const HostWeight& weight, bool exact) {
  if (!converts(weight)) return plan_matrix(weight, exact);
  return plan_matrix({DType::kF32, weight.in, 1, 1, nullptr}, exact);
}

/// Where the parts of a step lie in the block that begin() sends.
struct StepLayout {
  std::uint64_t tokens, positions, segment_of, logit_rows, segments, pages, bytes;
};
StepLayout step_layout(const BackendConfig& config) {
  StepLayout at{};
  const auto place = [&](std::uint64_t bytes) {
    const std::uint64_t offset = at.bytes;
    at.bytes += aligned(bytes);
    return offset;
  };
  const auto rows = static_cast<std::uint64_t>(config.max_rows);
  const auto sequences = static_cast<std::uint64_t>(std::max(config.max_tails, config.max_rows));
  const auto pages =
      static_cast<std::uint64_t>(config.max_tails) * static_cast<std::uint64_t>(config.max_context / kPageTokens + 2);
  at.tokens = place(rows * 4);
  at.positions = place(rows * 4);
  at.segment_of = place(rows * 4);
  at.logit_rows = place(rows * 4);
  at.segments = place(sequences * sizeof(SegmentView));
  at.pages = place(pages * 4);
  return at;
}

constexpr std::int64_t kSmallestContext = 2048;

}  // namespace

Status CudaBackend::prepare() {
  DS4_ASSIGN_OR_RETURN(void* tables, device_.allocate(sizeof(Iq2Tables), "the IQ2_XXS table"));
  allocations_.push_back(tables);
  const Iq2Tables host = make_iq2_tables();
  upload(tables, &host, sizeof(host));
  iq2_ = static_cast<const Iq2Tables*>(tables);
  for (cudaEvent_t* event : {&fork_, &query_fork_, &sums_ready_, &step_sent_, &left_, &arrived_})
    device_.check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "event");
  for (int i = 0; i < kBranches; ++i) {
    device_.check(cudaStreamCreateWithFlags(&sides_[i], cudaStreamNonBlocking), "stream");
    device_.check(cudaEventCreateWithFlags(&joins_[i], cudaEventDisableTiming), "event");
  }
  return device_.status();
}

CudaBackend::~CudaBackend() {
  device_.select();
  drop_recording();
  cudaDeviceSynchronize();
  write_trace();
  uploader_.reset();
  for (int i = 0; i < kBranches; ++i) {
    if (sides_[i] != nullptr) cudaStreamDestroy(sides_[i]);
    if (joins_[i] != nullptr) cudaEventDestroy(joins_[i]);
  }
  for (cudaEvent_t event : {fork_, query_fork_, sums_ready_, step_sent_, left_, arrived_})
    if (event != nullptr) cudaEventDestroy(event);
  for (auto& [key, recording] : recordings_)
    if (recording.graph != nullptr) cudaGraphExecDestroy(recording.graph);
  for (void* memory : allocations_) Device::release(memory);
  if (step_host_ != nullptr) cudaFreeHost(step_host_);
}

std::string CudaBackend::name() const { return cat("cuda/", device_.name(), exact_ ? " (exact)" : ""); }

std::optional<std::uint64_t> CudaBackend::available_memory() const {
  // Graphs and lazily loaded kernels take some.
  constexpr std::size_t kReserve = std::size_t{512} << 20;
  if (device_.integrated())
    return std::nullopt;  // what the page cache holds is free too, and the card does not count it
  device_.select();
  std::size_t free = 0;
  std::size_t total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  return free > kReserve ? free - kReserve : 0;
}

std::uint64_t CudaBackend::weight_bytes(const HostWeight& weight) const {
  return Device::taken(aligned(matrix_bytes(plan(weight, exact_))));
}

std::uint64_t CudaBackend::scratch_bytes(const BackendConfig& config) const {
  return carve_scratch(config, device_.multiprocessors(), nullptr).bytes + step_layout(config).bytes;
}

Result<Weight> CudaBackend::load(const HostWeight& weight) {
  device_.select();
  if (!uploader_) {
    DS4_ASSIGN_OR_RETURN(uploader_, Uploader::create(device_));
  }
  Matrix m = plan(weight, exact_);
  m.iq2 = iq2_;
  DS4_ASSIGN_OR_RETURN(void* memory, device_.allocate(aligned(matrix_bytes(m)), "the weights"));
  allocations_.push_back(memory);
  HostWeight source = weight;
  std::vector<float> converted;
  if (converts(weight)) {
    converted.resize(static_cast<std::size_t>(weight.in));
    decode_row(weight.type, weight.data, converted.data(), converted.size());
    source = {DType::kF32, weight.in, 1, 1, reinterpret_cast<const std::byte*>(converted.data())};
  }
  DS4_ASSIGN_OR_RETURN(const float largest, uploader_->load(source, m, static_cast<std::byte*>(memory)));
  if (weight.done_with) weight.done_with({weight.data, weight.bytes()});
  m.data = static_cast<const std::byte*>(memory);
  if (m.tiled) m.pre = choose_pre(m.type, largest);
  if (m.tiled && m.type == DType::kIQ2_XXS && !(largest * m.pre <= 65504.0F))
    return Error{ErrorCode::kBadModel,
                 cat("a weight of type iq2_xxs: expected magnitudes up to ", 65504.0F / m.pre, ", found ", largest,
                     "; --quality keeps the file's layout and has no such limit")};
  matrices_.push_back(m);
  return Weight{m.type, m.in, m.out, m.count, &matrices_.back(), m.tiled ? 1U : 0U};
}

Status CudaBackend::reserve(Slots& slots, std::uint64_t bytes, int count, const char* what) {
  slots.bytes = aligned(bytes == 0 ? 1 : bytes);
  DS4_ASSIGN_OR_RETURN(void* memory, device_.allocate(slots.bytes * static_cast<std::uint64_t>(count), what));
  allocations_.push_back(memory);
  slots.base = static_cast<std::byte*>(memory);
  for (int slot = count; slot-- > 0;) slots.free.push_back(slot);
  return {};
}

Status CudaBackend::configure(const BackendConfig& config) {
  device_.select();
  uploader_.reset();
  if (config.dims.hc > kMaxStreams)
    return Error{ErrorCode::kBadModel,
                 cat("hyper-connection streams: expected at most ", kMaxStreams, ", found ", config.dims.hc)};
  if (config.dims.experts_used > 30)
    return Error{ErrorCode::kBadModel, cat("experts per token: expected at most 30, found ", config.dims.experts_used)};
  if (config.dims.head_dim > 1024)
    return Error{ErrorCode::kBadModel, cat("head_dim: expected at most 1024, found ", config.dims.head_dim)};
  config_ = config;
  DS4_ASSIGN_OR_RETURN(void* memory,
                       device_.allocate(carve_scratch(config, device_.multiprocessors(), nullptr).bytes, "scratch"));
  allocations_.push_back(memory);
  scratch_ = carve_scratch(config, device_.multiprocessors(), static_cast<std::byte*>(memory));
  device_.check(cudaMemsetAsync(memory, 0, scratch_.bytes, stream()), "clearing scratch");  // padding of encoded rows
  step_bytes_ = step_layout(config).bytes;
  DS4_ASSIGN_OR_RETURN(void* step, device_.allocate(step_bytes_, "scratch"));
  allocations_.push_back(step);
  step_device_ = static_cast<std::byte*>(step);
  void* host = nullptr;
  if (!device_.check(cudaMallocHost(&host, step_bytes_), "pinning host memory")) return device_.status();
  step_host_ = static_cast<std::byte*>(host);
  DS4_RETURN_IF_ERROR(reserve(pages_, config.kv.page_bytes, config.max_pages, "the KV pages"));
  DS4_RETURN_IF_ERROR(reserve(tails_, config.kv.tail_bytes, config.max_tails, "the KV tails"));
  device_.check(cudaStreamSynchronize(stream()), "clearing scratch");
  return device_.status();
}

Result<Buffer> CudaBackend::allocate(std::size_t bytes) {
  DS4_ASSIGN_OR_RETURN(void* memory, device_.allocate(bytes, "activations"));
  return Buffer(memory, bytes, [](void* data) { Device::release(data); });
}

void CudaBackend::upload(void* device, const void* host, std::size_t bytes) {
  if (bytes == 0) return;
  device_.select();
  device_.check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream()), "copying to the card");
  device_.check(cudaStreamSynchronize(stream()), "copying to the card");
}

Status CudaBackend::download(void* host, const void* device, std::size_t bytes) {
  finish_step();
  if (bytes != 0)
    device_.check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream()), "copying from the card");
  device_.check(cudaStreamSynchronize(stream()), "computing");
  in_flight_ = false;
  return device_.status();
}

Status CudaBackend::receive(void* to, Backend& from, const void* data, std::size_t bytes) {
  auto* sender = dynamic_cast<CudaBackend*>(&from);
  if (sender == nullptr) return Backend::receive(to, from, data, bytes);
  sender->finish_step();
  sender->device_.check(cudaEventRecord(sender->left_, sender->stream()), "handing on");
  device_.select();
  connect(sender->device_);
  device_.check(cudaStreamWaitEvent(stream(), sender->left_, 0), "receiving");
  device_.check(cudaMemcpyPeerAsync(to, device_.ordinal(), data, sender->device_.ordinal(), bytes, stream()),
                "receiving");
  device_.check(cudaEventRecord(arrived_, stream()), "receiving");
  sender->device_.select();
  sender->device_.check(cudaStreamWaitEvent(sender->stream(), arrived_, 0), "handing on");
  return {};
}

void CudaBackend::connect(const Device& sender) {
  if (sender.ordinal() == connected_ || sender.ordinal() == device_.ordinal()) return;
  connected_ = sender.ordinal();
  int possible = 0;
  if (cudaDeviceCanAccessPeer(&possible, device_.ordinal(), sender.ordinal()) == cudaSuccess && possible != 0)
    cudaDeviceEnablePeerAccess(sender.ordinal(), 0);  // without it the driver copies by way of the host
  cudaGetLastError();                                 // it may have been enabled before
}

Status CudaBackend::wait() {
  finish_step();
  if (in_flight_) device_.check(cudaStreamSynchronize(stream()), "computing");
  in_flight_ = false;
  return device_.status();
}

// --- KV memory

Result<std::int32_t> CudaBackend::take(Slots& slots, const char* what) {
  if (slots.free.empty()) return Error{ErrorCode::kOutOfMemory, cat("no free KV ", what)};
  device_.select();
  const std::int32_t slot = slots.free.back();
  slots.free.pop_back();
  device_.check(cudaMemsetAsync(slots.at(slot), 0, slots.bytes, stream()), "clearing KV memory");
  return slot;
}
Result<std::int32_t> CudaBackend::new_page() { return take(pages_, "page"); }
void CudaBackend::free_page(std::int32_t page) { pages_.free.push_back(page); }
Result<std::int32_t> CudaBackend::new_tail() { return take(tails_, "tail"); }
void CudaBackend::free_tail(std::int32_t tail) { tails_.free.push_back(tail); }

void CudaBackend::copy_page(std::int32_t to, std::int32_t from) {
  finish_step();
  device_.check(cudaMemcpyAsync(pages_.at(to), pages_.at(from), pages_.bytes, cudaMemcpyDeviceToDevice, stream()),
                "copying a page");
}
void CudaBackend::copy_tail(std::int32_t to, std::int32_t from) {
  finish_step();
  device_.check(cudaMemcpyAsync(tails_.at(to), tails_.at(from), tails_.bytes, cudaMemcpyDeviceToDevice, stream()),
                "copying a tail");
}
Status CudaBackend::read_page(std::int32_t page, std::span<std::byte> host) {
  return download(host.data(), pages_.at(page), host.size());
}
void CudaBackend::write_page(std::int32_t page, std::span<const std::byte> host) {
  upload(pages_.at(page), host.data(), host.size());
}
Status CudaBackend::read_tail(std::int32_t tail, std::span<std::byte> host) {
  return download(host.data(), tails_.at(tail), host.size());
}
void CudaBackend::write_tail(std::int32_t tail, std::span<const std::byte> host) {
  upload(tails_.at(tail), host.data(), host.size());
}

// --- steps

void CudaBackend::begin(const BatchView& batch) {
  DS4_CHECK(batch.rows > 0 && batch.rows <= config_.max_rows);
  device_.select();
  const bool given_up = in_flight_ && !complete_;  // with branches that nobody has joined
  drop_recording();
  // The last step's copy must have left the pinned block before it is written again.
  if (given_up) device_.check(cudaDeviceSynchronize(), "computing");
  else if (in_flight_) device_.check(cudaEventSynchronize(step_sent_), "sending a step");
  in_flight_ = true;
  complete_ = false;
  half_source_ = nullptr;
  qr_source_ = nullptr;
  heads_source_ = nullptr;
  query_source_ = nullptr;
  experts_ = {};
  experts_target_ = nullptr;

  const StepLayout at = step_layout(config_);
  const auto write = [&]<typename T>(std::uint64_t offset, std::span<const T> values) {
    if (!values.empty()) std::memcpy(step_host_ + offset, values.data(), values.size_bytes());
  };
  write(at.tokens, batch.tokens);
  write(at.positions, batch.positions);
  write(at.logit_rows, batch.logit_rows);
  auto* segment_of = reinterpret_cast<std::int32_t*>(step_host_ + at.segment_of);
  auto* segments = reinterpret_cast<SegmentView*>(step_host_ + at.segments);
  auto* pages = reinterpret_cast<std::int32_t*>(step_host_ + at.pages);
  int pages_used = 0;
  bool single = true;
  end_position_ = 0;
  long_segments_ = false;
  for (std::size_t s = 0; s < batch.segments.size(); ++s) {
    const Segment& segment = batch.segments[s];
    segments[s] = {segment.first_row, segment.rows, segment.tail, pages_used, segment.first_position};
    DS4_CHECK(at.pages + static_cast<std::uint64_t>(pages_used) * 4 + segment.pages.size_bytes() <= step_bytes_);
    std::copy(segment.pages.begin(), segment.pages.end(), pages + pages_used);
    pages_used += static_cast<int>(segment.pages.size());
    std::fill_n(segment_of + segment.first_row, segment.rows, static_cast<std::int32_t>(s));
    end_position_ = std::max(end_position_, segment.end_position());
    long_segments_ = long_segments_ || segment.rows > kRewindSlack;
    single = single && segment.rows == 1;
  }
  const std::uint64_t bytes = at.pages + static_cast<std::uint64_t>(pages_used) * 4;
  device_.check(cudaMemcpyAsync(step_device_, step_host_, bytes, cudaMemcpyHostToDevice, stream()), "sending a step");
  device_.check(cudaEventRecord(step_sent_, stream()), "sending a step");
  const auto on_device = [&]<typename T>(std::uint64_t offset, const T*& pointer) {
    pointer = reinterpret_cast<const T*>(step_device_ + offset);
  };
  on_device(at.tokens, batch_.tokens);
  on_device(at.positions, batch_.positions);
  on_device(at.segment_of, batch_.segment_of);
  on_device(at.logit_rows, batch_.logit_rows);
  on_device(at.segments, batch_.segments);
  on_device(at.pages, batch_.pages);
  batch_.page_memory = pages_.base;
  batch_.tail_memory = tails_.base;
  batch_.page_bytes = pages_.bytes;
  batch_.tail_bytes = tails_.bytes;
  batch_.rows = batch.rows;
  logit_rows_ = static_cast<int>(batch.logit_rows.size());

  mode_ = Mode::kEager;
  if (!batch.repeatable || !single || batch.rows > kFewRows) return;
  const auto rounded = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(end_position_)));
  end_position_ = std::min(std::max(rounded, kSmallestContext), std::max(config_.max_context, end_position_));
  key_ = {batch.rows, logit_rows_, end_position_};
  Recording& recording = recordings_[key_];
  calls_.clear();
  if (recording.graph != nullptr) {
    mode_ = Mode::kReplay;
  } else if (recording.seen++ > 0) {  // the first step of a kind runs as it is, so that every kernel is loaded
    mode_ = Mode::kRecord;
  }
}

bool CudaBackend::enqueue(int op, const void* argument) {
  device_.select();
  in_flight_ = true;  // somebody may wait after every op
  complete_ = false;
  if (mode_ == Mode::kRecord &&
      calls_.empty())  // not before: what comes from another card is not part of the recording
    device_.check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "recording a step");
  if (mode_ != Mode::kEager) calls_.push_back({op, argument});
  return mode_ != Mode::kReplay;
}

void CudaBackend::finish_step() {
  device_.select();
  flush();
  flush_heads();
  for (int i = 0; i < kBranches; ++i) join(i);
  fork_source_ = nullptr;
  complete_ = true;
  const Mode mode = mode_;
  mode_ = Mode::kEager;
  if (mode == Mode::kEager || calls_.empty()) return;
  Recording& recording = recordings_[key_];
  if (mode == Mode::kRecord) {
    cudaGraph_t graph = nullptr;
    device_.check(cudaStreamEndCapture(stream(), &graph), "recording a step");
    if (graph != nullptr) {
      device_.check(cudaGraphInstantiate(&recording.graph, graph, 0), "recording a step");
      cudaGraphDestroy(graph);
    }
    recording.calls = calls_;
  }
  if (recording.calls != calls_) {
    const auto differs =
        std::mismatch(calls_.begin(), calls_.end(), recording.calls.begin(), recording.calls.end()).first;
    check_failed(cat("a repeatable step makes the same calls: ", calls_.size(), " of ", recording.calls.size(),
                     ", call ", differs - calls_.begin(), " differs")
                     .c_str(),
                 __FILE__, __LINE__);
  }
  if (recording.graph != nullptr) device_.check(cudaGraphLaunch(recording.graph, stream()), "replaying a step");
}

void CudaBackend::fork(const float* source) {
  device_.check(cudaEventRecord(fork_, stream()), "fork");
  fork_source_ = source;
  std::fill(std::begin(at_fork_), std::end(at_fork_), false);
}

cudaStream_t CudaBackend::side(int branch) {
  if (!at_fork_[branch]) device_.check(cudaStreamWaitEvent(sides_[branch], fork_, 0), "fork");
  at_fork_[branch] = true;
  running_[branch] = true;
  return sides_[branch];
}

void CudaBackend::join(int branch, cudaStream_t into) {
  if (!running_[branch]) return;
  running_[branch] = false;
  device_.check(cudaEventRecord(joins_[branch], sides_[branch]), "join");
  device_.check(cudaStreamWaitEvent(into, joins_[branch], 0), "join");
}

void CudaBackend::drop_recording() {
  std::fill(std::begin(running_), std::end(running_), false);
  fork_source_ = nullptr;
  joint_.clear();
  pending_low_rank_.reset();
  pending_window_ = false;
  for (auto& pending : pending_compress_) pending.reset();
  pending_post_.reset();
  pending_sums_.reset();
  pending_mix_.reset();
  pending_heads_.reset();
  pending_route_.reset();
  pending_choice_.reset();
  if (mode_ == Mode::kRecord && !calls_.empty()) {
    cudaGraph_t graph = nullptr;
    cudaStreamEndCapture(stream(), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
  }
  mode_ = Mode::kEager;
}

}  // namespace cuda
}  // namespace ds4
