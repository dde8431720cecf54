#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/format.h"
#include "client/process/child_process.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"

namespace sab::client {
namespace {

namespace fs = std::filesystem;

// How long children may take to leave before they are killed, and to come up.
constexpr absl::Duration kLeave = absl::Seconds(20);
constexpr absl::Duration kComeUp = absl::Seconds(60);
constexpr int kTailLines = 8;

struct UpOptions {
  int workers = 2;
  std::string state_dir;
  std::string listen = "127.0.0.1:7070";
  std::string address_file;
  std::string trainer;
};

std::string DefaultStateDir() {
  const char* state = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  if (state != nullptr && *state != '\0') return absl::StrCat(state, "/sab");
  return home != nullptr && *home != '\0' ? absl::StrCat(home, "/.local/state/sab") : "sab-state";
}

struct Member {
  std::string title;  // "worker 1"
  std::string log;
  ChildProcess process;
};

// A coordinator and workers as children of this process. Signals arrive on a descriptor, so that all waiting is in one
// place. Single-threaded.
class Cluster {
 public:
  Cluster(Context& context, const UpOptions& options)
      : context_(context), options_(options), dir_(fs::absolute(options.state_dir)) {}

  ~Cluster() {
    if (signals_ >= 0) close(signals_);
    if (changes_ >= 0) close(changes_);
    if (lock_ >= 0) close(lock_);
  }

  // Blocks until told to end, or a child ends by itself. Returns the exit code.
  int Run() {
    const absl::Status up = BringUp();
    if (up.ok()) {
      Announce();
      while (!told_to_end_ && !Fallen()) AwaitEvent(absl::InfiniteDuration());
    }
    if (!options_.address_file.empty() && announced_) unlink(options_.address_file.c_str());
    int code = kExitOk;
    if (Member* member = Fallen(); member != nullptr && !told_to_end_) {
      code = ReportFallen(*member);
    } else if (!up.ok() && !told_to_end_) {
      code = context_.Fail(up);
      if (code == kExitUnreachable) code = kExitFailed;
    }
    TakeDown();
    return code;
  }

 private:
  absl::Status BringUp() {
    SAB_RETURN_IF_ERROR(Prepare());
    SAB_RETURN_IF_ERROR(
        Start("coordinator", "sab-coordinator",
              {"--state-dir", Path("coordinator"), "--listen", options_.listen, "--metrics-listen", "127.0.0.1:0",
               "--checkpoint-dir", Path("checkpoints"), "--address-file", Path("run/coordinator.address"),
               "--metrics-address-file", Path("run/coordinator.metrics")}));
    SAB_ASSIGN_OR_RETURN(address_, AwaitFile("run/coordinator.address"));
    const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    for (int i = 0; i < options_.workers; ++i) {
      std::vector<std::string> arguments = {"--coordinator",
                                            address_,
                                            "--state-dir",
                                            Path(absl::StrCat("workers/", i)),
                                            "--slots",
                                            "1",
                                            "--device",
                                            "auto",
                                            "--threads-per-slot",
                                            absl::StrCat(std::max(1, cores / options_.workers)),
                                            "--memory",
                                            absl::StrCat(std::max(1, 94 / options_.workers), "%"),
                                            "--advertise",
                                            "127.0.0.1",
                                            "--metrics-listen",
                                            "127.0.0.1:0",
                                            "--metrics-address-file",
                                            Path(absl::StrCat("run/worker-", i, ".metrics"))};
      if (!options_.trainer.empty()) {
        arguments.push_back("--trainer");
        arguments.push_back(options_.trainer);
      }
      SAB_RETURN_IF_ERROR(Start(absl::StrCat("worker-", i), "sab-worker", std::move(arguments)));
    }
    for (int i = 0; i < options_.workers; ++i) {
      SAB_RETURN_IF_ERROR(AwaitFile(absl::StrCat("run/worker-", i, ".metrics")).status());
    }
    return AwaitWorkers();
  }

  std::string Path(const std::string& name) const { return (dir_ / name).string(); }

  absl::Status Prepare() {
    std::error_code error;
    for (const char* folder : {"coordinator", "checkpoints", "workers", "logs", "run"}) {
      fs::create_directories(dir_ / folder, error);
      if (error)
        return absl::FailedPreconditionError(absl::StrCat("cannot create ", Path(folder), ": ", error.message()));
    }
    for (int i = 0; i < options_.workers; ++i) fs::create_directories(dir_ / "workers" / std::to_string(i), error);
    lock_ = open(Path("lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (lock_ < 0 || flock(lock_, LOCK_EX | LOCK_NB) != 0) {
      return absl::FailedPreconditionError(
          absl::StrCat(dir_.string(), " is in use by another `sabctl up`; end that one, or name another --state-dir"));
    }
    for (const auto& entry : fs::directory_iterator(dir_ / "run", error)) fs::remove(entry.path(), error);
    sigset_t set;
    sigemptyset(&set);
    for (int signal : {SIGCHLD, SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
    // Before gRPC starts threads, which inherit the mask.
    sigprocmask(SIG_BLOCK, &set, nullptr);
    signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    changes_ = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (signals_ < 0 || changes_ < 0 ||
        inotify_add_watch(changes_, Path("run").c_str(), IN_MOVED_TO | IN_CLOSE_WRITE) < 0) {
      return absl::ErrnoToStatus(errno, "cannot watch " + Path("run"));
    }
    return absl::OkStatus();
  }

  absl::Status Start(const std::string& title, const std::string& program, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), absl::StrCat(ProgramFolder(), "/", program));
    const std::string log = Path(absl::StrCat("logs/", title, ".log"));
    SAB_ASSIGN_OR_RETURN(ChildProcess process, ChildProcess::Start({.command = std::move(arguments), .output = log}));
    members_.push_back(Member{title, log, std::move(process)});
    return absl::OkStatus();
  }

  // Waits for a signal, a file in run/, or `timeout`; takes note of the signals.
  void AwaitEvent(absl::Duration timeout) {
    pollfd events[] = {{signals_, POLLIN, 0}, {changes_, POLLIN, 0}};
    const int milliseconds = timeout == absl::InfiniteDuration()
                                 ? -1
                                 : static_cast<int>(std::max<int64_t>(0, absl::ToInt64Milliseconds(timeout)));
    poll(events, std::size(events), milliseconds);
    signalfd_siginfo info;
    while (read(signals_, &info, sizeof(info)) == sizeof(info)) {
      if (info.ssi_signo != SIGCHLD) {
        impatient_ = told_to_end_;
        told_to_end_ = true;
      }
    }
    char changes[4096];
    while (read(changes_, changes, sizeof(changes)) > 0) continue;
    for (Member& member : members_) member.process.Poll();
  }

  // The first member that has ended.
  Member* Fallen() {
    for (Member& member : members_) {
      if (!member.process.running()) return &member;
    }
    return nullptr;
  }

  // What stops bringing up: told to end, a member ended, too late.
  absl::Status MayGoOn(absl::Time deadline, const std::string& waits_for) {
    if (told_to_end_) return absl::CancelledError("ended while coming up");
    if (const Member* member = Fallen()) return absl::FailedPreconditionError(member->title + " has ended");
    if (absl::Now() < deadline) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("waited ", ShortDuration(kComeUp), " for ", waits_for, "; see the logs in ", Path("logs")));
  }

  absl::StatusOr<std::string> AwaitFile(const std::string& name) {
    const absl::Time deadline = absl::Now() + kComeUp;
    while (true) {
      if (auto text = ReadFile(Path(name)); text.ok() && !text->empty()) {
        return std::string(absl::StripAsciiWhitespace(*text));
      }
      SAB_RETURN_IF_ERROR(MayGoOn(deadline, name));
      AwaitEvent(deadline - absl::Now());
    }
  }

  // Until all of our workers have synchronised with this coordinator.
  absl::Status AwaitWorkers() {
    const absl::Time deadline = absl::Now() + kComeUp;
    context_.address = address_;
    while (true) {
      SAB_RETURN_IF_ERROR(MayGoOn(deadline, "the workers"));
      SAB_ASSIGN_OR_RETURN(const std::vector<v1::Worker> workers, context_.client().ListWorkers());
      const auto ready = std::count_if(workers.begin(), workers.end(), [&](const v1::Worker& worker) {
        return worker.state() == v1::WORKER_STATE_READY && ToTime(worker.last_sync_time()) >= started_;
      });
      if (ready >= options_.workers) {
        context_.Disconnect();
        return absl::OkStatus();
      }
      AwaitEvent(absl::Milliseconds(20));
    }
  }

  void Announce() {
    if (!options_.address_file.empty()) {
      if (absl::Status status = WriteFileDurably(options_.address_file, address_ + "\n"); !status.ok()) {
        context_.PrintError(std::string(status.message()));
      }
      announced_ = true;
    }
    if (context_.quiet) return;
    std::ostream& out = context_.streams.out;
    out << "coordinator  " << address_ << "   metrics http://" << MetricsAddress("coordinator") << "/metrics\n";
    for (int i = 0; i < options_.workers; ++i) {
      out << "worker " << i << "     ready" << std::string(address_.size() - std::min<size_t>(address_.size(), 5), ' ')
          << "   metrics http://" << MetricsAddress(absl::StrCat("worker-", i)) << "/metrics\n";
    }
    out << "state in " << dir_.string() << ", logs in " << Path("logs") << "\n";
    if (address_ != "127.0.0.1:7070") out << "use it with: export SAB_ADDRESS=" << address_ << "\n";
    out << "Ctrl-C ends it; jobs that are not done go on at the next start" << std::endl;
  }

  std::string MetricsAddress(const std::string& title) const {
    const auto text = ReadFile(Path(absl::StrCat("run/", title, ".metrics")));
    return text.ok() ? std::string(absl::StripAsciiWhitespace(*text)) : "?";
  }

  int ReportFallen(const Member& member) {
    std::string text = absl::StrCat(member.title, " (pid ", member.process.pid(), ") ", member.process.HowItEnded(),
                                    "; ending the others. Its log is ", member.log);
    const auto log = ReadFile(member.log);
    const std::vector<std::string> lines = absl::StrSplit(log.value_or(""), '\n', absl::SkipEmpty());
    const size_t from = lines.size() - std::min<size_t>(lines.size(), kTailLines);
    for (size_t i = from; i < lines.size(); ++i) absl::StrAppend(&text, "\n  ", lines[i]);
    context_.PrintError(text);
    return kExitFailed;
  }

  // Workers first, so that the coordinator hears of their trainers' ends; a second signal or kLeave ends all at once.
  void TakeDown() {
    const absl::Time deadline = absl::Now() + kLeave;
    if (members_.empty()) return;
    End({members_.begin() + 1, members_.end()}, deadline);
    End({members_.begin(), members_.begin() + 1}, deadline);
  }

  struct Range {
    std::vector<Member>::iterator begin, end;
  };
  void End(Range range, absl::Time deadline) {
    for (auto it = range.begin; it != range.end; ++it) it->process.Signal(SIGTERM);
    const auto running = [&] {
      return std::any_of(range.begin, range.end, [](Member& member) { return member.process.running(); });
    };
    while (running() && absl::Now() < deadline && !impatient_) AwaitEvent(deadline - absl::Now());
    for (auto it = range.begin; it != range.end; ++it) {
      if (!it->process.running()) continue;
      context_.PrintError(absl::StrCat(it->title, " did not leave and is killed"));
      it->process.Signal(SIGKILL);
      it->process.Wait();
    }
  }

  Context& context_;
  const UpOptions& options_;
  const fs::path dir_;
  const absl::Time started_ = absl::Now();
  std::string address_;
  std::vector<Member> members_;
  int signals_ = -1;
  int changes_ = -1;
  int lock_ = -1;
  bool told_to_end_ = false;
  bool impatient_ = false;
  bool announced_ = false;
};

}  // namespace

void AddUp(CLI::App& app, Context* context) {
  auto options = std::make_shared<UpOptions>();
  options->state_dir = DefaultStateDir();
  CLI::App* command = app.add_subcommand("up", "Run a coordinator and workers on this machine until Ctrl-C or SIGTERM");
  command->add_option("--workers", options->workers, "Number of workers, each with one slot")
      ->check(CLI::Range(1, 64).description(""))
      ->capture_default_str()
      ->type_name("N");
  command->add_option("--state-dir", options->state_dir, "Jobs, checkpoints and logs are kept here")
      ->capture_default_str()
      ->type_name("DIR");
  command->add_option("--listen", options->listen, "Where the coordinator listens; port 0 picks a free one")
      ->capture_default_str()
      ->type_name("HOST:PORT");
  command
      ->add_option("--address-file", options->address_file,
                   "Written once all workers are ready: the coordinator's HOST:PORT")
      ->type_name("FILE");
  command->add_option("--trainer", options->trainer, "The trainer program (sab-trainer beside this one otherwise)")
      ->type_name("FILE");
  command->footer(
      "Nothing is restarted silently: when one of them ends, that is said and the others are ended (exit code "
      "1).\n\nExamples:\n"
      "  sabctl up\n"
      "  sabctl up --workers 4 --state-dir /var/lib/sab --listen 0.0.0.0:7070\n"
      "  sabctl up --listen 127.0.0.1:0 --address-file /tmp/sab.address --quiet &");
  command->callback(
      [context, options] { context->action = [context, options] { return Cluster(*context, *options).Run(); }; });
}

}  // namespace sab::client
