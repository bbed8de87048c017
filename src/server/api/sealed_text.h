// Reasoning given to a client that asked for it sealed ("encrypted_content") and brings it back with the next request:
// base64 behind a mark of ours. It is not secret and not trusted, only carried. Pure functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace ds4::server {

std::string seal(std::string_view text);
/// nullopt for what seal() did not write.
std::optional<std::string> unseal(std::string_view sealed);

}  // namespace ds4::server
