// GPT-2's byte map: vocabularies spell arbitrary bytes as printable text, one code point for each byte. Bytes 33-126,
// 161-172 and 174-255 are themselves; the other 68, in increasing order, are U+0100, U+0101, ... Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace ds4 {

/// The UTF-8 text that stands for one byte.
std::string byte_symbol(std::uint8_t byte);

/// Appends the bytes that `text` stands for. False, and nothing appended, when a code point of it stands for no byte.
bool append_mapped_bytes(std::string_view text, std::string& out);

}  // namespace ds4
