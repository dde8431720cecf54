#include "model/collective/peer_process.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <utility>

namespace sab::model {
namespace {

std::string FirstWord(const std::string& path) {
  std::string word;
  std::ifstream(path) >> word;
  return word;
}

std::string LinkTarget(const char* path) {
  char target[256];
  const ssize_t length = readlink(path, target, sizeof(target));
  return length > 0 ? std::string(target, static_cast<size_t>(length)) : "";
}

// Field 22 of /proc/PID/stat; "" when there is no such process. Field 2, the program's name, may hold blanks and
// parentheses.
std::string StartTime(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  std::getline(file, line);
  const size_t name_end = line.rfind(')');
  if (name_end == std::string::npos) return "";
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  for (int number = 3; number <= 22; ++number) fields >> field;
  return field;
}

}  // namespace

ProcessIdentity ProcessIdentity::Own() {
  const std::string boot = FirstWord("/proc/sys/kernel/random/boot_id");
  const std::string pid_namespace = LinkTarget("/proc/self/ns/pid");
  const std::string start_time = StartTime(getpid());
  if (boot.empty() || pid_namespace.empty() || start_time.empty()) return {};
  return {boot + "/" + pid_namespace + "/" + std::to_string(geteuid()), getpid(), start_time};
}

std::string ProcessIdentity::Encode() const {
  if (neighbourhood.empty()) return "-";
  return neighbourhood + " " + std::to_string(pid) + " " + start_time;
}

ProcessIdentity ProcessIdentity::Decode(const std::string& text) {
  ProcessIdentity identity;
  std::istringstream words(text);
  if (!(words >> identity.neighbourhood >> identity.pid >> identity.start_time)) return {};
  return identity;
}

PeerProcess::PeerProcess(const ProcessIdentity& identity) {
  if (identity.pid == getpid()) return;
  pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, identity.pid, 0));
  const bool gone = pidfd_ < 0 && errno == ESRCH;
  // Read after the process is held: if it is another by now, the peer had ended before.
  const std::string start_time = StartTime(identity.pid);
  ended_before_ = gone || (!start_time.empty() && start_time != identity.start_time);
}

PeerProcess::PeerProcess(PeerProcess&& other) noexcept
    : pidfd_(std::exchange(other.pidfd_, -1)), ended_before_(other.ended_before_) {}

PeerProcess::~PeerProcess() {
  if (pidfd_ >= 0) close(pidfd_);
}

bool PeerProcess::HasEnded() const {
  if (ended_before_) return true;
  if (pidfd_ < 0) return false;
  pollfd request = {pidfd_, POLLIN, 0};
  return poll(&request, 1, 0) > 0;
}

}  // namespace sab::model
