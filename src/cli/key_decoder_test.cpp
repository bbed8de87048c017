#include "cli/key_decoder.h"

#include <gtest/gtest.h>

namespace ds4::cli {
namespace {

using Kind = Key::Kind;
using Keys = std::vector<Key>;

/// Neighbouring text joined: how a run was cut does not matter.
Keys joined(const Keys& keys) {
  Keys out;
  for (const Key& key : keys) {
    if (key.kind == Kind::kText && !out.empty() && out.back().kind == Kind::kText) out.back().text += key.text;
    else out.push_back(key);
  }
  return out;
}

Keys decode(std::string_view bytes) {
  KeyDecoder decoder;
  return joined(decoder.feed(bytes));
}

TEST(KeyDecoder, KnowsItsKeys) {
  EXPECT_EQ(decode("hi\r"), (Keys{{Kind::kText, "hi"}, {Kind::kEnter}}));
  EXPECT_EQ(decode("\x1b[A\x1bOB\x1b[1;5C\x1b[3~"),
            (Keys{{Kind::kUp}, {Kind::kDown}, {Kind::kWordRight}, {Kind::kDelete}}));
  EXPECT_EQ(decode("\x01\x05\x0b\x15\x17\x03\x04\x7f"), (Keys{{Kind::kHome},
                                                              {Kind::kEnd},
                                                              {Kind::kKillRest},
                                                              {Kind::kKillLine},
                                                              {Kind::kKillWord},
                                                              {Kind::kInterrupt},
                                                              {Kind::kEndOfFile},
                                                              {Kind::kBackspace}}));
}

TEST(KeyDecoder, UnknownSequencesAreNotText) {
  EXPECT_EQ(decode("a\x1b[1;2Hb\x1b[99~c\x1bOPd"), (Keys{{Kind::kText, "abcd"}}));
  EXPECT_EQ(decode("a\x1bxb\x1c"), (Keys{{Kind::kText, "ab"}}));
}

TEST(KeyDecoder, PastedLinesAreText) {
  EXPECT_EQ(decode("\x1b[200~one\rtwo\r\nthree\x1b[A\x03\x1b[201~\r"),
            (Keys{{Kind::kPaste, "one\ntwo\nthree[A"}, {Kind::kEnter}}));
}

TEST(KeyDecoder, ALoneEscapeIsAKeyWhenNothingFollows) {
  KeyDecoder decoder;
  EXPECT_TRUE(decoder.feed("\x1b").empty());
  EXPECT_EQ(decoder.idle(), (Keys{{Kind::kEscape}}));
  EXPECT_TRUE(decoder.idle().empty());
  EXPECT_TRUE(decoder.feed("\x1b[").empty());
  EXPECT_EQ(decoder.feed("A"), (Keys{{Kind::kUp}}));
}

TEST(KeyDecoder, AnyCutOfTheBytesGivesTheSameKeys) {
  const std::string bytes =
      "h\xC3\xA9\xE6\x97\xA5\xF0\x9F\x98\x80\x1b[A\x1b[200~p\xC3\xA9\r\nq\x1b[201~\x1b[1;5D\x1b[42;7Z\xFFz\r";
  const Keys whole = decode(bytes);
  for (std::size_t a = 0; a <= bytes.size(); ++a) {
    for (std::size_t b = a; b <= bytes.size(); ++b) {
      KeyDecoder decoder;
      Keys keys;
      for (const std::string& part : {bytes.substr(0, a), bytes.substr(a, b - a), bytes.substr(b)}) {
        for (Key& key : decoder.feed(part)) keys.push_back(std::move(key));
      }
      ASSERT_EQ(joined(keys), whole) << a << " " << b;
    }
  }
}

}  // namespace
}  // namespace ds4::cli
