#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "common/metrics/http_server.h"
#include "common/rpc/channel.h"
#include "grpcpp/server.h"
#include "worker/agent/inventory.h"
#include "worker/agent/state_dir.h"
#include "worker/agent/synchronizer.h"
#include "worker/agent/trainer_manager.h"
#include "worker/agent/trainer_service.h"

namespace sab::agent {
namespace {

struct Flags {
  std::string coordinator;
  std::string state_dir;
  SlotOptions slots;
  std::string advertise;
  std::string trainer;
  int standby = 1;
  std::string metrics_listen = "127.0.0.1:9465";
  std::string metrics_address_file;
  std::string ready_file;
};

// The trainers' socket. Paths of sockets are short (sun_path): a long state folder gets a private folder under /tmp
// instead.
class SocketPath {
 public:
  explicit SocketPath(const std::string& state_dir) : path_(state_dir + "/agent.sock") {
    constexpr size_t kMostBytes = 100;
    if (path_.size() > kMostBytes) {
      char pattern[] = "/tmp/sab-agent-XXXXXX";
      if (mkdtemp(pattern) != nullptr) folder_ = pattern;
      path_ = folder_ + "/agent.sock";
    }
    unlink(path_.c_str());  // of an earlier agent; the state folder's lock is held
  }
  ~SocketPath() {
    unlink(path_.c_str());
    if (!folder_.empty()) rmdir(folder_.c_str());
  }
  SocketPath(const SocketPath&) = delete;
  SocketPath& operator=(const SocketPath&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string folder_;
  std::string path_;
};

std::string DefaultTrainer() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "sab-trainer";
}

void AddFlags(CLI::App* app, Flags* flags) {
  app->add_option("--coordinator", flags->coordinator, "HOST:PORT of the coordinator")->required();
  app->add_option("--state-dir", flags->state_dir, "folder for identity, logs and local checkpoints")->required();
  app->add_option("--slots", flags->slots.cpu_slots, "CPU slots, when there is no GPU or --device is cpu")
      ->default_val(1)
      ->check(CLI::Range(1, 1024));
  app->add_option("--device", flags->slots.device, "auto: one slot a GPU, else CPU slots")
      ->default_val("auto")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app->add_option("--threads-per-slot", flags->slots.threads, "threads of a CPU trainer (default: cores / slots)")
      ->check(CLI::Range(1, 4096));
  app->add_option("--memory", flags->slots.memory,
                  "memory that the trainers on CPU slots may use together: 12GiB, 50%, 0: not counted (default: the "
                  "machine's or the control group's, less a sixteenth)");
  app->add_option("--advertise", flags->advertise,
                  "host that other workers reach this one at (default: the address towards the coordinator)");
  app->add_option("--trainer", flags->trainer, "the trainer's program (default: sab-trainer beside this one)");
  app->add_option("--standby", flags->standby,
                  "trainers kept warm, libraries loaded, so that a rank that dies is replaced at once; 0: none")
      ->capture_default_str()
      ->check(CLI::Range(0, 64));
  app->add_option("--metrics-listen", flags->metrics_listen,
                  "HOST:PORT of /metrics, /healthz, /readyz; port 0: a free one")
      ->capture_default_str();
  app->add_option("--metrics-address-file", flags->metrics_address_file, "file that the metrics address is written to");
  app->add_option("--ready-file", flags->ready_file,
                  "file written when the coordinator has answered for the first time");
}

// Waits for SIGTERM, SIGINT, or `wake`.
void WaitForEnd(const sigset_t& signals, int wake) {
  const int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
  pollfd waits[] = {{signal_fd, POLLIN, 0}, {wake, POLLIN, 0}};
  while (poll(waits, 2, -1) < 0 && errno == EINTR) {
  }
  if (waits[0].revents != 0) log::Info("asked to end");
  close(signal_fd);
}

absl::StatusOr<std::unique_ptr<grpc::Server>> Serve(grpc::Service* service, const SocketPath& socket) {
  grpc::ServerBuilder builder;
  rpc::ConfigureServer(builder);
  builder.AddListeningPort("unix:" + socket.path(), grpc::InsecureServerCredentials());
  builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return absl::UnavailableError(absl::StrCat("cannot listen on ", socket.path()));
  chmod(socket.path().c_str(), 0600);
  return server;
}

absl::Status Run(Flags flags, const sigset_t& signals) {
  SAB_ASSIGN_OR_RETURN(StateDir state, StateDir::Open(flags.state_dir));
  if (flags.trainer.empty()) flags.trainer = DefaultTrainer();
  if (access(flags.trainer.c_str(), X_OK) != 0) {
    return absl::NotFoundError(
        absl::StrCat("the trainer ", flags.trainer, " is not a program; name it with --trainer"));
  }
  flags.trainer = std::filesystem::absolute(flags.trainer).string();
  if (flags.advertise.empty()) {
    SAB_ASSIGN_OR_RETURN(flags.advertise, LocalAddressTowards(flags.coordinator));
  }
  SAB_ASSIGN_OR_RETURN(const std::vector<v1::Slot> slots, MakeSlots(ExamineMachine(), flags.slots));
  const std::vector<TrainerKey> leftovers = state.EndLeftovers();
  SAB_ASSIGN_OR_RETURN(const int64_t incarnation, state.NextIncarnation(SystemClock().Now()));

  const auto registry = std::make_shared<prometheus::Registry>();
  AgentMetrics metrics(registry);
  metrics.SetSlots(slots[0].device(), static_cast<int>(slots.size()));
  const auto channel = rpc::MakeChannel(flags.coordinator);
  const auto agents = v1::AgentService::NewStub(channel);
  const auto checkpoints = v1::CheckpointService::NewStub(channel);
  const SocketPath socket(state.path());
  std::unique_ptr<Synchronizer> synchronizer;
  TrainerManager manager({.worker = state.worker().name(),
                          .host = flags.advertise,
                          .slots = slots,
                          .trainer_path = flags.trainer,
                          .socket = "unix:" + socket.path(),
                          .standby = flags.standby},
                         {.state = &state,
                          .agents = agents.get(),
                          .checkpoints = checkpoints.get(),
                          .metrics = &metrics,
                          .clock = &SystemClock()},
                         [&synchronizer] { synchronizer->Changed(); });
  synchronizer = std::make_unique<Synchronizer>(
      Synchronizer::Options{
          .worker = state.worker().name(), .incarnation = incarnation, .host = flags.advertise, .slots = slots},
      [&flags] { return v1::AgentService::NewStub(rpc::MakeChannel(flags.coordinator)); }, &manager, &metrics,
      &SystemClock(),
      [&] {
        log::Info(absl::StrCat(state.worker().name(), " has joined ", flags.coordinator, " with ", slots.size(), " ",
                               slots[0].device(), " slots"));
        if (flags.ready_file.empty()) return;
        if (auto status = WriteFileDurably(flags.ready_file, state.worker().name() + "\n"); !status.ok())
          log::Error(status.ToString());
      });
  for (const TrainerKey& key : leftovers) manager.AddLeftover(key);
  TrainerServiceImpl service(&manager);
  SAB_ASSIGN_OR_RETURN(const std::unique_ptr<grpc::Server> server, Serve(&service, socket));
  manager.StartStandbys();
  SAB_ASSIGN_OR_RETURN(const auto metrics_server,
                       MetricsServer::Start(registry, {.listen = flags.metrics_listen,
                                                       .ready = [&] { return synchronizer->WhyNotReady(); }}));
  if (!flags.metrics_address_file.empty()) {
    SAB_RETURN_IF_ERROR(WriteFileDurably(flags.metrics_address_file, metrics_server->address() + "\n"));
  }

  const int wake = eventfd(0, EFD_CLOEXEC);
  absl::Status result;
  std::thread synchronizing([&] {
    result = synchronizer->Run();
    eventfd_write(wake, 1);
  });
  WaitForEnd(signals, wake);
  synchronizer->Stop();
  synchronizing.join();
  close(wake);
  manager.StopAll("the worker was shut down");
  if (result.ok()) synchronizer->SayGoodbye();
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  return result;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Runs the trainers of one machine for a sab coordinator.", "sab-worker");
  app.set_version_flag("--version", absl::StrCat("sab-worker ", SAB_VERSION));
  AddFlags(&app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  log::Init("worker");
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread: all inherit it
  signal(SIGPIPE, SIG_IGN);
  const absl::Status status = Run(std::move(flags), signals);
  if (!status.ok()) log::Error(std::string(status.message()));
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace sab::agent

int main(int argc, char** argv) {
  return sab::agent::Main(argc, argv);
}
