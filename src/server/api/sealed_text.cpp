#include "server/api/sealed_text.h"

#include <array>
#include <cstdint>

#include "chat/utf8_gate.h"

namespace ds4::server {

namespace {
constexpr std::string_view kMark = "ds4.";
constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
}  // namespace

std::string seal(std::string_view text) {
  std::string out(kMark);
  for (std::size_t at = 0; at < text.size(); at += 3) {
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      bits = bits << 8 | (at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      out += at + i <= text.size() ? kDigits[bits >> (18 - 6 * i) & 63] : '=';
    }
  }
  return out;
}

std::optional<std::string> unseal(std::string_view sealed) {
  if (!sealed.starts_with(kMark)) return std::nullopt;
  sealed.remove_prefix(kMark.size());
  if (sealed.size() % 4 != 0) return std::nullopt;
  std::string out;
  for (std::size_t at = 0; at < sealed.size(); at += 4) {
    std::uint32_t bits = 0;
    std::size_t bytes = 3;
    for (std::size_t i = 0; i < 4; ++i) {
      const char c = sealed[at + i];
      const bool padding = c == '=' && i >= 2 && at + 4 == sealed.size();
      const std::size_t digit = kDigits.find(c);
      if (!padding && (digit == std::string_view::npos || bytes < 3)) return std::nullopt;
      if (padding) --bytes;
      bits = bits << 6 | (padding ? 0u : static_cast<std::uint32_t>(digit));
    }
    for (std::size_t i = 0; i < bytes; ++i) out += static_cast<char>(bits >> (16 - 8 * i) & 255);
  }
  return chat::valid_utf8(out);
}

}  // namespace ds4::server
