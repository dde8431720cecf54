#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sab {

struct ChildOptions {
  std::vector<std::string> command;                // the program's path, then its arguments
  std::string output;                              // file that standard output is appended to; empty: inherited
  std::string errors;                              // the same for standard error; empty: it goes where the output goes
  std::map<std::string, std::string> environment;  // added to ours
};

// A child process in a process group of its own, so that Ctrl-C at a terminal reaches the parent alone. It gets SIGTERM
// when the thread that started it ends: start children on a thread that lives as long as they should. Not thread-safe.
class ChildProcess {
 public:
  // NotFound, PermissionDenied, …: the program could not be run; the text names it and the system's reason.
  static absl::StatusOr<ChildProcess> Start(const ChildOptions& options);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&& other) noexcept;
  // Kills (SIGKILL) and reaps a child that still runs.
  ~ChildProcess();

  pid_t pid() const { return pid_; }
  bool running() const { return pid_ > 0 && !ended_; }

  // Reaps it if it has ended. True: it has. Does not block.
  bool Poll();
  // Blocks until it has ended.
  void Wait();
  void Signal(int signal);

  // Once ended: its exit code, or 128 + the signal's number.
  int exit_code() const;
  // Once ended: "exited with code 3", "was killed by signal 9 (Killed)".
  std::string HowItEnded() const;

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}

  pid_t pid_ = -1;
  bool ended_ = false;
  int wait_status_ = 0;
};

// Folder of the running program: where its sister programs are.
std::string ProgramFolder();

}  // namespace sab
