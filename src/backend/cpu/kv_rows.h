// Reading stored rows as f32, by the kernels of one instruction set; and where a row lies.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/host_kv.h"

namespace ds4::cpu {

struct RowPlace {
  std::byte* main;
  std::byte* scale;
};

/// Row `row` of a store whose memory region starts at `base`.
inline RowPlace row_in_store(std::byte* base, const RowStore& store, std::int64_t row) {
  std::byte* start = base + store.offset;
  return {start + row * store.row.main_bytes,
          start + std::int64_t{store.rows} * store.row.main_bytes + row * store.row.scale_bytes};
}

/// Compressed or indexer row `row` of a sequence.
inline RowPlace row_in_pages(const HostKv& kv, const Segment& segment, const RowStore& store, std::int64_t row) {
  const std::int32_t page = segment.pages[static_cast<std::size_t>(row / store.rows)];
  return row_in_store(kv.page(page).data(), store, row % store.rows);
}

/// A row as f32: where it is if it is stored so, otherwise decoded into `room`.
inline const float* read_kv_row(const KernelTable& kernels, KvFormat format, RowPlace row, const Dims& dims,
                                float* room) {
  const auto* main = reinterpret_cast<const std::uint8_t*>(row.main);
  if (format == KvFormat::kF32) return reinterpret_cast<const float*>(row.main);
  if (format == KvFormat::kF16) kernels.read_f16(main, room, dims.head_dim);
  else
    kernels.read_packed(main, reinterpret_cast<const std::uint8_t*>(row.scale),
                        {dims.head_dim - dims.rope_dim, dims.head_dim}, room);
  return room;
}

inline const float* read_index_row(const KernelTable& kernels, KvFormat format, RowPlace row, const Dims& dims,
                                   float* room) {
  const auto* main = reinterpret_cast<const std::uint8_t*>(row.main);
  if (format == KvFormat::kF32) return reinterpret_cast<const float*>(row.main);
  if (format == KvFormat::kF16) kernels.read_f16(main, room, dims.index_dim);
  else kernels.read_packed_index(main, reinterpret_cast<const std::uint8_t*>(row.scale), dims.index_dim, room);
  return room;
}

}  // namespace ds4::cpu
