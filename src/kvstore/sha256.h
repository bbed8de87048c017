// SHA-256 (FIPS 180-4): names for token histories and models that nobody can forge. For small inputs; the bytes of rows
// are checked with XXH3 (file_format.h). Plain value; one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace ds4::kvstore {

using Digest = std::array<std::uint8_t, 32>;

class Sha256 {
 public:
  void add(std::span<const std::byte> bytes);
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  /// The length as u64, then the text: lists of these cannot be confused.
  void add_field(std::span<const std::byte> bytes);
  void add_field(std::string_view text) { add_field(std::as_bytes(std::span(text))); }
  /// Of everything added; the object is used up.
  Digest digest();

 private:
  void block(const std::uint8_t* bytes);
  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> pending_{};
  std::uint64_t size_ = 0;
};

}  // namespace ds4::kvstore
