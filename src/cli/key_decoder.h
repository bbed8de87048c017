// Bytes from a terminal in raw mode, as keys. Sequences may be cut anywhere between two calls of feed().
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ds4::cli {

struct Key {
  enum class Kind {
    kText,   // whole characters to insert
    kPaste,  // text of a bracketed paste; line feeds in it are text
    kEnter,
    kTab,
    kEscape,
    kLeft,
    kRight,
    kUp,
    kDown,
    kHome,
    kEnd,
    kWordLeft,
    kWordRight,
    kBackspace,
    kDelete,
    kKillLine,   // ^U: to the start
    kKillRest,   // ^K
    kKillWord,   // ^W
    kInterrupt,  // ^C
    kEndOfFile,  // ^D
    kRedraw,     // ^L
  };
  Kind kind;
  std::string text = {};
  bool operator==(const Key&) const = default;
};

class KeyDecoder {
 public:
  std::vector<Key> feed(std::string_view bytes);
  /// No more bytes for a while: a lone escape was the key of that name.
  std::vector<Key> idle();

 private:
  bool step(std::vector<Key>& keys);
  bool escape_sequence(std::vector<Key>& keys);

  std::string pending_;
  bool pasting_ = false;
};

}  // namespace ds4::cli
