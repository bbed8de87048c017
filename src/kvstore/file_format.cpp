#include "kvstore/file_format.h"

#include <algorithm>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/text.h"

namespace ds4::kvstore {

namespace {

constexpr std::array<std::uint8_t, 8> kMagic = {'D', 'S', '4', 'K', 'V', 0x1a, 0x0d, 0x0a};
constexpr std::size_t kVersionAt = 8, kKindAt = 12, kIdentityAt = 16, kKeyAt = 48, kBeforeAt = 80, kPositionAt = 112,
                      kSizeAt = 120, kCheckAt = 128, kLabelAt = 144, kTokensAt = kLabelAt + kLabelBytes,
                      kSampledAt = kTokensAt + kBlockTokens * 4;
static_assert(kTokensAt + 16 == kPointHeadBytes && kSampledAt + kBlockTokens / 8 + 16 == kBlockHeadBytes);

template <typename T>
T load(std::span<const std::byte> bytes, std::size_t at) {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) value |= static_cast<T>(static_cast<T>(bytes[at + i]) << 8 * i);
  return value;
}

template <typename T>
void store(std::span<std::byte> bytes, std::size_t at, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) bytes[at + i] = static_cast<std::byte>(value >> 8 * i);
}

template <typename Array>
void copy_in(std::span<const std::byte> bytes, std::size_t at, Array& out) {
  std::memcpy(out.data(), bytes.data() + at, out.size());
}

template <typename Array>
void copy_out(std::span<std::byte> bytes, std::size_t at, const Array& from) {
  std::memcpy(bytes.data() + at, from.data(), from.size());
}

Error bad(const std::string& name, std::string_view field, std::size_t at, const std::string& expected,
          const std::string& found) {
  return Error{ErrorCode::kIo,
               cat(escaped(name, 4096), ": ", field, " at byte ", at, ": expected ", expected, ", found ", found)};
}

}  // namespace

Checksum checksum(std::span<const std::byte> bytes) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  Checksum out{};
  std::memcpy(out.data(), canonical.digest, out.size());
  return out;
}

std::string hex(std::span<const std::uint8_t> bytes) {
  std::string out;
  for (const std::uint8_t byte : bytes) {
    out += "0123456789abcdef"[byte >> 4];
    out += "0123456789abcdef"[byte & 15];
  }
  return out;
}

Key block_key(const Key& before, std::span<const std::int32_t, kBlockTokens> tokens) {
  std::array<std::byte, 32 + kBlockTokens * 4> bytes;
  std::memcpy(bytes.data(), before.data(), before.size());
  for (std::size_t i = 0; i < kBlockTokens; ++i)
    store(std::span(bytes), 32 + 4 * i, static_cast<std::uint32_t>(tokens[i]));
  Sha256 hash;
  hash.add(bytes);
  return hash.digest();
}

std::string_view kind_name(Kind kind) { return kind == Kind::kBlock ? "block" : "point"; }

std::size_t head_bytes(Kind kind) { return kind == Kind::kBlock ? kBlockHeadBytes : kPointHeadBytes; }

std::vector<std::byte> encode_head(Head head, std::span<const std::byte> payload) {
  const std::size_t size = head_bytes(head.kind);
  std::vector<std::byte> out(size);
  const std::span<std::byte> bytes(out);
  copy_out(bytes, 0, kMagic);
  store(bytes, kVersionAt, kVersion);
  store(bytes, kKindAt, static_cast<std::uint32_t>(head.kind));
  copy_out(bytes, kIdentityAt, head.identity);
  copy_out(bytes, kKeyAt, head.key);
  copy_out(bytes, kBeforeAt, head.before);
  store(bytes, kPositionAt, head.position);
  store(bytes, kSizeAt, std::uint64_t{payload.size()});
  copy_out(bytes, kCheckAt, checksum(payload));
  copy_out(bytes, kLabelAt, std::string_view(head.label).substr(0, kLabelBytes));
  if (head.kind == Kind::kBlock) {
    for (std::size_t i = 0; i < kBlockTokens; ++i)
      store(bytes, kTokensAt + 4 * i, static_cast<std::uint32_t>(head.tokens[i]));
    copy_out(bytes, kSampledAt, head.sampled);
  }
  copy_out(bytes, size - 16, checksum(bytes.first(size - 16)));
  return out;
}

std::optional<std::uint32_t> file_version(std::span<const std::byte> bytes) {
  if (bytes.size() < kKindAt || std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) return std::nullopt;
  return load<std::uint32_t>(bytes, kVersionAt);
}

Result<Head> parse_head(std::span<const std::byte> bytes, const std::string& name) {
  const auto version = file_version(bytes);
  if (!version) return bad(name, "magic", 0, "DS4KV\\x1a\\x0d\\x0a and a version", "something else");
  if (*version != kVersion) return bad(name, "version", kVersionAt, cat(kVersion), cat(*version));
  if (bytes.size() < kPointHeadBytes)
    return bad(name, "head", 0, cat(kPointHeadBytes, " bytes"), cat(bytes.size(), ": the file is cut"));
  const auto kind = load<std::uint32_t>(bytes, kKindAt);
  if (kind != 1 && kind != 2) return bad(name, "kind", kKindAt, "1 or 2", cat(kind));
  Head head;
  head.kind = static_cast<Kind>(kind);
  const std::size_t size = head_bytes(head.kind);
  if (bytes.size() < size) return bad(name, "head", 0, cat(size, " bytes"), cat(bytes.size(), ": the file is cut"));
  Checksum check{};
  copy_in(bytes, size - 16, check);
  if (const auto found = checksum(bytes.first(size - 16)); check != found)
    return bad(name, "head checksum", size - 16, hex(found), hex(check));
  copy_in(bytes, kIdentityAt, head.identity);
  copy_in(bytes, kKeyAt, head.key);
  copy_in(bytes, kBeforeAt, head.before);
  head.position = load<std::uint64_t>(bytes, kPositionAt);
  head.payload_bytes = load<std::uint64_t>(bytes, kSizeAt);
  copy_in(bytes, kCheckAt, head.payload_check);
  const auto* label = reinterpret_cast<const char*>(bytes.data()) + kLabelAt;
  head.label.assign(label, std::find(label, label + kLabelBytes, '\0'));
  // The checksum says that these are the bytes that were written, the rest that they were written by this program.
  if (head.position == 0 || head.position % kBlockTokens != 0 || head.position > INT64_MAX)
    return bad(name, "position", kPositionAt, "a multiple of 128, not 0", cat(head.position));
  if (head.payload_bytes > kMaxPayload)
    return bad(name, "payload bytes", kSizeAt, cat("at most ", kMaxPayload), cat(head.payload_bytes));
  if (head.kind == Kind::kPoint) return head;
  for (std::size_t i = 0; i < kBlockTokens; ++i)
    head.tokens[i] = static_cast<std::int32_t>(load<std::uint32_t>(bytes, kTokensAt + 4 * i));
  copy_in(bytes, kSampledAt, head.sampled);
  if (const Key key = block_key(head.before, head.tokens); key != head.key)
    return bad(name, "key", kKeyAt, cat("the hash of its tokens, ", hex(key)), hex(head.key));
  if ((head.position == kBlockTokens) != (head.before == head.identity))
    return bad(name, "before", kBeforeAt, "the identity in the first block and only there", hex(head.before));
  return head;
}

Result<File> parse_file(std::span<const std::byte> bytes, const std::string& name) {
  DS4_ASSIGN_OR_RETURN(Head head, parse_head(bytes, name));
  const std::size_t size = head_bytes(head.kind);
  const std::span<const std::byte> payload = bytes.subspan(size);
  if (payload.size() != head.payload_bytes)
    return bad(name, "payload bytes", kSizeAt, cat(payload.size(), ", what follows the head"), cat(head.payload_bytes));
  if (const auto found = checksum(payload); found != head.payload_check)
    return bad(name, "payload checksum", kCheckAt, hex(found), hex(head.payload_check));
  return File{std::move(head), payload};
}

std::string file_name(Kind kind, const Key& key) { return cat(kind == Kind::kBlock ? "b-" : "p-", hex(key), ".kv"); }

std::optional<NamedFile> read_file_name(std::string_view name) {
  if (name.size() != 2 + 64 + 3 || (name[0] != 'b' && name[0] != 'p') || name[1] != '-' || !name.ends_with(".kv"))
    return std::nullopt;
  NamedFile out{name[0] == 'b' ? Kind::kBlock : Kind::kPoint, {}};
  for (std::size_t i = 0; i < 64; ++i) {
    const char c = name[2 + i];
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (c < 'a' || c > 'f')) return std::nullopt;
    const int value = digit ? c - '0' : c - 'a' + 10;
    out.key[i / 2] = static_cast<std::uint8_t>(out.key[i / 2] << 4 | value);
  }
  return out;
}

}  // namespace ds4::kvstore
