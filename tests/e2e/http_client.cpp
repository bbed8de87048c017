#include "http_client.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/text.h"
#include "models.h"

namespace ds4::e2e {

namespace {

std::string header(const std::string& head, std::string name) {
  std::istringstream lines(head);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos || strcasecmp(line.substr(0, colon).c_str(), name.c_str()) != 0) continue;
    std::string value = line.substr(colon + 1);
    while (!value.empty() && (value.back() == '\r' || value.back() == ' ')) value.pop_back();
    while (!value.empty() && value.front() == ' ') value.erase(0, 1);
    return value;
  }
  return {};
}

}  // namespace

Connection::Connection(int port, double seconds) {
  signal(SIGPIPE, SIG_IGN);
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  timeval limit{static_cast<time_t>(seconds), static_cast<suseconds_t>((seconds - static_cast<int>(seconds)) * 1e6)};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) close();
}

Connection::~Connection() { close(); }

void Connection::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

void Connection::reset() {
  const linger now{1, 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  close();
}

void Connection::finish_sending() { shutdown(fd_, SHUT_WR); }

bool Connection::send(const std::string& bytes) {
  for (std::size_t sent = 0; sent < bytes.size();) {
    const ssize_t count = ::send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) return false;
    sent += static_cast<std::size_t>(count);
  }
  return true;
}

bool Connection::more() {
  char block[16384];
  const ssize_t count = recv(fd_, block, sizeof block, 0);
  if (count <= 0) return false;
  in_.append(block, static_cast<std::size_t>(count));
  return true;
}

bool Connection::at_end() {
  while (true) {
    char block[4096];
    const ssize_t count = recv(fd_, block, sizeof block, 0);
    if (count > 0) continue;
    return count == 0 || errno == ECONNRESET;
  }
}

std::string Connection::read_until(const std::string& text) {
  while (in_.find(text) == std::string::npos) {
    if (!more()) break;
  }
  return in_;
}

Reply Connection::read_reply(bool body) {
  return take_reply(in_, body, [this] { return more(); });
}

Reply take_reply(std::string& in, bool body, const std::function<bool()>& more) {
  Reply reply;
  while (true) {
    while (in.find("\r\n\r\n") == std::string::npos) {
      if (!more()) return reply;
    }
    const std::size_t end = in.find("\r\n\r\n") + 4;
    reply.head = in.substr(0, end);
    in.erase(0, end);
    reply.status = std::atoi(reply.head.substr(9, 3).c_str());
    if (reply.status != 100) break;
  }
  reply.whole = !body;
  if (!body) return reply;
  if (header(reply.head, "transfer-encoding") == "chunked") {
    while (true) {
      std::size_t line = in.find("\r\n");
      while (line == std::string::npos) {
        if (!more()) return reply;
        line = in.find("\r\n");
      }
      const std::size_t size = std::stoul(in.substr(0, line), nullptr, 16);
      while (in.size() < line + 2 + size + 2) {
        if (!more()) return reply;
      }
      reply.body += in.substr(line + 2, size);
      in.erase(0, line + 2 + size + 2);
      if (size == 0) break;
    }
    reply.whole = true;
    return reply;
  }
  const std::string length = header(reply.head, "content-length");
  const std::size_t size = length.empty() ? 0 : std::stoul(length);
  while (in.size() < size) {
    if (!more()) return reply;
  }
  reply.body = in.substr(0, size);
  in.erase(0, size);
  reply.whole = true;
  return reply;
}

std::string http_post(const std::string& path, const std::string& body, const std::string& fields) {
  return cat("POST ", path,
             " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ", body.size(), "\r\n",
             fields, "\r\n", body);
}

std::string http_get(const std::string& path, const std::string& fields) {
  return cat("GET ", path, " HTTP/1.1\r\nHost: localhost\r\n", fields, "\r\n");
}

Reply ask(int port, const std::string& request) {
  Connection connection(port);
  connection.send(request);
  return connection.read_reply(!request.starts_with("HEAD "));
}

ServerProcess::ServerProcess(const std::vector<std::string>& arguments, const std::vector<std::string>& environment,
                             int inherited) {
  static int number = 0;
  log_path_ = cat(work_dir(), "/server-", ++number, ".log");
  std::vector<std::string> command = {server_program(), "--port", "0"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  pid_ = fork();
  if (pid_ == 0) {
    const int log = open(log_path_.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    dup2(log, STDERR_FILENO);
    dup2(log, STDOUT_FILENO);
    for (const std::string& entry : environment) putenv(const_cast<char*>(entry.c_str()));
    if (inherited >= 0) {
      if (inherited == 3) fcntl(3, F_SETFD, 0);
      else dup2(inherited, 3);
      setenv("LISTEN_PID", cat(getpid()).c_str(), 1);
    }
    std::vector<char*> argv;
    for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  for (int tries = 0; tries < 3000 && port_ == 0; ++tries) {
    const std::string text = log();
    const std::size_t at = text.find(" port=");
    if (at != std::string::npos && text.find('\n', at) != std::string::npos) port_ = std::atoi(text.c_str() + at + 6);
    else std::this_thread::sleep_for(std::chrono::milliseconds(10));
    siginfo_t info{};
    if (port_ == 0 && waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
        info.si_pid != 0)
      break;
  }
}

ServerProcess::~ServerProcess() {
  if (pid_ > 0) stop(SIGKILL);
}

bool ServerProcess::ready() {
  for (int tries = 0; tries < 3000; ++tries) {
    if (port_ == 0) return false;
    if (ask(port_, http_get("/health")).status == 200) return true;
    siginfo_t info{};
    if (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0)
      return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return false;
}

int ServerProcess::stop(int signal) {
  kill(pid_, signal);
  return wait();
}

int ServerProcess::wait() {
  // A server that should have ended and has not is killed, so that a wrong expectation fails and does not hang.
  constexpr std::chrono::minutes kLimit{2};
  const auto start = std::chrono::steady_clock::now();
  int status = 0;
  for (pid_t ended = 0; ended != pid_;) {
    ended = waitpid(pid_, &status, WNOHANG);
    if (ended < 0 && errno != EINTR) break;
    if (ended == pid_) break;
    if (std::chrono::steady_clock::now() - start > kLimit) ::kill(pid_, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string ServerProcess::log() const { return read_file(log_path_); }

long ServerProcess::status(const std::string& name) const {
  std::istringstream lines(read_file(cat("/proc/", pid_, "/status")));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name)) return std::atol(line.c_str() + name.size());
  }
  return -1;
}

int ServerProcess::open_files() const {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(cat("/proc/", pid_, "/fd"))) ++count;
  return count;
}

long ServerProcess::processor_ticks() const {
  const std::string text = read_file(cat("/proc/", pid_, "/stat"));
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  long user = 0, system = 0;
  fields >> user >> system;
  return user + system;
}

std::string server_program() { return DS4_BIN_DIR "/ds4-server"; }
std::string nano_model() { return DS4_MODELS_DIR "/ds4-nano.gguf"; }

}  // namespace ds4::e2e
