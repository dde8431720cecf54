#include "worker/agent/process.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/clock.h"

namespace sab::agent {
namespace {

constexpr size_t kMaxLineBytes = 8 << 10;
constexpr size_t kLastLines = 20;
constexpr int kCloseOnExec = 1 << 2;  // CLOSE_RANGE_CLOEXEC

// What an epoll event is about; its data are handle * 4 + kind.
enum Kind : int { kOut = 0, kErr = 1, kExit = 2, kWake = 3 };

void SetNonBlocking(int fd) {
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

std::vector<char*> Pointers(const std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (const std::string& text : texts) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// Runs in the child, between fork and exec: only what is safe there. Does not return.
[[noreturn]] void BecomeProgram(char* const* arguments, char* const* environment, pid_t parent, int out, int err,
                                int failure) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // the parent died before the line above
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, 0);
  dup2(out, 1);
  dup2(err, 2);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int signal_number : {SIGPIPE, SIGTERM, SIGINT, SIGHUP, SIGXFSZ}) signal(signal_number, SIG_DFL);
  syscall(SYS_close_range, 3, ~0U, kCloseOnExec);
  execve(arguments[0], arguments, environment);
  const int error_number = errno;
  [[maybe_unused]] const ssize_t ignored = write(failure, &error_number, sizeof error_number);
  _exit(127);
}

}  // namespace

std::string ToUtf8(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    size_t more = byte < 0x80                   ? 0
                  : byte >= 0xC2 && byte < 0xE0 ? 1
                  : byte >= 0xE0 && byte < 0xF0 ? 2
                  : byte >= 0xF0 && byte < 0xF5 ? 3
                                                : 4;
    bool good = more < 4 && i + more < text.size();
    for (size_t k = 1; good && k <= more; ++k) good = (static_cast<unsigned char>(text[i + k]) & 0xC0) == 0x80;
    if (good && more > 1) {  // overlong forms, surrogates, beyond U+10FFFF
      const auto next = static_cast<unsigned char>(text[i + 1]);
      good = !(byte == 0xE0 && next < 0xA0) && !(byte == 0xED && next >= 0xA0) && !(byte == 0xF0 && next < 0x90) &&
             !(byte == 0xF4 && next >= 0x90);
    }
    if (good) {
      result.append(text, i, more + 1);
      i += more + 1;
    } else {
      result += "\xEF\xBF\xBD";
      ++i;
    }
  }
  return result;
}

std::string ProcessEnd::Describe() const {
  if (!start_error.empty()) return absl::StrCat("could not be started: ", start_error);
  std::string text;
  if (signal != 0) {
    const char* name = sigabbrev_np(signal);
    text = absl::StrCat("was killed by signal ", signal, " (SIG", name == nullptr ? "?" : name, ")");
    if (signal == SIGKILL && !asked_to_stop) {
      absl::StrAppend(&text,
                      "; if nobody did that on purpose the machine ran out of memory (see dmesg): lower "
                      "train.batch_size or use more replicas");
    }
  } else {
    text = absl::StrCat("exited with code ", exit_code);
  }
  if (!last_errors.empty())
    absl::StrAppend(&text, "; last lines of its standard error:\n", absl::StrJoin(last_errors, "\n"));
  return text;
}

struct ProcessSupervisor::Child {
  int64_t handle = 0;
  pid_t pid = 0;
  int pid_fd = -1;
  int stream_fds[2] = {-1, -1};
  std::string partial[2];
  bool skipping[2] = {false, false};  // the rest of a line that was cut
  std::deque<std::string> last_errors;
  bool asked_to_stop = false;
  absl::Duration kill_at = absl::InfiniteDuration();

  ~Child() {
    for (int fd : {pid_fd, stream_fds[0], stream_fds[1]}) {
      if (fd >= 0) close(fd);
    }
  }
};

ProcessSupervisor::ProcessSupervisor(ProcessEvents* events, absl::Duration grace) : events_(events), grace_(grace) {
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  Watch(wake_fd_, 0, kWake);
  thread_ = std::thread([this] { Run(); });
}

ProcessSupervisor::~ProcessSupervisor() {
  {
    MutexLock lock(&mutex_);
    closing_ = true;
  }
  Post({});
  thread_.join();
  close(epoll_fd_);
  close(wake_fd_);
}

int64_t ProcessSupervisor::Start(ProcessSpec spec) {
  int64_t handle = 0;
  {
    MutexLock lock(&mutex_);
    handle = next_handle_++;
  }
  Post({.handle = handle, .kind = Command::Kind::kStart, .spec = std::move(spec), .within = {}});
  return handle;
}

void ProcessSupervisor::Stop(int64_t handle) {
  Post({.handle = handle, .kind = Command::Kind::kStop, .spec = {}, .within = grace_});
}

void ProcessSupervisor::ExpectEnd(int64_t handle, absl::Duration within) {
  Post({.handle = handle, .kind = Command::Kind::kExpectEnd, .spec = {}, .within = within});
}

void ProcessSupervisor::Post(Command command) {
  {
    MutexLock lock(&mutex_);
    if (command.handle != 0) commands_.push_back(std::move(command));
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t ignored = write(wake_fd_, &one, sizeof one);
}

void ProcessSupervisor::Watch(int fd, int64_t handle, int kind) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = static_cast<uint64_t>(handle) * 4 + static_cast<uint64_t>(kind);
  epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event);
}

void ProcessSupervisor::Run() {
  bool closing = false;
  while (!closing || !children_.empty()) {
    epoll_event events[32];
    const int count = epoll_wait(epoll_fd_, events, 32, KillOverdue());
    for (int i = 0; i < count; ++i) {
      const auto handle = static_cast<int64_t>(events[i].data.u64 / 4);
      const int kind = static_cast<int>(events[i].data.u64 % 4);
      if (kind == kWake) {
        uint64_t ignored = 0;
        while (read(wake_fd_, &ignored, sizeof ignored) > 0) {
        }
        std::vector<Command> commands;
        {
          MutexLock lock(&mutex_);
          commands.swap(commands_);
          closing = closing_;
        }
        for (Command& command : commands) Execute(std::move(command));
        for (auto& [key, child] : children_) {
          if (closing) kill(-child->pid, SIGKILL);
        }
      } else if (const auto it = children_.find(handle); it != children_.end()) {
        kind == kExit ? Reap(it->second.get()) : Read(it->second.get(), kind, /*last=*/false);
      }
    }
  }
}

// Returns the time until the next SIGKILL is due, for epoll_wait.
int ProcessSupervisor::KillOverdue() {
  const absl::Duration now = SystemClock().Monotonic();
  absl::Duration next = absl::InfiniteDuration();
  for (auto& [handle, child] : children_) {
    if (child->kill_at <= now) {
      kill(-child->pid, SIGKILL);
      child->kill_at = absl::InfiniteDuration();
    }
    next = std::min(next, child->kill_at);
  }
  return next == absl::InfiniteDuration() ? -1 : static_cast<int>(absl::ToInt64Milliseconds(next - now)) + 1;
}

void ProcessSupervisor::Execute(Command command) {
  if (command.kind != Command::Kind::kStart) {
    const auto it = children_.find(command.handle);
    if (it == children_.end() || it->second->asked_to_stop) return;
    it->second->kill_at = std::min(it->second->kill_at, SystemClock().Monotonic() + command.within);
    if (command.kind == Command::Kind::kExpectEnd) return;
    it->second->asked_to_stop = true;
    kill(it->second->pid, SIGTERM);
    return;
  }
  auto child = std::make_unique<Child>();
  child->handle = command.handle;
  std::string error;
  if (!Spawn(child.get(), command.spec, &error)) {
    ProcessEnd end;
    end.start_error = error;
    return events_->OnEnd(command.handle, end);
  }
  const pid_t pid = child->pid;
  children_.emplace(command.handle, std::move(child));
  events_->OnStarted(command.handle, pid);
}

bool ProcessSupervisor::Spawn(Child* child, const ProcessSpec& spec, std::string* error) {
  int out[2], err[2], failure[2];
  if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0 || pipe2(failure, O_CLOEXEC) != 0) {
    *error = absl::StrCat("pipe: ", std::strerror(errno));
    return false;
  }
  const std::vector<char*> arguments = Pointers(spec.arguments);
  const std::vector<char*> environment = Pointers(spec.environment);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) BecomeProgram(arguments.data(), environment.data(), parent, out[1], err[1], failure[1]);
  const int fork_error = errno;
  for (int fd : {out[1], err[1], failure[1]}) close(fd);
  int error_number = 0;
  const bool failed =
      pid < 0 || read(failure[0], &error_number, sizeof error_number) > 0;  // until exec closes the other end
  close(failure[0]);
  child->stream_fds[0] = out[0];
  child->stream_fds[1] = err[0];
  if (failed) {
    if (pid > 0) waitpid(pid, nullptr, 0);
    *error = absl::StrCat(spec.arguments[0], ": ", std::strerror(pid < 0 ? fork_error : error_number));
    return false;
  }
  child->pid = pid;
  child->pid_fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  if (child->pid_fd < 0) {
    *error = absl::StrCat("pidfd_open: ", std::strerror(errno), " (Linux 5.3 or newer is needed)");
    kill(-pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return false;
  }
  for (int stream : {kOut, kErr}) {
    SetNonBlocking(child->stream_fds[stream]);
    Watch(child->stream_fds[stream], child->handle, stream);
  }
  Watch(child->pid_fd, child->handle, kExit);
  return true;
}

// Takes what there is. `last`: the process is gone, so an unfinished line is a line.
void ProcessSupervisor::Read(Child* child, int stream, bool last) {
  if (child->stream_fds[stream] < 0) return;
  char buffer[64 << 10];
  const ssize_t got = read(child->stream_fds[stream], buffer, sizeof buffer);
  std::vector<std::string> lines;
  std::string& partial = child->partial[stream];
  const auto finish_line = [&] {
    if (!child->skipping[stream]) lines.push_back(ToUtf8(partial));
    child->skipping[stream] = false;
    partial.clear();
  };
  for (ssize_t i = 0; i < got; ++i) {
    if (buffer[i] == '\n') {
      finish_line();
    } else if (!child->skipping[stream]) {
      partial += buffer[i];
      if (partial.size() == kMaxLineBytes) {
        finish_line();
        child->skipping[stream] = true;
      }
    }
  }
  const bool ended = got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
  if ((ended || last) && got < static_cast<ssize_t>(sizeof buffer) && !partial.empty()) finish_line();
  if (ended) {
    close(child->stream_fds[stream]);  // which also ends its watch
    child->stream_fds[stream] = -1;
  }
  for (const std::string& line : lines) {
    if (stream != kErr) break;
    child->last_errors.push_back(line);
    if (child->last_errors.size() > kLastLines) child->last_errors.pop_front();
  }
  if (!lines.empty()) events_->OnLines(child->handle, lines);
  if (last && got == static_cast<ssize_t>(sizeof buffer)) Read(child, stream, last);
}

void ProcessSupervisor::Reap(Child* child) {
  siginfo_t info{};
  // Still a zombie, so its number cannot be another group's yet.
  waitid(P_PID, static_cast<id_t>(child->pid), &info, WEXITED | WNOWAIT);
  kill(-child->pid, SIGKILL);
  waitpid(child->pid, nullptr, 0);
  Read(child, kOut, /*last=*/true);
  Read(child, kErr, /*last=*/true);
  ProcessEnd end;
  end.asked_to_stop = child->asked_to_stop;
  (info.si_code == CLD_EXITED ? end.exit_code : end.signal) = info.si_status;
  end.last_errors.assign(child->last_errors.begin(), child->last_errors.end());
  const int64_t handle = child->handle;
  children_.erase(handle);
  events_->OnEnd(handle, end);
}

}  // namespace sab::agent
