// Running a program and talking to it: with pipes, or on a pseudo terminal.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace ds4::e2e {

struct Outcome {
  int status = 0;  // exit status; 128 + signal when it was killed
  std::string out;
  std::string err;
};

/// Runs to the end with `input` as standard input. `environment` entries ("NAME=value") are added to ours.
Outcome run(const std::vector<std::string>& command, const std::string& input = "",
            const std::vector<std::string>& environment = {});

/// A program on a terminal of 80 columns. Killed when destroyed.
class Terminal {
 public:
  explicit Terminal(const std::vector<std::string>& command, const std::vector<std::string>& environment = {});
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  void type(const std::string& bytes);
  /// Reads until `text` was seen behind what earlier calls have seen; false at the end of the program or after 60 s.
  bool wait_for(const std::string& text);
  /// Everything the program has printed.
  const std::string& seen() const { return seen_; }
  pid_t pid() const { return pid_; }
  /// Waits for the end; the status as in Outcome.
  int wait();

 private:
  bool read_some(int milliseconds);
  int master_ = -1;
  pid_t pid_ = -1;
  std::string seen_;
  std::size_t matched_ = 0;
  bool ended_ = false;
};

}  // namespace ds4::e2e
