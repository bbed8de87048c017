#include "server/system_service.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "base/text.h"

namespace ds4::server {

namespace {

constexpr int kFirstSocket = 3;  // what systemd hands over begins here

int number_in(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0' || std::strlen(text) > 9) return 0;
  int value = 0;
  for (; *text != '\0'; ++text) {
    if (*text < '0' || *text > '9') return 0;
    value = value * 10 + (*text - '0');
  }
  return value;
}

int option(int socket, int name) {
  int value = 0;
  socklen_t size = sizeof value;
  return getsockopt(socket, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

}  // namespace

Result<std::optional<InheritedSocket>> inherited_socket() {
  const bool ours = number_in("LISTEN_PID") == getpid();
  const int count = number_in("LISTEN_FDS");
  for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) unsetenv(name);
  if (!ours || count == 0) return std::optional<InheritedSocket>();
  const auto bad = [](std::string_view found) {
    return Error{ErrorCode::kUsage, cat("socket activation: expected one listening TCP socket, found ", found)};
  };
  if (count != 1) return bad(cat(count, " sockets"));
  if (option(kFirstSocket, SO_TYPE) != SOCK_STREAM || option(kFirstSocket, SO_ACCEPTCONN) != 1) {
    return bad("something that is not one (Accept=no and ListenStream=ADDRESS:PORT are needed)");
  }
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  char text[INET6_ADDRSTRLEN] = {};
  InheritedSocket out;
  out.socket = kFirstSocket;
  if (getsockname(kFirstSocket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return bad(std::strerror(errno));
  if (address.ss_family == AF_INET) {
    const auto* four = reinterpret_cast<const sockaddr_in*>(&address);
    inet_ntop(AF_INET, &four->sin_addr, text, sizeof text);
    out.port = ntohs(four->sin_port);
  } else if (address.ss_family == AF_INET6) {
    const auto* six = reinterpret_cast<const sockaddr_in6*>(&address);
    inet_ntop(AF_INET6, &six->sin6_addr, text, sizeof text);
    out.port = ntohs(six->sin6_port);
  } else {
    return bad("one of another family");
  }
  out.host = text;
  fcntl(kFirstSocket, F_SETFD, FD_CLOEXEC);
  return std::optional<InheritedSocket>(std::move(out));
}

void notify_system(std::string_view state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr || (path[0] != '/' && path[0] != '@')) return;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::size_t length = std::strlen(path);
  if (length >= sizeof address.sun_path) return;
  std::memcpy(address.sun_path, path, length);
  if (path[0] == '@') address.sun_path[0] = '\0';
  const int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  const auto ignored =
      sendto(fd, state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&address), size);
  static_cast<void>(ignored);
  close(fd);
}

}  // namespace ds4::server
