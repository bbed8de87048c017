// Where the KV state of a sequence lies: byte offsets inside a page and inside a tail (spec section 3).
//
// A *page* holds what is immutable once written, for kPageTokens consecutive tokens and all layers of one backend:
// compressed rows and indexer rows. Pages are shared between sequences that have the same history.
// A *tail* holds what decoding needs besides: per layer the ring of window rows and the compressor states. One tail per
// sequence; copied whole to make a resume point.
//
// Rings are kRewindSlack entries longer than the model needs: a chunk of at most kRewindSlack tokens is written in
// place without destroying anything the state before it needs, and the last kRewindSlack tokens can be taken back.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/kv_row.h"

namespace ds4 {

inline constexpr int kPageTokens = 512;  // a multiple of every compression ratio
inline constexpr int kRewindSlack = 64;

/// `rows` rows of one format at `offset` (see quant/kv_row.h for the inside). Absent when rows == 0.
struct RowStore {
  std::uint64_t offset = 0;
  int rows = 0;
  RowLayout row;
  std::uint64_t bytes() const { return std::uint64_t(rows) * row.total(); }
};

/// Compressor state: f32 z[slots][width], then f32 g[slots][width]; token p is in slot p % slots. Absent when slots ==
/// 0.
struct StateRing {
  std::uint64_t offset = 0;
  int slots = 0;
  int width = 0;
  std::uint64_t bytes() const { return std::uint64_t(slots) * std::uint64_t(width) * 2 * sizeof(float); }
};

struct LayerKvLayout {
  int ratio = 0;          // 0 window only, 4 CSA, 128 HCA
  RowStore window;        // tail: position p in row p % window.rows
  RowStore compressed;    // page: kPageTokens / ratio rows; row b of the sequence is row b % rows of page b / rows
  RowStore index;         // page: the same, ratio 4 only
  StateRing state;        // tail: main compressor
  StateRing index_state;  // tail: indexer compressor, ratio 4 only
};

struct KvLayout {
  KvFormat format = KvFormat::kF32;
  std::vector<LayerKvLayout> layers;  // by layer of the model; a layer of another backend has nothing
  std::uint64_t page_bytes = 0;
  std::uint64_t tail_bytes = 0;
};

}  // namespace ds4
