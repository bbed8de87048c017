// What a Tokenizer owns. Included by the files that make one: tokenizer.cpp and tokenizer_gguf.cpp.
#pragma once

#include <memory>

#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary.h"

namespace ds4 {

struct Tokenizer::Impl {
  explicit Impl(std::unique_ptr<const Vocabulary> checked) : vocabulary(std::move(checked)) {}
  std::unique_ptr<const Vocabulary> vocabulary;
};

}  // namespace ds4
