#include "worker/agent/state_dir.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/file.h"

namespace sab::agent {
namespace {

namespace fs = std::filesystem;

constexpr size_t kKeptLogs = 200;
constexpr int kEndTimeoutMs = 10'000;

// The machine's name as the beginning of an id, for people.
std::string DrawWorkerId() {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  std::string name;
  for (char c : std::string(host).substr(0, std::string(host).find('.'))) {
    if (name.size() < 40)
      name +=
          absl::ascii_isalnum(static_cast<unsigned char>(c)) ? absl::ascii_tolower(static_cast<unsigned char>(c)) : '-';
  }
  return absl::StrCat(name.empty() ? "worker" : name, "-", RandomId(4));
}

std::string BootId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  return id;
}

// Field 22 of /proc/PID/stat; 0 when there is no such process. With the pid and the boot it names a process for good.
int64_t StartTicks(int pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string line, word;
  if (!std::getline(file, line)) return 0;
  std::istringstream rest(line.substr(line.rfind(')') + 1));
  int64_t ticks = 0;
  for (int field = 3; field < 22; ++field) rest >> word;
  rest >> ticks;
  return ticks;
}

void KillAndWait(int pid) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  kill(-pid, SIGKILL);
  kill(pid, SIGKILL);
  if (fd < 0) return;
  pollfd wait{fd, POLLIN, 0};
  if (poll(&wait, 1, kEndTimeoutMs) == 0)
    log::Error(absl::StrCat("trainer process ", pid, " does not end although it was killed"));
  close(fd);
}

}  // namespace

absl::StatusOr<StateDir> StateDir::Open(const std::string& path) {
  StateDir dir;
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return SystemError(error.value(), "create", path);
  dir.path_ = fs::absolute(path).lexically_normal().string();
  if (dir.path_.size() > 1 && dir.path_.back() == '/') dir.path_.pop_back();
  for (const char* folder : {"/trainers", "/logs", "/checkpoints"}) {
    fs::create_directories(dir.path_ + folder, error);
    if (error) return SystemError(error.value(), "create", dir.path_ + folder);
  }
  const std::string lock_path = dir.path_ + "/lock";
  dir.lock_fd_ = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (dir.lock_fd_ < 0) return SystemError(errno, "open", lock_path);
  if (flock(dir.lock_fd_, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("another sab-worker runs on ", dir.path_, "; stop it or choose another --state-dir"));
  }
  const std::string id_path = dir.path_ + "/worker-id";
  absl::StatusOr<std::string> id = ReadFile(id_path);
  if (!id.ok() && !absl::IsNotFound(id.status())) return id.status();
  if (!id.ok()) {
    id = DrawWorkerId();
    SAB_RETURN_IF_ERROR(WriteFileDurably(id_path, *id + "\n"));
  }
  const std::string name = absl::StrCat("workers/", absl::StripAsciiWhitespace(*id));
  SAB_ASSIGN_OR_RETURN(dir.worker_, ParseWorkerName(name));
  return dir;
}

StateDir::StateDir(StateDir&& other) noexcept
    : path_(std::move(other.path_)), lock_fd_(std::exchange(other.lock_fd_, -1)), worker_(std::move(other.worker_)) {}

StateDir::~StateDir() {
  if (lock_fd_ >= 0) close(lock_fd_);
}

absl::StatusOr<int64_t> StateDir::NextIncarnation(absl::Time now) {
  const std::string path = path_ + "/incarnation";
  int64_t last = 0;
  if (const auto text = ReadFile(path); text.ok()) (void)absl::SimpleAtoi(*text, &last);
  const int64_t next = std::max(absl::ToUnixMicros(now), last + 1);
  SAB_RETURN_IF_ERROR(WriteFileDurably(path, absl::StrCat(next, "\n")));
  return next;
}

std::string StateDir::RecordPath(const TrainerKey& key) const {
  return absl::StrCat(path_, "/trainers/", key.job.substr(key.job.find('/') + 1), "-a", key.attempt, "-r", key.rank,
                      ".json");
}

void StateDir::RecordTrainer(const TrainerKey& key, int pid) {
  const nlohmann::json record = {{"job", key.job}, {"attempt", key.attempt},         {"rank", key.rank},
                                 {"pid", pid},     {"start_ticks", StartTicks(pid)}, {"boot_id", BootId()}};
  // The process runs whether this works or not, and dies with the agent anyway.
  if (auto status = WriteFileDurably(RecordPath(key), record.dump() + "\n"); !status.ok())
    log::Warning(status.ToString());
}

void StateDir::ForgetTrainer(const TrainerKey& key) {
  unlink(RecordPath(key).c_str());
}

std::vector<TrainerKey> StateDir::EndLeftovers() {
  std::vector<TrainerKey> keys;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path_ + "/trainers", error)) {
    const auto text = ReadFile(entry.path().string());
    const auto record = nlohmann::json::parse(text.ok() ? *text : "", nullptr, /*allow_exceptions=*/false);
    if (record.is_object() && record.contains("job") && record["job"].is_string()) {
      const int pid = record.value("pid", 0);
      keys.push_back({record["job"].get<std::string>(), record.value("attempt", int64_t{0}), record.value("rank", 0)});
      if (pid > 1 && record.value("boot_id", "") == BootId() &&
          StartTicks(pid) == record.value("start_ticks", int64_t{-1})) {
        log::Warning(
            absl::StrCat("ending trainer process ", pid, " of ", keys.back().job, ", left by an earlier agent"));
        KillAndWait(pid);
      }
    }
    fs::remove(entry.path(), error);
  }
  return keys;
}

std::string StateDir::LogPath(const TrainerKey& key) {
  std::error_code error;
  std::vector<std::pair<fs::file_time_type, fs::path>> logs;
  for (const auto& entry : fs::directory_iterator(path_ + "/logs", error))
    logs.emplace_back(entry.last_write_time(error), entry.path());
  std::sort(logs.begin(), logs.end());
  for (size_t i = 0; i + kKeptLogs < logs.size() + 1; ++i) fs::remove(logs[i].second, error);
  return absl::StrCat(path_, "/logs/", key.job.substr(key.job.find('/') + 1), "-a", key.attempt, "-r", key.rank,
                      ".log");
}

}  // namespace sab::agent
