// The files of the KV store: what docs/formats/kv-store.md says, to bytes and back. Pure functions, any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kvstore/sha256.h"

namespace ds4::kvstore {

inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::size_t kBlockTokens = 128;
inline constexpr std::size_t kLabelBytes = 48;
inline constexpr std::size_t kPointHeadBytes = 208;
inline constexpr std::size_t kBlockHeadBytes = kPointHeadBytes + kBlockTokens * 4 + kBlockTokens / 8;
/// No payload is longer; guards allocations.
inline constexpr std::uint64_t kMaxPayload = std::uint64_t{1} << 32;

using Key = Digest;
/// XXH3, 128 bits, canonical order.
using Checksum = std::array<std::uint8_t, 16>;
Checksum checksum(std::span<const std::byte> bytes);
using BlockTokens = std::array<std::int32_t, kBlockTokens>;
using SampledBits = std::array<std::uint8_t, kBlockTokens / 8>;

/// The key of the block of these tokens after `before`: another block, or the identity.
Key block_key(const Key& before, std::span<const std::int32_t, kBlockTokens> tokens);
std::string hex(std::span<const std::uint8_t> bytes);

enum class Kind : std::uint32_t { kBlock = 1, kPoint = 2 };
std::string_view kind_name(Kind kind);

struct Head {
  Kind kind = Kind::kBlock;
  Key identity{};
  Key key{};
  Key before{};  // of a block
  std::uint64_t position = 0;
  std::uint64_t payload_bytes = 0;
  Checksum payload_check{};
  std::string label;
  BlockTokens tokens{};   // of a block
  SampledBits sampled{};  // of a block

  bool sampled_at(std::size_t i) const { return (sampled[i / 8] >> i % 8 & 1) != 0; }
};

std::size_t head_bytes(Kind kind);
/// Fills payload_bytes and payload_check from `payload`; the file is the returned head and then the payload.
std::vector<std::byte> encode_head(Head head, std::span<const std::byte> payload);

/// A head that holds in itself: magic, version, checksum, and the key of a block. `bytes` may go on after it.
Result<Head> parse_head(std::span<const std::byte> bytes, const std::string& name);
/// The version a file of ours claims; nullopt when the magic is not ours.
std::optional<std::uint32_t> file_version(std::span<const std::byte> bytes);

struct File {
  Head head;
  std::span<const std::byte> payload;  // a view into what was parsed
};
/// A whole file in which every byte has been checked.
Result<File> parse_file(std::span<const std::byte> bytes, const std::string& name);

/// "b-<hex>.kv" or "p-<hex>.kv", and back.
std::string file_name(Kind kind, const Key& key);
struct NamedFile {
  Kind kind;
  Key key;
};
std::optional<NamedFile> read_file_name(std::string_view name);

}  // namespace ds4::kvstore
