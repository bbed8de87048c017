// Lets whole UTF-8 characters through. The bytes of an unfinished character wait (at most three); what cannot become a
// character is replaced by U+FFFD, once per maximal well-formed beginning (Unicode 3.9), wherever the input was cut.
#pragma once

#include <string>
#include <string_view>

namespace ds4::chat {

class Utf8Gate {
 public:
  void push(std::string_view bytes, std::string& out);
  /// An unfinished character becomes U+FFFD; the gate is as new.
  void finish(std::string& out);

 private:
  void lead(unsigned char byte, std::string& out);

  std::string waiting_;
  int missing_ = 0;                         // continuation bytes still to come
  unsigned char low_ = 0x80, high_ = 0xBF;  // the range of the next one
};

[[nodiscard]] std::string valid_utf8(std::string_view bytes);

}  // namespace ds4::chat
