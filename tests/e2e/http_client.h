// A client that sends exactly the bytes it is told to, and ds4-server as a child process.
#pragma once

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace ds4::e2e {

struct Reply {
  int status = 0;  // 0: the connection was closed without an answer
  std::string head;
  std::string body;    // chunks joined
  bool whole = false;  // the body ended as its head said
};

/// One connection to 127.0.0.1. Reads give up after `seconds`.
class Connection {
 public:
  explicit Connection(int port, double seconds = 60);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  bool send(const std::string& bytes);
  /// `body` false: the answer to a HEAD.
  Reply read_reply(bool body = true);
  /// Reads until `text` has come, or the end; everything read since the last reply.
  std::string read_until(const std::string& text);
  /// The other side has closed, within the time.
  bool at_end();
  void close();
  void reset();  // closes with an RST
  void finish_sending();

 private:
  bool more();
  int fd_ = -1;
  std::string in_;
};

/// An answer from whatever `more` appends to `in`; false: nothing more will come.
Reply take_reply(std::string& in, bool body, const std::function<bool()>& more);

std::string http_post(const std::string& path, const std::string& body, const std::string& fields = "");
std::string http_get(const std::string& path, const std::string& fields = "");
Reply ask(int port, const std::string& request);

/// ds4-server on a free port; killed when destroyed.
class ServerProcess {
 public:
  /// `inherited`: a socket handed over as systemd does, -1 for none.
  explicit ServerProcess(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {},
                         int inherited = -1);
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  int port() const { return port_; }
  pid_t pid() const { return pid_; }
  /// Waits until /health says ok.
  bool ready();
  /// Sends a signal; waits for the end; the exit status.
  int stop(int signal = 15);
  int wait();
  /// What it has logged so far.
  std::string log() const;
  /// Numbers of /proc: "VmRSS:" in KiB, "Threads:"; and open files.
  long status(const std::string& name) const;
  int open_files() const;
  /// Processor time so far, in hundredths of a second.
  long processor_ticks() const;

 private:
  pid_t pid_ = -1;
  int port_ = 0;
  std::string log_path_;
};

std::string server_program();
/// models/ds4-nano.gguf of the source tree.
std::string nano_model();

}  // namespace ds4::e2e
