#include "chat/message.h"

#include <utility>

namespace ds4::chat {

Message text_message(Role role, std::string text) {
  Message message;
  message.role = role;
  message.content.push_back({ContentBlock::Kind::kText, std::move(text), {}, {}});
  return message;
}

Message tool_message(std::string call_id, std::string text) {
  Message message = text_message(Role::kTool, std::move(text));
  message.call_id = std::move(call_id);
  return message;
}

void attach_tools(Conversation& conversation, std::vector<std::string> tools) {
  if (conversation.empty() || conversation.front().role != Role::kSystem) {
    conversation.insert(conversation.begin(), text_message(Role::kSystem, ""));
  }
  conversation.front().tools = std::move(tools);
}

}  // namespace ds4::chat
