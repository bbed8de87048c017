// Building message text without iostreams: cat("tensor ", name, " at byte ", offset).
// Integers print in decimal, doubles with up to six significant digits, byte strings as they are.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace ds4 {

namespace text_detail {
void append(std::string& out, std::string_view piece);
void append_char(std::string& out, char piece);
void append_double(std::string& out, double piece);
void append_signed(std::string& out, std::int64_t piece);
void append_unsigned(std::string& out, std::uint64_t piece);

// A template, so that a string literal cannot decay to bool.
template <typename T>
  requires std::is_arithmetic_v<T>
void append(std::string& out, T piece) {
  if constexpr (std::same_as<T, bool>) append(out, piece ? std::string_view("true") : std::string_view("false"));
  else if constexpr (std::same_as<T, char>) append_char(out, piece);
  else if constexpr (std::floating_point<T>) append_double(out, static_cast<double>(piece));
  else if constexpr (std::is_signed_v<T>) append_signed(out, piece);
  else append_unsigned(out, piece);
}
}  // namespace text_detail

template <typename... Pieces>
[[nodiscard]] std::string cat(const Pieces&... pieces) {
  std::string out;
  (text_detail::append(out, pieces), ...);
  return out;
}

/// Bytes from outside made safe for a terminal or a log: control bytes, quotes and invalid UTF-8 become \xNN.
/// At most `limit` bytes of `raw` are shown, followed by "..." when cut.
[[nodiscard]] std::string escaped(std::string_view raw, std::size_t limit = 96);

/// True if `raw` is well-formed UTF-8 without control characters: fit to be a name.
[[nodiscard]] bool is_printable_utf8(std::string_view raw);

/// "80.76 GiB", "17.2 MiB", "512 B".
[[nodiscard]] std::string human_bytes(std::uint64_t bytes);

}  // namespace ds4
