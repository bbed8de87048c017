#include "tokenizer/byte_map.h"

#include <array>

namespace ds4 {

namespace {

constexpr int kCodePoints = 256 + 68;

struct ByteMap {
  std::array<int, 256> code_of_byte{};
  std::array<int, kCodePoints> byte_of_code{};
};

constexpr ByteMap make_byte_map() {
  ByteMap map;
  for (int& byte : map.byte_of_code) byte = -1;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = printable ? byte : next++;
    map.code_of_byte[byte] = code;
    map.byte_of_code[code] = byte;
  }
  return map;
}

constexpr ByteMap kMap = make_byte_map();

}  // namespace

std::string byte_symbol(std::uint8_t byte) {
  const int code = kMap.code_of_byte[byte];
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

bool append_mapped_bytes(std::string_view text, std::string& out) {
  const std::size_t size_before = out.size();
  for (std::size_t at = 0; at < text.size(); ++at) {
    int code = static_cast<unsigned char>(text[at]);
    if (code >= 0x80) {
      // The map ends below U+0144, so every code point of it has at most two bytes.
      const int trail = ++at < text.size() ? static_cast<unsigned char>(text[at]) : 0;
      code = (code & 0xE0) == 0xC0 && (trail & 0xC0) == 0x80 ? (code & 0x1F) << 6 | (trail & 0x3F) : kCodePoints;
      if (code < 0x80) code = kCodePoints;  // overlong
    }
    if (code >= kCodePoints || kMap.byte_of_code[code] < 0) {
      out.resize(size_before);
      return false;
    }
    out.push_back(static_cast<char>(kMap.byte_of_code[code]));
  }
  return true;
}

}  // namespace ds4
