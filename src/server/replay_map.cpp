#include "server/replay_map.h"

#include <nlohmann/json.hpp>

namespace ds4::server {

namespace {

bool same_json(const std::string& a, const std::string& b) {
  if (a == b) return true;
  const auto left = nlohmann::json::parse(a, nullptr, false);
  const auto right = nlohmann::json::parse(b, nullptr, false);
  return !left.is_discarded() && left == right;
}

bool same_calls(const std::vector<chat::ToolCall>& a, const std::vector<chat::ToolCall>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].id != b[i].id || a[i].name != b[i].name || !same_json(a[i].arguments, b[i].arguments)) return false;
  }
  return true;
}

void put_number(std::string& out, std::size_t value) {
  for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>(value >> shift & 0xff);
}

void put_text(std::string& out, std::string_view text) {
  put_number(out, text.size());
  out += text;
}

/// Takes from the front of `bytes`; after the first value that is not there nothing is taken any more.
struct Taker {
  std::string_view bytes;
  bool ok = true;

  std::size_t number() {
    ok = ok && bytes.size() >= 4;
    if (!ok) return 0;
    std::size_t value = 0;
    for (std::size_t i = 0; i < 4; ++i)
      value |= static_cast<std::size_t>(static_cast<unsigned char>(bytes[i])) << 8 * i;
    bytes.remove_prefix(4);
    return value;
  }
  std::string text() {
    const std::size_t size = number();
    ok = ok && size <= bytes.size();
    if (!ok) return {};
    std::string out(bytes.substr(0, size));
    bytes.remove_prefix(size);
    return out;
  }
};

}  // namespace

std::string encode_calls(const RecordedCalls& calls) {
  std::string out;
  put_number(out, calls.calls.size());
  for (const chat::ToolCall& call : calls.calls) {
    put_text(out, call.id);
    put_text(out, call.name);
    put_text(out, call.arguments);
  }
  put_number(out, calls.block.size());
  for (const PromptSegment& segment : calls.block) {
    put_number(out, segment.kind == SegmentKind::kMarker ? 1 : 0);
    put_text(out, segment.bytes);
  }
  put_text(out, calls.reasoning);
  return out;
}

std::optional<RecordedCalls> decode_calls(std::string_view bytes) {
  Taker taker{bytes};
  RecordedCalls out;
  for (std::size_t left = taker.number(); taker.ok && left > 0; --left) {
    chat::ToolCall& call = out.calls.emplace_back();
    call.id = taker.text();
    call.name = taker.text();
    call.arguments = taker.text();
  }
  for (std::size_t left = taker.number(); taker.ok && left > 0; --left) {
    const std::size_t kind = taker.number();
    taker.ok = taker.ok && kind <= 1;
    // Written by the model: only what was a control token is one.
    out.block.push_back({kind == 1 ? SegmentKind::kMarker : SegmentKind::kUntrusted, taker.text()});
  }
  out.reasoning = taker.text();
  if (!taker.ok || !taker.bytes.empty() || out.calls.empty() || out.block.empty()) return std::nullopt;
  return out;
}

void ReplayMap::add(RecordedCalls calls) {
  if (keep_) keep_(encode_calls(calls));
  insert(std::move(calls));
}

bool ReplayMap::add_kept(std::string_view bytes) {
  std::optional<RecordedCalls> calls = decode_calls(bytes);
  if (calls) insert(std::move(*calls));
  return calls.has_value();
}

void ReplayMap::insert(RecordedCalls calls) {
  Entry entry;
  entry.bytes = calls.reasoning.size() + sizeof(RecordedCalls);
  for (const PromptSegment& segment : calls.block) entry.bytes += 2 * segment.bytes.size() + sizeof segment;
  entry.calls = std::make_shared<const RecordedCalls>(std::move(calls));
  const std::lock_guard lock(mutex_);
  for (const chat::ToolCall& call : entry.calls->calls) {
    if (by_id_.contains(call.id)) return;  // what this process said itself, from the disk
  }
  bytes_ += entry.bytes;
  order_.push_back(entry);
  for (const chat::ToolCall& call : entry.calls->calls) by_id_[call.id] = std::prev(order_.end());
  while (!order_.empty() && (bytes_ > max_bytes_ || by_id_.size() > max_ids_)) {
    for (const chat::ToolCall& call : order_.front().calls->calls) by_id_.erase(call.id);
    bytes_ -= order_.front().bytes;
    order_.pop_front();
  }
}

std::shared_ptr<const RecordedCalls> ReplayMap::find(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return nullptr;
  order_.splice(order_.end(), order_, found->second);
  return found->second->calls;
}

int ReplayMap::restore(chat::Conversation& conversation) {
  int restored = 0;
  for (chat::Message& message : conversation) {
    if (message.tool_calls.empty()) continue;
    const auto recorded = find(message.tool_calls.front().id);
    if (recorded == nullptr || !same_calls(recorded->calls, message.tool_calls)) continue;
    message.tool_block = recorded->block;
    if (message.reasoning.empty()) message.reasoning = recorded->reasoning;
    ++restored;
  }
  return restored;
}

}  // namespace ds4::server
