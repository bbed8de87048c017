#include "chat/utf8_gate.h"

namespace ds4::chat {

namespace {
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
}

void Utf8Gate::push(std::string_view bytes, std::string& out) {
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (missing_ == 0) {
      lead(byte, out);
    } else if (byte >= low_ && byte <= high_) {
      waiting_ += c;
      low_ = 0x80;
      high_ = 0xBF;
      if (--missing_ == 0) {
        out += waiting_;
        waiting_.clear();
      }
    } else {
      finish(out);
      lead(byte, out);
    }
  }
}

void Utf8Gate::finish(std::string& out) {
  if (missing_ > 0) out += kReplacement;
  missing_ = 0;
  waiting_.clear();
}

/// Unicode table 3-7: the second byte of some sequences has a narrower range.
void Utf8Gate::lead(unsigned char byte, std::string& out) {
  if (byte < 0x80) {
    out += static_cast<char>(byte);
    return;
  }
  if (byte < 0xC2 || byte > 0xF4) {
    out += kReplacement;
    return;
  }
  missing_ = byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
  low_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  high_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
  waiting_ = static_cast<char>(byte);
}

std::string valid_utf8(std::string_view bytes) {
  Utf8Gate gate;
  std::string out;
  gate.push(bytes, out);
  gate.finish(out);
  return out;
}

}  // namespace ds4::chat
