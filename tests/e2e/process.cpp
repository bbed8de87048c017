#include "process.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>

namespace ds4::e2e {

namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void execute(const std::vector<std::string>& command, const std::vector<std::string>& environment) {
  for (const std::string& entry : environment) putenv(const_cast<char*>(entry.c_str()));
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  signal(SIGPIPE, SIG_DFL);
  execv(arguments[0], arguments.data());
  _exit(127);
}

int exit_of(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

Outcome run(const std::vector<std::string>& command, const std::string& input,
            const std::vector<std::string>& environment) {
  signal(SIGPIPE, SIG_IGN);
  int in[2], out[2], err[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) std::abort();
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(in[0], STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    execute(command, environment);
  }
  close(in[0]);
  close(out[1]);
  close(err[1]);

  Outcome outcome;
  std::size_t sent = 0;
  pollfd sources[3] = {{out[0], POLLIN, 0}, {err[0], POLLIN, 0}, {in[1], POLLOUT, 0}};
  if (input.empty()) {
    close(in[1]);
    sources[2].fd = -1;
  }
  while (sources[0].fd >= 0 || sources[1].fd >= 0) {
    if (poll(sources, 3, -1) < 0) continue;
    for (int i = 0; i < 2; ++i) {
      if (sources[i].fd < 0 || sources[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t count = read(sources[i].fd, buffer, sizeof buffer);
      if (count > 0) {
        (i == 0 ? outcome.out : outcome.err).append(buffer, static_cast<std::size_t>(count));
      } else if (count == 0) {
        close(sources[i].fd);
        sources[i].fd = -1;
      }
    }
    if (sources[2].fd >= 0 && sources[2].revents != 0) {
      const ssize_t count = write(in[1], input.data() + sent, input.size() - sent);
      if (count > 0) sent += static_cast<std::size_t>(count);
      if (count < 0 || sent == input.size()) {
        close(in[1]);
        sources[2].fd = -1;
      }
    }
  }
  if (sources[2].fd >= 0) close(in[1]);
  outcome.status = exit_of(pid);
  return outcome;
}

Terminal::Terminal(const std::vector<std::string>& command, const std::vector<std::string>& environment) {
  winsize size = {24, 80, 0, 0};
  pid_ = forkpty(&master_, nullptr, nullptr, &size);
  if (pid_ == 0) execute(command, environment);
}

Terminal::~Terminal() {
  if (!ended_) {
    kill(pid_, SIGKILL);
    exit_of(pid_);
  }
  close(master_);
}

void Terminal::type(const std::string& bytes) {
  if (write(master_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) std::abort();
}

bool Terminal::read_some(int milliseconds) {
  pollfd source = {master_, POLLIN, 0};
  if (poll(&source, 1, milliseconds) <= 0) return true;
  char buffer[4096];
  const ssize_t count = read(master_, buffer, sizeof buffer);
  if (count <= 0) return false;  // EIO: the program closed its end
  seen_.append(buffer, static_cast<std::size_t>(count));
  return true;
}

bool Terminal::wait_for(const std::string& text) {
  const auto deadline = Clock::now() + std::chrono::seconds(60);
  while (true) {
    const std::size_t found = seen_.find(text, matched_);
    if (found != std::string::npos) {
      matched_ = found + text.size();
      return true;
    }
    if (Clock::now() > deadline || !read_some(100)) return false;
  }
}

int Terminal::wait() {
  const auto deadline = Clock::now() + std::chrono::seconds(60);
  while (read_some(100) && Clock::now() < deadline) {
  }
  ended_ = true;
  if (Clock::now() >= deadline) kill(pid_, SIGKILL);
  return exit_of(pid_);
}

}  // namespace ds4::e2e
