// The text of `ds4-server --help` and its topics.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace ds4::server {

/// The overview for an empty topic; all of it as a manual page for "man"; nullopt for a topic that does not exist.
std::optional<std::string> help(std::string_view topic);

}  // namespace ds4::server
