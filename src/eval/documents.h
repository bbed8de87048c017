// What models are judged on: texts as tokens, each read from a fresh start, and which of their tokens count. Values;
// any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "engine/engine.h"

namespace ds4::eval {

struct Document {
  std::vector<TokenId> tokens = {};        // no BOS
  std::vector<std::uint8_t> counted = {};  // for each of them 1 or 0; empty: all count
};

/// The prompts of a data set, divided as for an importance matrix (engine/imatrix.h), special tokens in the text
/// recognised. A BOS that a prompt begins with is dropped: every document starts behind one anyway. With `answers_only`
/// just what the assistant writes counts: after its marker, and after the <think> or </think> that the prompt puts
/// there, up to the end of the sentence, which is the answer's last token. `name` is the file in messages.
Result<std::vector<Document>> parse_dataset(std::string_view text, const Tokenizer& tokenizer, bool answers_only,
                                            const std::string& name);

/// Keeps the first `tokens` tokens of all documents together.
void limit_documents(std::vector<Document>& documents, std::int64_t tokens);

}  // namespace ds4::eval
