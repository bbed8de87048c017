// The message list made ready for rendering (spec 7.1): tool answers and neighbouring user messages merged into user
// turns, tool results in the order of their calls, and the list of what thinking mode forgets. Pure functions; linear
// in the size of the conversation.
#pragma once

#include <cstddef>

#include "chat/message.h"

namespace ds4::chat {

/// No message of role kTool remains, and a user message directly follows another only behind a task.
[[nodiscard]] Conversation merge_turns(Conversation conversation);

/// Index of the last user or developer message; -1 when there is none.
[[nodiscard]] std::ptrdiff_t last_user_index(const Conversation& turns);

/// Before the last user turn: assistant messages lose their reasoning, developer messages disappear.
[[nodiscard]] Conversation drop_old_thinking(Conversation turns);

}  // namespace ds4::chat
