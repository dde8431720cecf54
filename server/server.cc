#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/metrics/http_server.h"
#include "common/rpc/channel.h"
#include "server/coordinator/coordinator.h"
#include "server/events/worker_thread.h"
#include "server/services/agent_service.h"
#include "server/services/checkpoint_service.h"
#include "server/services/job_service.h"
#include "server/services/log_service.h"
#include "server/services/metric_service.h"
#include "server/services/worker_service.h"

namespace sab::server {
namespace {

std::string HostOf(const std::string& address) {
  return address.substr(0, address.rfind(':'));
}

bool IsLoopback(const std::string& address) {
  const std::string host = HostOf(address);
  return host == "localhost" || host.rfind("127.", 0) == 0 || host == "[::1]" || address.rfind("unix:", 0) == 0;
}

class ServerImpl final : public Server {
 public:
  ServerImpl() : registry_(std::make_shared<prometheus::Registry>()), metrics_(registry_) {}
  ~ServerImpl() override { Shutdown(absl::ZeroDuration()); }

  absl::Status OpenStores(const Options& options) {
    SAB_ASSIGN_OR_RETURN(store_, Store::Open(options.state_dir));
    SAB_ASSIGN_OR_RETURN(metric_store_, MetricStore::Open(options.state_dir + "/metrics.db", {}));
    log_store_ = std::make_unique<LogStore>(options.state_dir + "/logs");
    Coordinator::Options settings;
    settings.lease = options.lease;
    settings.queues = options.queues;
    settings.checkpoint_dir_shared = !options.checkpoint_dir.empty();
    std::error_code error;
    settings.checkpoint_dir = std::filesystem::absolute(
        settings.checkpoint_dir_shared ? options.checkpoint_dir : options.state_dir + "/checkpoints", error);
    settings.check_paths = IsLoopback(options.listen);
    std::filesystem::create_directories(settings.checkpoint_dir, error);
    if (error) {
      return WithReason(absl::UnavailableError(
                            absl::StrCat("the checkpoint folder ", settings.checkpoint_dir, ": ", error.message())),
                        "STORE_UNAVAILABLE");
    }
    SAB_ASSIGN_OR_RETURN(coordinator_, Coordinator::Create(settings, {.store = store_.get(),
                                                                      .metric_store = metric_store_.get(),
                                                                      .log_store = log_store_.get(),
                                                                      .hub = &hub_,
                                                                      .metrics = &metrics_,
                                                                      .clock = options.clock}));
    return absl::OkStatus();
  }

  absl::Status Serve(const Options& options) {
    if (!options.metrics_listen.empty()) {
      SAB_ASSIGN_OR_RETURN(metrics_server_,
                           MetricsServer::Start(registry_, {.listen = options.metrics_listen, .ready = [this] {
                                                              return serving_.load() ? std::string()
                                                                                     : std::string("not serving");
                                                            }}));
      metrics_address_ = metrics_server_->address();
    }
    streams_ = std::make_unique<OpenStreams>(OpenStreams::Options{.stall_limit = options.stall_limit}, &SystemClock());
    const ServiceContext context{.hub = &hub_, .metrics = &metrics_, .streams = streams_.get(), .draining = &draining_};
    jobs_ = std::make_unique<JobService>(coordinator_.get(), context);
    figures_ = std::make_unique<MetricService>(coordinator_.get(), metric_store_.get(), context);
    logs_ = std::make_unique<LogService>(coordinator_.get(), log_store_.get(), context);
    checkpoints_ = std::make_unique<CheckpointService>(coordinator_.get(), context);
    workers_ = std::make_unique<WorkerService>(coordinator_.get(), context);
    agents_ = std::make_unique<AgentService>(coordinator_.get(), context);

    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    rpc::ConfigureServer(builder);
    int port = 0;
    builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
    for (grpc::Service* service : std::initializer_list<grpc::Service*>{
             jobs_.get(), figures_.get(), logs_.get(), checkpoints_.get(), workers_.get(), agents_.get()}) {
      builder.RegisterService(service);
    }
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || (port == 0 && options.listen.rfind("unix:", 0) != 0)) {
      return WithReason(absl::UnavailableError(
                            absl::StrCat("cannot listen on ", options.listen,
                                         ": the address is taken or not one of this machine; choose another --listen "
                                         "(port 0 picks a free one)")),
                        "ADDRESS_IN_USE");
    }
    address_ = port == 0 ? options.listen : absl::StrCat(HostOf(options.listen), ":", port);
    StartThreads();
    serving_.store(true);
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }
  const std::string& metrics_address() const override { return metrics_address_; }
  std::shared_ptr<grpc::Channel> InProcessChannel() override {
    return server_->InProcessChannel(grpc::ChannelArguments());
  }

  void Shutdown(absl::Duration deadline) override {
    if (server_ == nullptr) return;
    serving_.store(false);
    draining_.store(true);
    hub_.PublishAll();
    server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(deadline));
    server_->Wait();
    server_.reset();
    ticker_.reset();
    background_.reset();
    stall_watch_.reset();
  }

 private:
  void StartThreads() {
    ticker_ = std::make_shared<WorkerThread>([this, due = absl::InfiniteDuration()]() mutable {
      const absl::Duration now = SystemClock().Monotonic();
      const absl::Duration wait = coordinator_->Tick(std::max(absl::ZeroDuration(), now - due));
      due = SystemClock().Monotonic() + wait;
      return wait;
    });
    background_ = std::make_shared<WorkerThread>([this] {
      while (!draining_.load() && coordinator_->RunBackgroundTask()) {
      }
      return absl::InfiniteDuration();
    });
    stall_watch_ = std::make_shared<WorkerThread>([this] {
      const absl::Duration again = streams_->CutStalled();
      metrics_.streams_cut.Increment(static_cast<double>(streams_->cut()) - metrics_.streams_cut.Value());
      return again;
    });
    hub_.Subscribe(kTimerKey, ticker_);
    hub_.Subscribe(kBackgroundKey, background_);
    // What was published before they listened.
    ticker_->OnChange();
    background_->OnChange();
  }

  // In order of use: each is used by those below it.
  const std::shared_ptr<prometheus::Registry> registry_;
  CoordinatorMetrics metrics_;
  std::atomic<bool> serving_ = false;
  std::atomic<bool> draining_ = false;
  std::unique_ptr<Store> store_;
  std::unique_ptr<MetricStore> metric_store_;
  std::unique_ptr<LogStore> log_store_;
  ChangeHub hub_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<MetricsServer> metrics_server_;
  std::unique_ptr<OpenStreams> streams_;
  std::unique_ptr<JobService> jobs_;
  std::unique_ptr<MetricService> figures_;
  std::unique_ptr<LogService> logs_;
  std::unique_ptr<CheckpointService> checkpoints_;
  std::unique_ptr<WorkerService> workers_;
  std::unique_ptr<AgentService> agents_;
  std::shared_ptr<WorkerThread> ticker_;
  std::shared_ptr<WorkerThread> background_;
  std::shared_ptr<WorkerThread> stall_watch_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::string metrics_address_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Options& options) {
  auto server = std::make_unique<ServerImpl>();
  SAB_RETURN_IF_ERROR(server->OpenStores(options));
  SAB_RETURN_IF_ERROR(server->Serve(options));
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace sab::server
