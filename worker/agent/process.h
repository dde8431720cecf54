#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "common/base/mutex.h"

namespace sab::agent {

struct ProcessSpec {
  std::vector<std::string> arguments;    // [0] is the program's path
  std::vector<std::string> environment;  // "KEY=VALUE", all of it
};

// How a process ended.
struct ProcessEnd {
  std::string start_error;  // it could not be started at all
  int exit_code = 0;        // when signal is 0
  int signal = 0;
  bool asked_to_stop = false;            // by Stop
  std::vector<std::string> last_errors;  // last lines of its standard error, at most 20

  // "exited with code 3", "was killed by signal 9 (SIGKILL); perhaps the machine ran out of memory", with the last
  // lines of standard error.
  std::string Describe() const;
};

// What a supervisor tells. Called on its thread, without locks, in order for each process.
class ProcessEvents {
 public:
  virtual ~ProcessEvents() = default;
  virtual void OnStarted(int64_t handle, int pid) = 0;
  // Without newlines, cut at 8 KiB, valid UTF-8.
  virtual void OnLines(int64_t handle, const std::vector<std::string>& lines) = 0;
  // The process has been reaped and what was left of its group has been killed. The last event of a handle.
  virtual void OnEnd(int64_t handle, const ProcessEnd& end) = 0;
};

// Starts and watches child processes, each the leader of its own group, by one thread that sleeps until something
// happens. Children die with this process (PR_SET_PDEATHSIG), and their descendants with them. Thread-safe.
class ProcessSupervisor {
 public:
  // `events` outlives this. `grace`: from SIGTERM to SIGKILL.
  ProcessSupervisor(ProcessEvents* events, absl::Duration grace);
  // Kills what still runs, and waits for it.
  ~ProcessSupervisor();

  // Returns the handle that its events carry.
  int64_t Start(ProcessSpec spec);
  // SIGTERM, and after the grace SIGKILL to the whole group. Harmless when it has ended.
  void Stop(int64_t handle);
  // It said that it is about to end: SIGKILL to the whole group if it still runs after `within`.
  void ExpectEnd(int64_t handle, absl::Duration within);

 private:
  struct Child;
  struct Command {
    enum class Kind { kStart, kStop, kExpectEnd };
    int64_t handle = 0;  // 0: nothing, just wake up
    Kind kind = Kind::kStart;
    ProcessSpec spec;       // kStart
    absl::Duration within;  // kExpectEnd
  };
  void Post(Command command);
  void Run();
  void Execute(Command command);
  bool Spawn(Child* child, const ProcessSpec& spec, std::string* error);
  void Read(Child* child, int stream, bool last);
  void Reap(Child* child);
  int KillOverdue();
  void Watch(int fd, int64_t handle, int kind);

  ProcessEvents* const events_;
  const absl::Duration grace_;
  int epoll_fd_ = -1;
  int wake_fd_ = -1;

  Mutex mutex_;
  std::vector<Command> commands_ ABSL_GUARDED_BY(mutex_);
  int64_t next_handle_ ABSL_GUARDED_BY(mutex_) = 1;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;

  std::map<int64_t, std::unique_ptr<Child>> children_;  // the thread's own
  std::thread thread_;
};

// `text` with every byte that is not UTF-8 replaced by U+FFFD.
std::string ToUtf8(const std::string& text);

}  // namespace sab::agent
