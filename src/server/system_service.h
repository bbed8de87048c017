// What systemd and a service agree on: a socket that is handed over, and messages about the service's state. Without
// systemd nothing happens. Called by main, once at the start and then as the state changes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace ds4::server {

struct InheritedSocket {
  int socket = -1;
  std::string host;  // the address it listens on
  std::uint16_t port = 0;
};

/// The listening socket of a .socket unit; nothing when the program was started without one. Takes it out of the
/// environment, so that it is not handed on.
Result<std::optional<InheritedSocket>> inherited_socket();

/// Tells the service manager about the state of the service, if it asked to be told.
void notify_system(std::string_view state);

}  // namespace ds4::server
