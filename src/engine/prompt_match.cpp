#include "engine/prompt_match.h"

#include <algorithm>

#include "base/text.h"

namespace ds4 {

namespace {

/// Collects pieces; adjacent text becomes one run.
class PieceList {
 public:
  void add_marker(TokenId id) { pieces_.push_back({id, {}, false}); }
  void add_text(std::string_view bytes, bool untrusted) {
    if (bytes.empty()) return;
    if (pieces_.empty() || pieces_.back().marker) pieces_.emplace_back();
    pieces_.back().text.append(bytes);
    pieces_.back().untrusted |= untrusted;
  }
  /// Trusted text: the added tokens that it spells are markers.
  void add_trusted(const Tokenizer& tokenizer, std::string_view text) {
    std::size_t done = 0;
    for (const Tokenizer::AddedMatch& match : tokenizer.find_added(text)) {
      add_text(text.substr(done, match.begin - done), false);
      add_marker(match.id);
      done = match.begin + tokenizer.token_bytes(match.id).size();
    }
    add_text(text.substr(done), false);
  }
  std::vector<PromptPiece> take() { return std::move(pieces_); }

 private:
  std::vector<PromptPiece> pieces_;
};

}  // namespace

bool pass(const Tokenizer& tokenizer, std::span<const PromptPiece> pieces, TokenId token, Place& place) {
  if (place.index == pieces.size()) return false;
  const PromptPiece& piece = pieces[place.index];
  if (piece.marker || tokenizer.is_added(token)) {
    if (piece.marker != token) return false;
    place = {place.index + 1, 0};
    return true;
  }
  const std::string_view bytes = tokenizer.token_bytes(token);
  if (bytes.empty() || std::string_view(piece.text).substr(place.offset, bytes.size()) != bytes) return false;
  place.offset += bytes.size();
  if (place.offset == piece.text.size()) place = {place.index + 1, 0};
  return true;
}

Result<std::vector<PromptPiece>> cut_prompt(const Tokenizer& tokenizer, std::span<const PromptSegment> prompt) {
  PieceList list;
  std::string trusted;  // adjacent trusted segments are one text: an added token may lie across their border
  const auto flush = [&] {
    list.add_trusted(tokenizer, trusted);
    trusted.clear();
  };
  for (const PromptSegment& segment : prompt) {
    if (segment.bytes.empty()) continue;
    if (segment.kind == SegmentKind::kTrusted) {
      trusted += segment.bytes;
      continue;
    }
    flush();
    if (segment.kind == SegmentKind::kUntrusted) {
      list.add_text(segment.bytes, true);
      continue;
    }
    const std::optional<TokenId> id = tokenizer.added_token(segment.bytes);
    if (!id) {
      return Error{ErrorCode::kBadModel,
                   cat("the prompt needs the token \"", escaped(segment.bytes), "\", which this vocabulary lacks")};
    }
    list.add_marker(*id);
  }
  flush();
  return list.take();
}

namespace {

/// The index of the piece whose first token is the start of the turn; npos when nothing is from outside.
std::size_t turn_piece(std::span<const PromptPiece> pieces) {
  const auto last = std::find_if(pieces.rbegin(), pieces.rend(), [](const PromptPiece& p) { return p.untrusted; });
  return static_cast<std::size_t>(pieces.rend() - last) - 1;
}

/// How far a timeline carries.
struct Walk {
  std::int64_t kept = 0;
  Place resume;
  std::int64_t turn_start = 0;
};

Walk walk(const Tokenizer& tokenizer, std::span<const PromptPiece> pieces, std::size_t turn, const Timeline& timeline) {
  Walk out;
  Place place;
  for (std::int64_t i = 0; i < timeline.size() && pass(tokenizer, pieces, timeline[i], place); ++i) {
    if (place.offset != 0 && !timeline.sampled(i)) continue;
    out.kept = i + 1;
    out.resume = place;
    if (place.offset == 0 && place.index == turn) out.turn_start = out.kept;
  }
  return out;
}

}  // namespace

PromptTokens match_prompt(const Tokenizer& tokenizer, std::span<const PromptPiece> pieces,
                          std::span<const Timeline* const> timelines) {
  const std::size_t turn = turn_piece(pieces);
  Walk best;
  const Timeline* from = nullptr;
  for (const Timeline* timeline : timelines) {
    const Walk found = walk(tokenizer, pieces, turn, *timeline);
    if (found.kept <= best.kept) continue;
    best = found;
    from = timeline;
  }

  PromptTokens out;
  out.kept = best.kept;
  out.turn_start = best.turn_start;
  for (std::int64_t i = 0; i < best.kept; ++i) {
    out.tokens.push_back((*from)[i]);
    out.sampled.push_back(from->sampled(i));
  }
  for (Place at = best.resume; at.index < pieces.size(); at = {at.index + 1, 0}) {
    const PromptPiece& piece = pieces[at.index];
    if (at.offset == 0 && at.index == turn) out.turn_start = static_cast<std::int64_t>(out.tokens.size());
    if (piece.marker) {
      out.tokens.push_back(*piece.marker);
      continue;
    }
    const std::vector<TokenId> rest = tokenizer.encode_text(std::string_view(piece.text).substr(at.offset), false);
    out.tokens.insert(out.tokens.end(), rest.begin(), rest.end());
  }
  return out;
}

PromptTokens match_prompt(const Tokenizer& tokenizer, std::span<const PromptPiece> pieces, const Timeline& timeline) {
  const Timeline* one = &timeline;
  return match_prompt(tokenizer, pieces, std::span(&one, 1));
}

}  // namespace ds4
