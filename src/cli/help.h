// The texts of `ds4 --help`, by topic, and of /help in the chat.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace ds4::cli {

/// "" is the overview, "all" is everything; nullopt for no such topic.
std::optional<std::string> help(std::string_view topic);
std::string_view chat_help();

}  // namespace ds4::cli
