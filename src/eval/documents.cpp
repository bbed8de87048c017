#include "eval/documents.h"

#include <algorithm>

#include "base/text.h"
#include "chat/wire_text.h"
#include "engine/imatrix.h"

namespace ds4::eval {

namespace {

/// The markers around an answer.
struct AnswerMarks {
  TokenId assistant = 0;
  TokenId eos = 0;
  std::optional<TokenId> think, end_think;
};

std::vector<std::uint8_t> answers_of(std::span<const TokenId> tokens, const AnswerMarks& marks) {
  std::vector<std::uint8_t> counted(tokens.size());
  bool answer = false;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const bool asked =
        i > 0 && tokens[i - 1] == marks.assistant && (tokens[i] == marks.think || tokens[i] == marks.end_think);
    counted[i] = answer && !asked ? 1 : 0;
    answer = tokens[i] == marks.assistant || (answer && tokens[i] != marks.eos);
  }
  return counted;
}

}  // namespace

Result<std::vector<Document>> parse_dataset(std::string_view text, const Tokenizer& tokenizer, bool answers_only,
                                            const std::string& name) {
  AnswerMarks marks;
  if (answers_only) {
    const auto assistant = tokenizer.added_token(chat::wire::kAssistant);
    if (!assistant)
      return Error{ErrorCode::kUsage,
                   cat("the vocabulary has no ", chat::wire::kAssistant, ": answers cannot be told")};
    marks = {*assistant, tokenizer.eos(), tokenizer.added_token(chat::wire::kThink),
             tokenizer.added_token(chat::wire::kEndThink)};
  }
  std::vector<Document> documents;
  bool any = false;
  for (const std::string_view prompt : split_imatrix_dataset(text)) {
    Document document{tokenizer.encode_text(prompt, /*match_added=*/true)};
    if (document.tokens[0] == tokenizer.bos()) document.tokens.erase(document.tokens.begin());
    if (answers_only) document.counted = answers_of(document.tokens, marks);
    any = any || (answers_only ? std::ranges::count(document.counted, 1) > 0 : !document.tokens.empty());
    documents.push_back(std::move(document));
  }
  if (any) return documents;
  return Error{ErrorCode::kUsage, cat(escaped(name, 4096), ": expected ",
                                      answers_only ? cat("answers, each after ", chat::wire::kAssistant) : "text",
                                      ", found none in ", documents.size(), " documents")};
}

void limit_documents(std::vector<Document>& documents, std::int64_t tokens) {
  auto left = static_cast<std::size_t>(tokens);
  for (Document& document : documents) {
    if (document.tokens.size() > left) document.tokens.resize(left);
    if (document.counted.size() > left) document.counted.resize(left);
    left -= document.tokens.size();
  }
}

}  // namespace ds4::eval
