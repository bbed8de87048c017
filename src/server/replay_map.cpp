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

}  // namespace

void ReplayMap::add(RecordedCalls calls) {
  Entry entry;
  entry.bytes = calls.reasoning.size() + sizeof(RecordedCalls);
  for (const PromptSegment& segment : calls.block) entry.bytes += 2 * segment.bytes.size() + sizeof segment;
  entry.calls = std::make_shared<const RecordedCalls>(std::move(calls));
  const std::lock_guard lock(mutex_);
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
