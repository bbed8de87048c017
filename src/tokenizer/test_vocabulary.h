// Vocabularies for tests: small ones made in place, and the ones in files (testdata/README.md has the format).
#pragma once

#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "base/text.h"
#include "tokenizer/byte_map.h"
#include "tokenizer/tokenizer.h"

namespace ds4::testing_data {

constexpr std::int32_t kNormalType = 1, kControlType = 3, kUserDefinedType = 4, kUnusedType = 5;

/// The 256 byte symbols (byte b is token b), then the results of the merges, then the added tokens.
inline Tokenizer::Tables small_tables(const std::vector<std::string>& merges, const std::vector<std::string>& added) {
  Tokenizer::Tables out;
  for (int byte = 0; byte < 256; ++byte) out.tokens.push_back(byte_symbol(static_cast<std::uint8_t>(byte)));
  for (const std::string& merge : merges) {
    const std::size_t space = merge.find(' ');
    out.tokens.push_back(merge.substr(0, space) + merge.substr(space + 1));
  }
  out.types.assign(out.tokens.size(), kNormalType);
  for (const std::string& text : added) {
    out.tokens.push_back(text);
    out.types.push_back(out.tokens.size() % 2 == 0 ? kControlType : kUserDefinedType);
  }
  out.merges = merges;
  return out;
}

inline Tokenizer must_build(Tokenizer::Tables tables) {
  auto result = Tokenizer::from_tables(std::move(tables), "test");
  if (!result.ok()) throw std::runtime_error(result.error().message);
  return std::move(result).value();
}

/// "FOLDER/vocabulary.txt". Ids that the file leaves out become unused tokens.
inline Tokenizer::Tables read_vocabulary(const std::string& folder) {
  Tokenizer::Tables out;
  const auto put = [&](std::size_t id, const std::string& text, std::int32_t type) {
    while (out.tokens.size() <= id) {
      out.tokens.push_back(cat("unused ", out.tokens.size()));
      out.types.push_back(kUnusedType);
    }
    out.tokens[id] = text;
    out.types[id] = type;
  };
  std::ifstream in(folder + "/vocabulary.txt", std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + folder + "/vocabulary.txt");
  std::string section;
  for (std::string line; std::getline(in, line);) {
    const std::size_t space = line.find(' ');
    if (space == std::string::npos) {
      section = line;
      continue;
    }
    const std::size_t id = std::stoul(line);
    std::string text = line.substr(space + 1);
    if (section == "merges") {
      out.merges.push_back(text);
      text.erase(text.find(' '), 1);
    }
    put(id, text, section == "added" ? kControlType : kNormalType);
  }
  return out;
}

}  // namespace ds4::testing_data
