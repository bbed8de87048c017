// KV pages and tails in host memory, for the backends that compute there. Slots are reserved address space: memory is
// used when it is first written, and given back to the system when a slot is freed. Not thread-safe; readers of
// different slots may run in parallel.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "backend/kv_layout.h"
#include "base/result.h"

namespace ds4 {

class HostKv {
 public:
  HostKv() = default;
  ~HostKv();
  HostKv(const HostKv&) = delete;
  HostKv& operator=(const HostKv&) = delete;

  Status configure(const KvLayout& layout, int max_pages, int max_tails);
  const KvLayout& layout() const { return layout_; }

  Result<std::int32_t> new_page();
  void free_page(std::int32_t page);
  Result<std::int32_t> new_tail();
  void free_tail(std::int32_t tail);

  std::span<std::byte> page(std::int32_t page) const;
  std::span<std::byte> tail(std::int32_t tail) const;

 private:
  /// A reserved range cut into equal slots.
  struct Arena {
    std::byte* base = nullptr;
    std::uint64_t stride = 0;  // slot size rounded up to the page size of the system
    std::vector<std::int32_t> free;
    std::uint64_t reserved = 0;
    Status reserve(std::uint64_t slot_bytes, int slots);
    Result<std::int32_t> take(std::string_view what);
    void give_back(std::int32_t slot);
    void release();
  };
  KvLayout layout_;
  Arena pages_;
  Arena tails_;
};

}  // namespace ds4
