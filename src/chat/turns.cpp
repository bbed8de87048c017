#include "chat/turns.h"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <unordered_map>
#include <utility>

namespace ds4::chat {

namespace {

using CallOrder = std::unordered_map<std::string, std::size_t>;

CallOrder order_of(const std::vector<ToolCall>& calls) {
  CallOrder order;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    if (!calls[i].id.empty()) order[calls[i].id] = i;
  }
  return order;
}

/// Results move among their own places; the text blocks between them stay where they are.
void sort_results(std::vector<ContentBlock>& blocks, const CallOrder& order) {
  const auto rank = [&](const ContentBlock& block) {
    const auto found = order.find(block.call_id);
    return found == order.end() ? std::size_t{0} : found->second;
  };
  std::vector<std::size_t> places;
  std::vector<std::pair<std::size_t, std::size_t>> ranked;  // rank, place: equal ranks keep their order
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].kind != ContentBlock::Kind::kToolResult) continue;
    places.push_back(i);
    ranked.emplace_back(rank(blocks[i]), i);
  }
  if (places.size() < 2 || order.empty()) return;
  std::sort(ranked.begin(), ranked.end());
  std::vector<ContentBlock> results;
  results.reserve(places.size());
  for (const auto& [by_call, place] : ranked) results.push_back(std::move(blocks[place]));
  for (std::size_t i = 0; i < places.size(); ++i) blocks[places[i]] = std::move(results[i]);
}

Message user_turn(std::vector<ContentBlock> blocks) {
  Message turn;
  turn.role = Role::kUser;
  turn.content = std::move(blocks);
  return turn;
}

void append(std::vector<ContentBlock>& to, std::vector<ContentBlock> from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

Conversation merge_turns(Conversation conversation) {
  Conversation turns;
  turns.reserve(conversation.size());
  for (Message& message : conversation) {
    const bool after_user = !turns.empty() && turns.back().role == Role::kUser;
    if (message.role == Role::kTool) {
      ContentBlock result;
      result.kind = ContentBlock::Kind::kToolResult;
      result.call_id = std::move(message.call_id);
      result.parts = std::move(message.content);
      if (!after_user) turns.push_back(user_turn({}));
      turns.back().content.push_back(std::move(result));
    } else if (message.role == Role::kUser) {
      if (after_user && !turns.back().task) {
        append(turns.back().content, std::move(message.content));
      } else {
        turns.push_back(user_turn(std::move(message.content)));
        turns.back().task = message.task;
      }
    } else {
      turns.push_back(std::move(message));
    }
  }

  CallOrder order;
  for (Message& turn : turns) {
    if (turn.role == Role::kAssistant && !turn.tool_calls.empty()) order = order_of(turn.tool_calls);
    if (turn.role == Role::kUser) sort_results(turn.content, order);
  }
  return turns;
}

std::ptrdiff_t last_user_index(const Conversation& turns) {
  for (std::size_t i = turns.size(); i > 0; --i) {
    const Role role = turns[i - 1].role;
    if (role == Role::kUser || role == Role::kDeveloper) return static_cast<std::ptrdiff_t>(i) - 1;
  }
  return -1;
}

Conversation drop_old_thinking(Conversation turns) {
  const std::ptrdiff_t last_user = last_user_index(turns);
  Conversation kept;
  kept.reserve(turns.size());
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const bool old = static_cast<std::ptrdiff_t>(i) < last_user;
    if (old && turns[i].role == Role::kDeveloper) continue;
    if (old && turns[i].role == Role::kAssistant) turns[i].reasoning.clear();
    kept.push_back(std::move(turns[i]));
  }
  return kept;
}

}  // namespace ds4::chat
