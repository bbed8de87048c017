// A prompt as typed byte segments: what may become a control token is decided by type, never by content.
// Made by chat/ (or by a caller with raw text), consumed by Tokenizer::encode and Session::sync.
#pragma once

#include <string>
#include <vector>

namespace ds4 {

enum class SegmentKind {
  kMarker,     // the exact text of one added token, such as "<｜User｜>"; becomes that token
  kTrusted,    // text of ours or of the operator; added tokens in it are matched
  kUntrusted,  // text from users, tools and files; never yields an added token
};

/// Adjacent text segments form one run for the pre-tokenizer, as if they were one string: only a marker (or an added
/// token matched in trusted text) ends a run.
struct PromptSegment {
  SegmentKind kind;
  std::string bytes;
  bool operator==(const PromptSegment&) const = default;
};

using Prompt = std::vector<PromptSegment>;

}  // namespace ds4
