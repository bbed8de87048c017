#include "base/text.h"

#include <array>
#include <charconv>
#include <cstdio>

namespace ds4 {

namespace text_detail {

void append(std::string& out, std::string_view piece) { out.append(piece); }
void append_char(std::string& out, char piece) { out.push_back(piece); }

void append_double(std::string& out, double piece) {
  std::array<char, 32> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.6g", piece);
  out.append(buffer.data());
}

void append_signed(std::string& out, std::int64_t piece) {
  std::array<char, 24> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), piece).ptr;
  out.append(buffer.data(), end);
}

void append_unsigned(std::string& out, std::uint64_t piece) {
  std::array<char, 24> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), piece).ptr;
  out.append(buffer.data(), end);
}

}  // namespace text_detail

namespace {

/// Length of the well-formed UTF-8 sequence at the start of `s`, 0 when there is none (Unicode table 3-7).
std::size_t utf8_sequence_length(std::string_view s) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(s[i]); };
  const auto trail = [&](std::size_t i, unsigned low = 0x80, unsigned high = 0xBF) {
    return i < s.size() && at(i) >= low && at(i) <= high;
  };
  const unsigned lead = at(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return trail(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const unsigned low = lead == 0xE0 ? 0xA0 : 0x80;
    const unsigned high = lead == 0xED ? 0x9F : 0xBF;
    return trail(1, low, high) && trail(2) ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const unsigned low = lead == 0xF0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xF4 ? 0x8F : 0xBF;
    return trail(1, low, high) && trail(2) && trail(3) ? 4 : 0;
  }
  return 0;
}

/// Length of the printable character at the start of `s`, 0 when there is a control character or no character.
std::size_t printable_length(std::string_view s) {
  const auto byte = static_cast<unsigned char>(s[0]);
  if (byte < 0x20 || byte == 0x7F) return 0;
  const std::size_t length = utf8_sequence_length(s);
  const bool c1_control = length == 2 && byte == 0xC2 && static_cast<unsigned char>(s[1]) < 0xA0;
  return c1_control ? 0 : length;
}

}  // namespace

bool is_printable_utf8(std::string_view raw) {
  while (!raw.empty()) {
    const std::size_t length = raw[0] >= 0x20 && raw[0] < 0x7F ? 1 : printable_length(raw);  // nearly always ASCII
    if (length == 0) return false;
    raw.remove_prefix(length);
  }
  return true;
}

std::string escaped(std::string_view raw, std::size_t limit) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  std::size_t i = 0;
  while (i < raw.size() && i < limit) {
    const auto byte = static_cast<unsigned char>(raw[i]);
    const std::size_t length = printable_length(raw.substr(i));
    if (length == 0 || byte == '"' || byte == '\\') {
      out += "\\x";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
      i += 1;
    } else {
      out.append(raw.substr(i, length));
      i += length;
    }
  }
  if (i < raw.size()) out += "...";
  return out;
}

std::string human_bytes(std::uint64_t bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return cat(bytes, " B");
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit;
  }
  std::array<char, 32> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.2f %s", value, kUnits[unit]);
  return buffer.data();
}

}  // namespace ds4
