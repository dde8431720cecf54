#include "client/process/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"

extern char** environ;

namespace sab {
namespace {

// What the child needs, made before the fork: after it only async-signal-safe calls are allowed.
struct Prepared {
  std::vector<char*> arguments;
  std::vector<std::string> environment_text;
  std::vector<char*> environment;
  int output = -1;
  int errors = -1;
  int error_pipe[2] = {-1, -1};
};

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> Environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (added.find(text.substr(0, text.find('='))) == added.end()) all.push_back(text);
  }
  for (const auto& [name, value] : added) all.push_back(absl::StrCat(name, "=", value));
  return all;
}

[[noreturn]] void RunChild(const Prepared& prepared, pid_t parent) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  // The parent may have ended before the line above took effect.
  if (getppid() != parent) _exit(127);
  const int errors = prepared.errors >= 0 ? prepared.errors : prepared.output;
  if (prepared.output >= 0) dup2(prepared.output, STDOUT_FILENO);
  if (errors >= 0) dup2(errors, STDERR_FILENO);
  const int null = open("/dev/null", O_RDONLY);
  if (null >= 0) dup2(null, STDIN_FILENO);
  execve(prepared.arguments[0], prepared.arguments.data(), prepared.environment.data());
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(prepared.error_pipe[1], &error, sizeof(error));
  _exit(127);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const ChildOptions& options) {
  Prepared prepared;
  prepared.arguments = Pointers(options.command);
  prepared.environment_text = Environment(options.environment);
  prepared.environment = Pointers(prepared.environment_text);
  for (const auto& [path, descriptor] :
       {std::pair(&options.output, &prepared.output), std::pair(&options.errors, &prepared.errors)}) {
    if (path->empty()) continue;
    *descriptor = open(path->c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (*descriptor < 0) return absl::ErrnoToStatus(errno, "cannot write " + *path);
  }
  if (pipe2(prepared.error_pipe, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "pipe");
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) RunChild(prepared, parent);
  const int fork_error = errno;
  close(prepared.error_pipe[1]);
  for (int descriptor : {prepared.output, prepared.errors}) {
    if (descriptor >= 0) close(descriptor);
  }
  int error = pid < 0 ? fork_error : 0;
  // Ends without a byte when exec closed the other side.
  if (pid > 0) {
    ssize_t count;
    do {
      count = read(prepared.error_pipe[0], &error, sizeof(error));
    } while (count < 0 && errno == EINTR);
  }
  close(prepared.error_pipe[0]);
  if (error != 0) {
    if (pid > 0) waitpid(pid, nullptr, 0);
    return absl::ErrnoToStatus(error, "cannot run " + options.command[0]);
  }
  return ChildProcess(pid);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept {
  *this = std::move(other);
}

ChildProcess& ChildProcess::operator=(ChildProcess&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(ended_, other.ended_);
  std::swap(wait_status_, other.wait_status_);
  return *this;
}

ChildProcess::~ChildProcess() {
  if (!running()) return;
  Signal(SIGKILL);
  Wait();
}

bool ChildProcess::Poll() {
  if (!running()) return true;
  ended_ = waitpid(pid_, &wait_status_, WNOHANG) == pid_;
  return ended_;
}

void ChildProcess::Wait() {
  while (running()) {
    const pid_t result = waitpid(pid_, &wait_status_, 0);
    if (result == pid_ || (result < 0 && errno != EINTR)) ended_ = true;
  }
}

void ChildProcess::Signal(int signal) {
  if (running()) kill(pid_, signal);
}

int ChildProcess::exit_code() const {
  return WIFSIGNALED(wait_status_) ? 128 + WTERMSIG(wait_status_) : WEXITSTATUS(wait_status_);
}

std::string ChildProcess::HowItEnded() const {
  if (WIFSIGNALED(wait_status_)) {
    return absl::StrCat("was killed by signal ", WTERMSIG(wait_status_), " (", strsignal(WTERMSIG(wait_status_)), ")");
  }
  return absl::StrCat("exited with code ", WEXITSTATUS(wait_status_));
}

std::string ProgramFolder() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return self.parent_path().string();
}

}  // namespace sab
