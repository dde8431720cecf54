#include "tests/e2e/harness.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

namespace fs = std::filesystem;

std::string Content(const std::string& path) {
  std::ostringstream text;
  std::ifstream file(path, std::ios::binary);
  if (file) text << file.rdbuf();
  return text.str();
}

// Waits for a process to end, through its descriptor. False after kPatience.
bool AwaitEnd(ChildProcess& process) {
  const int descriptor = static_cast<int>(syscall(SYS_pidfd_open, process.pid(), 0));
  if (descriptor < 0) return process.Poll();
  pollfd event{descriptor, POLLIN, 0};
  const bool ended = poll(&event, 1, static_cast<int>(absl::ToInt64Milliseconds(kPatience))) == 1;
  close(descriptor);
  return ended && process.Poll();
}

}  // namespace

std::string BinDir() {
  return SAB_BIN_DIR;
}

bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + kPatience;
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return true;
}

std::string DigestOf(const v1::Checkpoint& checkpoint, std::string_view path) {
  for (const v1::CheckpointFile& file : checkpoint.files()) {
    if (file.path() == path) return file.sha256();
  }
  return "";
}

Ran RunProgram(const std::string& program, const std::vector<std::string>& arguments, const std::string& scratch_dir) {
  static int number = 0;
  const std::string prefix = absl::StrCat(scratch_dir, "/run-", ++number);
  std::vector<std::string> command = arguments;
  command.insert(command.begin(), program);
  auto child = ChildProcess::Start({.command = command, .output = prefix + ".out", .errors = prefix + ".err"});
  if (!child.ok()) {
    ADD_FAILURE() << child.status();
    return {};
  }
  if (!AwaitEnd(*child)) {
    ADD_FAILURE() << program << " did not end: " << Content(prefix + ".out") << Content(prefix + ".err");
    return {};
  }
  return {child->exit_code(), Content(prefix + ".out"), Content(prefix + ".err")};
}

Cluster::Cluster(ClusterOptions options) : options_(options) {
  for (const char* folder : {"coordinator", "checkpoints", "logs"})
    fs::create_directory(fs::path(dir_.path()) / folder);
  StartCoordinator();
  workers_.resize(options_.workers);
  for (int i = 0; i < options_.workers; ++i) StartWorker(i);
  AwaitWorkers(options_.workers);
}

Cluster::~Cluster() {
  // An idle connection makes the coordinator's shutdown wait.
  client_.reset();
  for (auto& worker : workers_) {
    if (worker.has_value()) worker->Signal(SIGTERM);
  }
  for (auto& worker : workers_) {
    if (worker.has_value()) AwaitEnd(*worker);
  }
  if (coordinator_.has_value()) {
    coordinator_->Signal(SIGTERM);
    AwaitEnd(*coordinator_);
  }
  if (::testing::Test::HasFailure()) std::fputs(Logs().c_str(), stderr);
}

absl::StatusOr<ChildProcess> Cluster::Start(const std::string& program, const std::string& title,
                                            std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), BinDir() + "/" + program);
  return ChildProcess::Start({.command = arguments, .output = absl::StrCat(dir_.path(), "/logs/", title, ".log")});
}

std::string Cluster::AwaitFile(const std::string& path) {
  const int changes = inotify_init1(IN_CLOEXEC);
  inotify_add_watch(changes, fs::path(path).parent_path().c_str(), IN_MOVED_TO | IN_CLOSE_WRITE);
  const absl::Time deadline = absl::Now() + kPatience;
  std::string content;
  while ((content = Content(path)).empty() && absl::Now() < deadline) {
    pollfd event{changes, POLLIN, 0};
    poll(&event, 1, 1000);
    char events[4096];
    if ((event.revents & POLLIN) != 0 && read(changes, events, sizeof(events)) < 0) break;
    if (coordinator_->Poll()) break;
  }
  close(changes);
  EXPECT_FALSE(content.empty()) << path << " was not written";
  return std::string(absl::StripAsciiWhitespace(content));
}

void Cluster::StartCoordinator() {
  const std::string address_file = dir_.path() + "/coordinator.address";
  fs::remove(address_file);
  std::vector<std::string> arguments = {"--state-dir",      dir_.path() + "/coordinator",
                                        "--listen",         address_.empty() ? "127.0.0.1:0" : address_,
                                        "--metrics-listen", "127.0.0.1:0",
                                        "--lease",          options_.lease,
                                        "--address-file",   address_file};
  if (options_.shared_checkpoints) arguments.insert(arguments.end(), {"--checkpoint-dir", checkpoint_dir()});
  auto process = Start("sab-coordinator", "coordinator", std::move(arguments));
  ASSERT_TRUE(process.ok()) << process.status();
  coordinator_.emplace(*std::move(process));
  address_ = AwaitFile(address_file);
  client_ = std::make_unique<client::Client>(
      client::ClientOptions{.address = address_, .connect_timeout = absl::Seconds(60)});
}

void Cluster::StartWorker(int index) {
  const std::string state = absl::StrCat(dir_.path(), "/worker-", index);
  fs::create_directories(state);
  auto process = Start("sab-worker", absl::StrCat("worker-", index),
                       {"--coordinator", address_, "--state-dir", state, "--slots", absl::StrCat(options_.slots),
                        "--memory", options_.memory, "--device", "cpu", "--threads-per-slot", "1", "--advertise",
                        "127.0.0.1", "--metrics-listen", "127.0.0.1:0"});
  ASSERT_TRUE(process.ok()) << process.status();
  workers_[index].emplace(*std::move(process));
}

void Cluster::AwaitWorkers(int count) {
  EXPECT_TRUE(Eventually([&] {
    const auto workers = client_->ListWorkers();
    return workers.ok() && count == std::count_if(workers->begin(), workers->end(), [](const v1::Worker& worker) {
                             return worker.state() == v1::WORKER_STATE_READY;
                           });
  })) << count
      << " workers did not become ready\n"
      << Logs();
}

void Cluster::KillCoordinator() {
  coordinator_->Signal(SIGKILL);
  coordinator_->Wait();
}

void Cluster::KillWorker(int index) {
  workers_[index]->Signal(SIGKILL);
  workers_[index]->Wait();
}

Ran Cluster::Sabctl(const std::vector<std::string>& arguments) {
  std::vector<std::string> all = {"--address", address_};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return RunProgram(BinDir() + "/sabctl", all, dir_.path());
}

JobId Cluster::Submit(const std::string& yaml, const std::vector<std::string>& options) {
  const std::string file = absl::StrCat(dir_.path(), "/job-", ++runs_, ".yaml");
  std::ofstream(file) << yaml;
  std::vector<std::string> arguments = {"submit", file, "-o", "name"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  const Ran ran = Sabctl(arguments);
  EXPECT_EQ(ran.code, 0) << ran.err;
  const auto id =
      ParseJobName(absl::StripAsciiWhitespace(ran.out).empty() ? "" : std::string(absl::StripAsciiWhitespace(ran.out)));
  EXPECT_TRUE(id.ok()) << ran.out;
  return id.value_or(JobId());
}

v1::Job Cluster::Await(const JobId& job, const std::function<bool(const v1::Job&)>& condition) {
  client::Client watcher({.address = address_, .connect_timeout = absl::Seconds(60)});
  v1::Job last;
  const auto final = watcher.WatchJob(
      job,
      [&](const v1::Job& seen) {
        last = seen;
        if (condition(seen)) watcher.Cancel();
      },
      absl::Now() + kPatience);
  EXPECT_TRUE(condition(last)) << "waited in vain: " << final.status() << "\n" << last.DebugString() << Logs();
  return last;
}

v1::Job Cluster::AwaitFinal(const JobId& job) {
  return Await(job, [](const v1::Job& seen) { return client::IsFinal(seen.state()); });
}

std::vector<v1::Checkpoint> Cluster::AwaitCheckpoints(const JobId& job, size_t count) {
  std::vector<v1::Checkpoint> checkpoints;
  EXPECT_TRUE(Eventually([&] {
    checkpoints = client_->ListCheckpoints(job).value_or(std::vector<v1::Checkpoint>());
    return checkpoints.size() >= count;
  })) << Logs();
  return checkpoints;
}

v1::Job Cluster::AwaitTraining(const JobId& job, int64_t number) {
  return Await(job, [&](const v1::Job& seen) {
    return seen.attempt_count() == number && seen.state() == v1::JOB_STATE_RUNNING &&
           seen.step() > seen.attempts().rbegin()->start_step() + 50;
  });
}

v1::Checkpoint Cluster::Pause(const JobId& job) {
  EXPECT_EQ(Sabctl({"pause", job.value()}).code, 0);
  const v1::Job paused = Await(job, [](const v1::Job& seen) { return seen.state() == v1::JOB_STATE_PAUSED; });
  const v1::Checkpoint left = AwaitCheckpoints(job, 1).front();
  EXPECT_EQ(left.step(), paused.step());
  return left;
}

std::vector<pid_t> Cluster::AwaitTrainers(const JobId& job, int count) {
  std::vector<std::pair<std::string, pid_t>> found;
  EXPECT_TRUE(Eventually([&] {
    found.clear();
    // Agents note their trainers' processes. What is a trainer of an attempt that has ended is not counted.
    std::map<int, std::pair<int64_t, pid_t>> by_rank;
    for (int worker = 0; worker < options_.workers; ++worker) {
      std::error_code error;
      const std::string folder = absl::StrCat(dir_.path(), "/worker-", worker, "/trainers");
      for (const auto& entry : fs::directory_iterator(folder, error)) {
        const auto record = nlohmann::json::parse(Content(entry.path()), nullptr, /*allow_exceptions=*/false);
        if (!record.is_object() || record.value("job", "") != job.name()) continue;
        const std::pair<int64_t, pid_t> noted = {record.value("attempt", int64_t{0}), record.value("pid", 0)};
        if (Content(absl::StrCat("/proc/", noted.second, "/comm")) != "sab-trainer\n") continue;
        auto& newest = by_rank[record.value("rank", 0)];
        newest = std::max(newest, noted);
      }
    }
    for (const auto& [rank, noted] : by_rank) found.emplace_back(absl::StrCat(noted.first), noted.second);
    const bool one_attempt =
        std::all_of(found.begin(), found.end(), [&](const auto& f) { return f.first == found[0].first; });
    return static_cast<int>(found.size()) == count && one_attempt;
  })) << Logs();
  std::vector<pid_t> pids;
  for (const auto& [id, pid] : found) pids.push_back(pid);
  return pids;
}

std::string Cluster::Logs() const {
  std::string text;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(dir_.path() + "/logs", error)) {
    absl::StrAppend(&text, "--- ", entry.path().filename().string(), "\n", Content(entry.path()));
  }
  return text;
}

void ExpectNoBitLost(Cluster& cluster, const JobId& job, int replicas, const std::vector<std::string>& options) {
  const v1::Checkpoint left = cluster.Pause(job);
  const JobId undisturbed = cluster.Submit(CopyJob(replicas, static_cast<int>(left.step()), 0), options);
  const v1::Job final = cluster.AwaitFinal(undisturbed);
  ASSERT_EQ(final.state(), v1::JOB_STATE_SUCCEEDED) << final.failure();
  const v1::Checkpoint end = cluster.AwaitCheckpoints(undisturbed, 1).front();
  ASSERT_EQ(end.step(), left.step());
  for (const std::string_view file : {kModelFile, kOptimizerFile})
    EXPECT_EQ(DigestOf(left, file), DigestOf(end, file)) << file;
}

}  // namespace sab::e2e
