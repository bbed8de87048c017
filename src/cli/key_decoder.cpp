#include "cli/key_decoder.h"

#include <algorithm>
#include <utility>

namespace ds4::cli {

namespace {

constexpr std::string_view kPasteStart = "\x1b[200~";
constexpr std::string_view kPasteEnd = "\x1b[201~";

struct Sequence {
  std::string_view bytes;
  Key::Kind kind;
};
constexpr Sequence kSequences[] = {
    {"\x1b[A", Key::Kind::kUp},
    {"\x1b[B", Key::Kind::kDown},
    {"\x1b[C", Key::Kind::kRight},
    {"\x1b[D", Key::Kind::kLeft},
    {"\x1bOA", Key::Kind::kUp},
    {"\x1bOB", Key::Kind::kDown},
    {"\x1bOC", Key::Kind::kRight},
    {"\x1bOD", Key::Kind::kLeft},
    {"\x1b[H", Key::Kind::kHome},
    {"\x1b[F", Key::Kind::kEnd},
    {"\x1bOH", Key::Kind::kHome},
    {"\x1bOF", Key::Kind::kEnd},
    {"\x1b[1~", Key::Kind::kHome},
    {"\x1b[4~", Key::Kind::kEnd},
    {"\x1b[7~", Key::Kind::kHome},
    {"\x1b[8~", Key::Kind::kEnd},
    {"\x1b[3~", Key::Kind::kDelete},
    {"\x1b[1;5C", Key::Kind::kWordRight},
    {"\x1b[1;5D", Key::Kind::kWordLeft},
    {"\x1b[1;3C", Key::Kind::kWordRight},
    {"\x1b[1;3D", Key::Kind::kWordLeft},
    {"\x1b"
     "b",
     Key::Kind::kWordLeft},
    {"\x1b"
     "f",
     Key::Kind::kWordRight},
    {"\x1b\x7f", Key::Kind::kKillWord},
};

constexpr std::pair<char, Key::Kind> kControls[] = {
    {'\r', Key::Kind::kEnter},     {'\n', Key::Kind::kEnter},     {'\t', Key::Kind::kTab},
    {0x01, Key::Kind::kHome},      {0x05, Key::Kind::kEnd},       {0x02, Key::Kind::kLeft},
    {0x06, Key::Kind::kRight},     {0x10, Key::Kind::kUp},        {0x0E, Key::Kind::kDown},
    {0x08, Key::Kind::kBackspace}, {0x7F, Key::Kind::kBackspace}, {0x0B, Key::Kind::kKillRest},
    {0x15, Key::Kind::kKillLine},  {0x17, Key::Kind::kKillWord},  {0x03, Key::Kind::kInterrupt},
    {0x04, Key::Kind::kEndOfFile}, {0x0C, Key::Kind::kRedraw},
};

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; }

std::size_t expected_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
}

/// How much of `text` may be handed out: all of it but an unfinished character at its end.
std::size_t whole_characters(std::string_view text) {
  for (std::size_t back = 1; back <= std::min<std::size_t>(3, text.size()); ++back) {
    const char c = text[text.size() - back];
    if ((static_cast<unsigned char>(c) & 0xC0) == 0x80) continue;
    return expected_length(c) > back ? text.size() - back : text.size();
  }
  return text.size();
}

/// Terminals send carriage returns for the line ends of a paste.
std::string paste_text(std::string_view raw) {
  std::string out;
  for (std::size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] == '\r') {
      out += '\n';
      if (i + 1 < raw.size() && raw[i + 1] == '\n') ++i;
    } else if (!is_control(raw[i]) || raw[i] == '\n' || raw[i] == '\t') {
      out += raw[i];
    }
  }
  return out;
}

}  // namespace

std::vector<Key> KeyDecoder::feed(std::string_view bytes) {
  pending_ += bytes;
  std::vector<Key> keys;
  while (!pending_.empty() && step(keys)) {
  }
  return keys;
}

std::vector<Key> KeyDecoder::idle() {
  if (pasting_ || pending_ != "\x1b") return {};
  pending_.clear();
  return {{Key::Kind::kEscape}};
}

/// Takes one key from the pending bytes; false when more bytes are needed.
bool KeyDecoder::step(std::vector<Key>& keys) {
  if (pasting_) {
    const std::size_t end = pending_.find(kPasteEnd);
    if (end == std::string::npos) return false;
    keys.push_back({Key::Kind::kPaste, paste_text(std::string_view(pending_).substr(0, end))});
    pending_.erase(0, end + kPasteEnd.size());
    pasting_ = false;
    return true;
  }
  const char first = pending_[0];
  if (first == '\x1b') return escape_sequence(keys);
  if (is_control(first)) {
    for (const auto& [control, kind] : kControls) {
      if (control == first) keys.push_back({kind});
    }
    pending_.erase(0, 1);
    return true;
  }
  const std::size_t run = static_cast<std::size_t>(std::ranges::find_if(pending_, is_control) - pending_.begin());
  const std::size_t whole = run < pending_.size() ? run : whole_characters(pending_);
  if (whole == 0) return false;
  keys.push_back({Key::Kind::kText, pending_.substr(0, whole)});
  pending_.erase(0, whole);
  return true;
}

bool KeyDecoder::escape_sequence(std::vector<Key>& keys) {
  if (pending_.starts_with(kPasteStart)) {
    pasting_ = true;
    pending_.erase(0, kPasteStart.size());
    return true;
  }
  for (const Sequence& sequence : kSequences) {
    if (!pending_.starts_with(sequence.bytes)) continue;
    keys.push_back({sequence.kind});
    pending_.erase(0, sequence.bytes.size());
    return true;
  }
  if (pending_.size() < 2) return false;
  // An unknown sequence is swallowed whole: its letters are not text.
  const bool control_sequence = pending_[1] == '[';
  std::size_t end = 2;
  if (control_sequence) {
    while (end < pending_.size() && (pending_[end] < 0x40 || pending_[end] > 0x7E)) ++end;
    if (end == pending_.size()) return false;
    ++end;
  } else if (pending_[1] == 'O') {
    if (pending_.size() < 3) return false;
    end = 3;
  }
  pending_.erase(0, end);
  return true;
}

}  // namespace ds4::cli
