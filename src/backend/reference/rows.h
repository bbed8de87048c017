// Finding rows of the KV state: the inside of a RowStore, and the compressed row b of a sequence in its pages.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "backend/host_kv.h"

namespace ds4::reference {

struct RowPlace {
  std::byte* main;
  std::byte* scale;
};

inline RowPlace row_in_store(std::byte* base, const RowStore& store, std::int64_t row) {
  std::byte* start = base + store.offset;
  return {start + row * store.row.main_bytes,
          start + std::int64_t{store.rows} * store.row.main_bytes + row * store.row.scale_bytes};
}

inline RowPlace row_in_pages(const HostKv& kv, const Segment& segment, const RowStore& store, std::int64_t row) {
  const std::int32_t page = segment.pages[static_cast<std::size_t>(row / store.rows)];
  return row_in_store(kv.page(page).data(), store, row % store.rows);
}

}  // namespace ds4::reference
