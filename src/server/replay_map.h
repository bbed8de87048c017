// What the model wrote for a block of tool calls, by the ids that its calls were given. A client sends calls back as
// JSON, in its own order and spacing; with these bytes the prompt is what the model has already computed. Bounded in
// ids and bytes, the oldest go first. Where states are kept on disk, these bytes are kept beside them
// (docs/formats/call-log.md). Any thread.
#pragma once

#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "chat/message.h"
#include "tokenizer/segment.h"

namespace ds4::server {

struct RecordedCalls {
  std::vector<chat::ToolCall> calls;
  Prompt block;
  std::string reasoning;  // that came before; some clients do not bring it back
};

/// As they are kept on disk, and back; nothing when these bytes are not such calls.
std::string encode_calls(const RecordedCalls& calls);
std::optional<RecordedCalls> decode_calls(std::string_view bytes);

class ReplayMap {
 public:
  explicit ReplayMap(std::size_t max_ids = 100000, std::size_t max_bytes = std::size_t{64} << 20)
      : max_ids_(max_ids), max_bytes_(max_bytes) {}

  void add(RecordedCalls calls);
  /// What is added is given to `keep` as well, which must not block. Before anything is added.
  void keep_with(std::function<void(std::string)> keep) { keep_ = std::move(keep); }
  /// What was kept, by this process or another; false when it is not what encode_calls() writes.
  bool add_kept(std::string_view bytes);
  /// Puts the recorded bytes on every assistant message whose calls are the recorded ones: the same ids, names and
  /// arguments, whatever the order of their keys. Returns how many were.
  int restore(chat::Conversation& conversation);

 private:
  struct Entry {
    std::shared_ptr<const RecordedCalls> calls;
    std::size_t bytes = 0;
  };
  std::shared_ptr<const RecordedCalls> find(const std::string& id);
  void insert(RecordedCalls calls);

  std::size_t max_ids_, max_bytes_;
  std::function<void(std::string)> keep_;
  std::mutex mutex_;
  std::list<Entry> order_;  // the oldest first
  std::unordered_map<std::string, std::list<Entry>::iterator> by_id_;
  std::size_t bytes_ = 0;
};

}  // namespace ds4::server
