#include "tokenizer/byte_map.h"

#include <gtest/gtest.h>

#include <set>

namespace ds4 {
namespace {

TEST(ByteMap, EveryByteHasItsOwnSymbol) {
  std::set<std::string> symbols;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string symbol = byte_symbol(static_cast<std::uint8_t>(byte));
    symbols.insert(symbol);
    std::string back;
    ASSERT_TRUE(append_mapped_bytes(symbol, back));
    EXPECT_EQ(back, std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(symbols.size(), 256u);
  EXPECT_EQ(byte_symbol(' '), "\u0120");
  EXPECT_EQ(byte_symbol('\n'), "\u010A");
  EXPECT_EQ(byte_symbol('!'), "!");
  EXPECT_EQ(byte_symbol(0xAD), "\u0143");
  EXPECT_EQ(byte_symbol(0xFF), "\u00FF");
}

TEST(ByteMap, OtherTextIsRefused) {
  for (const char* text : {" ", "a b", "\n", "\u00AD", "\u0144", "｜", "a\U0001F600", "\xC4", "\xC1\x81"}) {
    std::string out = "kept";
    EXPECT_FALSE(append_mapped_bytes(text, out)) << text;
    EXPECT_EQ(out, "kept");
  }
}

}  // namespace
}  // namespace ds4
