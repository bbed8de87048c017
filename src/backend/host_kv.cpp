#include "backend/host_kv.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "base/text.h"

namespace ds4 {

Status HostKv::Arena::reserve(std::uint64_t slot_bytes, int slots) {
  DS4_CHECK(base == nullptr && slots > 0);
  const auto system_page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const Checked aligned = Checked(slot_bytes == 0 ? 1 : slot_bytes).aligned_up(system_page);
  const Checked total = aligned * Checked(static_cast<std::uint64_t>(slots));
  if (!total.fits(std::uint64_t{1} << 46))
    return Error{ErrorCode::kOutOfMemory, cat("KV memory of ", slots, " slots of ", slot_bytes, " bytes is too large")};
  void* data =
      ::mmap(nullptr, *total.value(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED)
    return Error{ErrorCode::kOutOfMemory, cat("cannot reserve ", human_bytes(*total.value()),
                                              " of address space for KV: ", std::strerror(errno))};
  ::madvise(data, *total.value(), MADV_HUGEPAGE);  // best effort: some kernels have none
  base = static_cast<std::byte*>(data);
  stride = *aligned.value();
  reserved = *total.value();
  free.clear();
  for (int slot = slots; slot-- > 0;) free.push_back(slot);  // lowest numbers are handed out first
  return {};
}

Result<std::int32_t> HostKv::Arena::take(std::string_view what) {
  if (free.empty())
    return Error{ErrorCode::kOutOfMemory, cat("no free KV ", what, ": ", reserved / stride, " are in use")};
  const std::int32_t slot = free.back();
  free.pop_back();
  return slot;
}

void HostKv::Arena::give_back(std::int32_t slot) {
  // Anonymous memory comes back zeroed, which is what the next owner of the slot is promised.
  ::madvise(base + static_cast<std::uint64_t>(slot) * stride, stride, MADV_DONTNEED);
  free.push_back(slot);
}

void HostKv::Arena::release() {
  if (base != nullptr) ::munmap(base, reserved);
  base = nullptr;
}

HostKv::~HostKv() {
  pages_.release();
  tails_.release();
}

Status HostKv::configure(const KvLayout& layout, int max_pages, int max_tails) {
  layout_ = layout;
  DS4_RETURN_IF_ERROR(pages_.reserve(layout.page_bytes, max_pages));
  return tails_.reserve(layout.tail_bytes, max_tails);
}

Result<std::int32_t> HostKv::new_page() { return pages_.take("page"); }
void HostKv::free_page(std::int32_t page) { pages_.give_back(page); }
Result<std::int32_t> HostKv::new_tail() { return tails_.take("tail"); }
void HostKv::free_tail(std::int32_t tail) { tails_.give_back(tail); }

std::span<std::byte> HostKv::page(std::int32_t page) const {
  return {pages_.base + static_cast<std::uint64_t>(page) * pages_.stride, layout_.page_bytes};
}

std::span<std::byte> HostKv::tail(std::int32_t tail) const {
  return {tails_.base + static_cast<std::uint64_t>(tail) * tails_.stride, layout_.tail_bytes};
}

}  // namespace ds4
