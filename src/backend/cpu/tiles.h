// Quantised weights rearranged for streaming: see kernels.h for how a tile lies in memory. A matrix in tiles remembers
// the rows it was made from: what is rarely asked (exact decoding, outputs that begin inside a tile) is read there.
//
// Where threads are in groups (base/thread_pool.h), a matrix is cut into as many parts by its outputs, and each part is
// written by the threads of its group, so that it lies in the memory next to them; they also take the tasks of its
// outputs first (products.h).
//
// Made once by load(), by all threads of the pool, in huge pages; immutable afterwards, any thread may read it.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/cpu/kernels.h"
#include "backend/cpu/memory.h"
#include "backend/tensor.h"
#include "base/result.h"
#include "base/thread_pool.h"

namespace ds4::cpu {

/// Weight::layout of the CPU backend.
enum WeightLayout : std::uint32_t { kRows = 0, kTiles = 1 };

/// Whether there are tiles for this type of weight.
bool has_tiles(DType type);
PanelFormat panel_format(DType type);
/// The tables that packing and unpacking read.
Iq2Tables iq2_tables();

/// Sizes of a matrix in tiles.
struct TileShape {
  TileBytes bytes;
  std::int64_t blocks = 0;  // of kPanelDepth inputs
  std::int64_t tiles = 0;   // of one matrix
  TileShape(DType type, std::int64_t in, std::int64_t out)
      : bytes(kTileBytes[panel_format(type)]),
        blocks((in + kPanelDepth - 1) / kPanelDepth),
        tiles((out + kTileOutputs - 1) / kTileOutputs) {}
  std::int64_t tile_bytes() const { return (blocks * (bytes.main + bytes.side) + 63) / 64 * 64; }
  std::uint8_t* main(std::uint8_t* tile, std::int64_t block) const { return tile + block * bytes.main; }
  std::uint8_t* side(std::uint8_t* tile, std::int64_t block) const {
    return tile + blocks * bytes.main + block * bytes.side;
  }
};

/// The tiles of a matrix that belong to a group of threads; those of experts alike.
inline Share tiles_of_group(std::int64_t tiles, int group, int groups) {
  return share_of(tiles, group, groups, kTileGroup);
}

/// What Weight::data points to when Weight::layout is kTiles.
struct TiledMatrix {
  struct Part {
    Share tiles;        // of every matrix
    HugeMemory memory;  // [count][tiles], each tile_bytes()
  };
  const std::byte* rows = nullptr;  // as in the file
  std::vector<Part> parts;          // one for each group of threads
  std::uint8_t* tile(const TileShape& shape, std::int64_t matrix, std::int64_t number) const {
    const Part* part = parts.data();
    while (number >= part->tiles.last) ++part;
    auto* base = reinterpret_cast<std::uint8_t*>(part->memory.data());
    return base + (matrix * (part->tiles.last - part->tiles.first) + number - part->tiles.first) * shape.tile_bytes();
  }
};

/// Bytes that pack_tiles() takes.
std::uint64_t tiled_bytes(const HostWeight& weight);
/// Says `weight.done_with` of the rows it has read.
Result<TiledMatrix> pack_tiles(const HostWeight& weight, const KernelTable& kernels, ThreadPool& pool);

}  // namespace ds4::cpu
