// Memory of the reference backend: weights stay in the mapped file, everything else is plain host memory.
#include <cstring>
#include <new>

#include "backend/reference/reference_backend.h"
#include "base/text.h"

namespace ds4 {

std::uint64_t ReferenceBackend::weight_bytes(const HostWeight&) const { return 0; }
std::uint64_t ReferenceBackend::scratch_bytes(const BackendConfig& config) const {
  std::uint64_t row = 0;
  for (const LayerKvLayout& layer : config.kv.layers) row = std::max<std::uint64_t>(row, layer.window.row.total());
  return row * static_cast<std::uint64_t>(config.max_rows);
}

Result<Weight> ReferenceBackend::load(const HostWeight& weight) {
  return Weight{weight.type, weight.in, weight.out, weight.count, weight.data, 0};
}

Status ReferenceBackend::configure(const BackendConfig& config) {
  config_ = config;
  return kv_.configure(config.kv, config.max_pages, config.max_tails);
}

Result<Buffer> ReferenceBackend::allocate(std::size_t bytes) {
  void* data = ::operator new(bytes, std::nothrow);
  if (data == nullptr) return Error{ErrorCode::kOutOfMemory, cat("cannot allocate ", human_bytes(bytes))};
  return Buffer(data, bytes, [](void* p) { ::operator delete(p); });
}

void ReferenceBackend::upload(void* device, const void* host, std::size_t bytes) { std::memcpy(device, host, bytes); }
Status ReferenceBackend::download(void* host, const void* device, std::size_t bytes) {
  std::memcpy(host, device, bytes);
  return {};
}

namespace {
void copy(std::span<std::byte> to, std::span<const std::byte> from) {
  DS4_CHECK(to.size() == from.size());
  if (!to.empty()) std::memcpy(to.data(), from.data(), from.size());
}
}  // namespace

void ReferenceBackend::copy_page(std::int32_t to, std::int32_t from) { copy(kv_.page(to), kv_.page(from)); }
void ReferenceBackend::copy_tail(std::int32_t to, std::int32_t from) { copy(kv_.tail(to), kv_.tail(from)); }
Status ReferenceBackend::read_page(std::int32_t page, std::span<std::byte> host) {
  copy(host, kv_.page(page));
  return {};
}
void ReferenceBackend::write_page(std::int32_t page, std::span<const std::byte> host) { copy(kv_.page(page), host); }
Status ReferenceBackend::read_tail(std::int32_t tail, std::span<std::byte> host) {
  copy(host, kv_.tail(tail));
  return {};
}
void ReferenceBackend::write_tail(std::int32_t tail, std::span<const std::byte> host) { copy(kv_.tail(tail), host); }

void ReferenceBackend::begin(const BatchView& batch) { batch_ = batch; }

}  // namespace ds4
