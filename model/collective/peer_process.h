#pragma once

#include <sys/types.h>

#include <string>

namespace sab::model {

// Which process a rank is, in words that another rank can compare with its own.
struct ProcessIdentity {
  // Boot of the kernel, PID namespace and user: processes with the same text reach each other under /proc. Empty: not
  // known, or not to be used.
  std::string neighbourhood;
  pid_t pid = 0;
  std::string start_time;  // as in /proc/PID/stat: a process with a reused pid has another

  static ProcessIdentity Own();
  std::string Encode() const;
  // Of a text that Encode did not write: an empty neighbourhood.
  static ProcessIdentity Decode(const std::string& text);
};

// Notices the end of another process at once, also while its parent has not collected it.
class PeerProcess {
 public:
  // Of the own process, or where the kernel cannot tell (before Linux 5.3), HasEnded stays false.
  explicit PeerProcess(const ProcessIdentity& identity);
  PeerProcess(PeerProcess&& other) noexcept;
  PeerProcess(const PeerProcess&) = delete;
  ~PeerProcess();

  bool HasEnded() const;

 private:
  int pidfd_ = -1;
  bool ended_before_ = false;  // when this was made
};

}  // namespace sab::model
