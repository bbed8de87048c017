#include "tokenizer/text_unit.h"

#include <utf8proc.h>

#include <array>

namespace ds4 {

namespace {

std::uint8_t category_properties(utf8proc_category_t category) {
  switch (category) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return kLetter;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
      return kMark;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return kNumber;
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
    case UTF8PROC_CATEGORY_SM:
    case UTF8PROC_CATEGORY_SC:
    case UTF8PROC_CATEGORY_SK:
    case UTF8PROC_CATEGORY_SO:
      return kPunctuation;
    default:
      return 0;
  }
}

/// The White_Space property; general category Z would lose the control characters (tab, newline, U+0085).
bool is_white_space(std::int32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

std::uint8_t code_point_properties(std::int32_t code) {
  std::uint8_t out = category_properties(utf8proc_category(code));
  if (is_white_space(code)) out |= kSpace;
  if (code == '\r' || code == '\n') out |= kNewline;
  if ((code >= 0x4E00 && code <= 0x9FA5) || (code >= 0x3040 && code <= 0x30FF)) out |= kCjk;
  return out;
}

std::array<std::uint8_t, 128> ascii_properties() {
  std::array<std::uint8_t, 128> out{};
  for (std::int32_t code = 0; code < 128; ++code) out[code] = code_point_properties(code);
  return out;
}

}  // namespace

TextUnit text_unit_at(std::string_view text, std::size_t at) {
  static const std::array<std::uint8_t, 128> kAscii = ascii_properties();
  const auto lead = static_cast<std::uint8_t>(text[at]);
  if (lead < 128) return {1, kAscii[lead]};
  utf8proc_int32_t code = -1;
  const auto rest = static_cast<utf8proc_ssize_t>(text.size() - at);
  const utf8proc_ssize_t length =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at), rest, &code);
  if (length <= 0) return {1, 0};
  return {static_cast<std::uint8_t>(length), code_point_properties(code)};
}

}  // namespace ds4
