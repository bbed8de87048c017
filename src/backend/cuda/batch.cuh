// What device code knows about the step: one struct of device pointers that never move, filled by begin(). Kernels take
// it by value, so that a recorded step can be replayed with other positions.
#pragma once

#include <cstdint>

#include "backend/cuda/kv_rows.cuh"

namespace ds4::cuda {

/// The rows of one sequence.
struct SegmentView {
  int first_row;
  int rows;
  int tail;
  int pages;  // where its page numbers begin in Batch::pages
  std::int64_t first_position;
};

struct Batch {
  const std::int32_t* tokens;      // [rows]
  const std::int32_t* positions;   // [rows]
  const std::int32_t* segment_of;  // [rows]
  const std::int32_t* logit_rows;
  const SegmentView* segments;
  const std::int32_t* pages;
  std::byte* page_memory;  // page p begins at p * page_bytes
  std::byte* tail_memory;
  std::uint64_t page_bytes;
  std::uint64_t tail_bytes;
  int rows;

  __device__ std::byte* tail(const SegmentView& segment) const {
    return tail_memory + static_cast<std::uint64_t>(segment.tail) * tail_bytes;
  }
  /// Row `row` of the sequence in `store`, which lies in pages.
  __device__ RowPlace row_in_pages(const SegmentView& segment, const Rows& store, std::int64_t row) const {
    const auto number = static_cast<unsigned>(row);  // 64-bit division is slow
    const auto in_page = static_cast<unsigned>(store.rows);
    const std::int32_t page = pages[segment.pages + static_cast<int>(number / in_page)];
    return store.at(page_memory + static_cast<std::uint64_t>(page) * page_bytes, static_cast<int>(number % in_page));
  }
};

}  // namespace ds4::cuda
