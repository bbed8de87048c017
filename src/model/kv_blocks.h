// KV state in pieces that can be kept outside of a device: a *block* has the rows of kBlockTokens tokens out of a page,
// a *point* what a restart at the end of a block needs out of a tail. Both are plain bytes, densely packed:
// docs/formats/kv-store.md. Pure functions over the layout of one backend; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/kv_layout.h"

namespace ds4 {

/// A multiple of every compression ratio: at the end of a block no compressor is in the middle of a row.
inline constexpr int kBlockTokens = 128;
inline constexpr int kPageBlocks = kPageTokens / kBlockTokens;
static_assert(kPageTokens % kBlockTokens == 0 && kBlockTokens % 128 == 0 && kBlockTokens % 4 == 0);

std::uint64_t block_bytes(const KvLayout& layout);
std::uint64_t point_bytes(const KvLayout& layout);

/// `part`: which block of the page, 0 to kPageBlocks - 1.
void read_block(const KvLayout& layout, int part, std::span<const std::byte> page, std::span<std::byte> block);
void write_block(const KvLayout& layout, int part, std::span<const std::byte> block, std::span<std::byte> page);

/// `at`: where the restart is to be, a multiple of kBlockTokens within the rewind slack of the tail. A tail written
/// from a point cannot go back behind `at`.
void read_point(const KvLayout& layout, std::int64_t at, std::span<const std::byte> tail, std::span<std::byte> point);
void write_point(const KvLayout& layout, std::int64_t at, std::span<const std::byte> point, std::span<std::byte> tail);

}  // namespace ds4
