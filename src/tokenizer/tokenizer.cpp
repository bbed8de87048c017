#include "tokenizer/tokenizer.h"

#include <algorithm>

#include "base/text.h"
#include "tokenizer/bpe.h"
#include "tokenizer/split.h"
#include "tokenizer/tokenizer_impl.h"
#include "tokenizer/vocabulary.h"

namespace ds4 {

namespace {

/// Adjacent text segments, joined. Trusted ranges are in order and do not touch each other.
class TextRun {
 public:
  void append(std::string_view bytes, bool trusted) {
    const std::size_t begin = text_.size();
    text_ += bytes;
    if (!trusted) return;
    if (!trusted_.empty() && trusted_.back().end == begin)
      trusted_.back().end = text_.size();
    else
      trusted_.push_back({begin, text_.size()});
  }
  void clear() {
    text_.clear();
    trusted_.clear();
  }

  struct Range {
    std::size_t begin, end;
  };
  std::string_view text() const { return text_; }
  std::span<const Range> trusted() const { return trusted_; }

 private:
  std::string text_;
  std::vector<Range> trusted_;
};

/// One encode call: appends the tokens of runs and markers to `out`.
class Encoder {
 public:
  Encoder(const Vocabulary& vocabulary, std::vector<TokenId>& out)
      : vocabulary_(vocabulary), pieces_(vocabulary.merges()), out_(out) {}

  void encode_run(std::string_view text, std::span<const TextRun::Range> trusted) {
    std::size_t done = 0;
    for (const auto& range : trusted) {
      std::size_t from = range.begin;
      while (const auto match = vocabulary_.added().find(text, from, range.end)) {
        encode_plain(text.substr(done, match->begin - done));
        out_.push_back(match->token.id);
        done = from = match->begin + match->token.text.size();
      }
    }
    encode_plain(text.substr(done));
  }

 private:
  void encode_plain(std::string_view text) {
    split_into_pieces(text, [this](std::string_view piece) {
      symbols_.resize(piece.size());
      std::transform(piece.begin(), piece.end(), symbols_.begin(),
                     [this](char byte) { return vocabulary_.byte_token(static_cast<std::uint8_t>(byte)); });
      pieces_.encode(symbols_, out_);
    });
  }

  const Vocabulary& vocabulary_;
  PieceEncoder pieces_;
  std::vector<TokenId> symbols_;
  std::vector<TokenId>& out_;
};

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::from_tables(Tables tables, const std::string& name) {
  const std::vector<std::string_view> tokens(tables.tokens.begin(), tables.tokens.end());
  const std::vector<std::string_view> merges(tables.merges.begin(), tables.merges.end());
  const auto refuse = [&](std::string_view key, std::string_view what) {
    return Error{ErrorCode::kBadModel, cat(escaped(name, 4096), ": ", key, ": ", what)};
  };
  DS4_ASSIGN_OR_RETURN(auto vocabulary,
                       Vocabulary::build({tokens, tables.types, merges, tables.bos, tables.eos}, refuse));
  return Tokenizer(std::make_unique<Impl>(std::move(vocabulary)));
}

Result<std::vector<TokenId>> Tokenizer::encode(std::span<const PromptSegment> prompt) const {
  std::vector<TokenId> out;
  Encoder encoder(*impl_->vocabulary, out);
  TextRun run;
  for (const PromptSegment& segment : prompt) {
    if (segment.kind != SegmentKind::kMarker) {
      run.append(segment.bytes, segment.kind == SegmentKind::kTrusted);
      continue;
    }
    const auto id = added_token(segment.bytes);
    if (!id) {
      return Error{ErrorCode::kBadModel,
                   cat("prompt marker \"", escaped(segment.bytes), "\": expected an added token of the vocabulary, ",
                       "found none with this text")};
    }
    encoder.encode_run(run.text(), run.trusted());
    run.clear();
    out.push_back(*id);
  }
  encoder.encode_run(run.text(), run.trusted());
  return out;
}

std::vector<TokenId> Tokenizer::encode_text(std::string_view text, bool match_added) const {
  std::vector<TokenId> out;
  const TextRun::Range all{0, text.size()};
  Encoder(*impl_->vocabulary, out).encode_run(text, std::span(&all, match_added ? 1 : 0));
  return out;
}

std::vector<Tokenizer::AddedMatch> Tokenizer::find_added(std::string_view text) const {
  std::vector<AddedMatch> out;
  std::size_t from = 0;
  while (const auto match = impl_->vocabulary->added().find(text, from, text.size())) {
    out.push_back({match->begin, match->token.id});
    from = match->begin + match->token.text.size();
  }
  return out;
}

std::string_view Tokenizer::token_bytes(TokenId id) const {
  return impl_->vocabulary->contains(id) ? impl_->vocabulary->bytes(id) : std::string_view();
}

std::string Tokenizer::decode(std::span<const TokenId> ids) const {
  std::string out;
  for (const TokenId id : ids) out += token_bytes(id);
  return out;
}

std::optional<TokenId> Tokenizer::added_token(std::string_view text) const {
  return impl_->vocabulary->added().id_of(text);
}

bool Tokenizer::is_added(TokenId id) const {
  return impl_->vocabulary->contains(id) && impl_->vocabulary->is_added(id);
}

TokenId Tokenizer::bos() const { return impl_->vocabulary->bos(); }
TokenId Tokenizer::eos() const { return impl_->vocabulary->eos(); }
std::int32_t Tokenizer::vocab_size() const { return impl_->vocabulary->size(); }

}  // namespace ds4
