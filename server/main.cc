// sab-coordinator: composes the coordinator and runs it until SIGTERM or SIGINT.
#include <pthread.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <cstring>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "server/scheduling/queue_file.h"
#include "server/server.h"

namespace {

constexpr absl::Duration kDrain = absl::Seconds(5);

constexpr char kExamples[] = R"(Examples:
  sab-coordinator --state-dir /var/lib/sab --listen 0.0.0.0:7070
  sab-coordinator --state-dir ./state --listen 127.0.0.1:0 --address-file ./address --checkpoint-dir /shared/checkpoints

SIGTERM or SIGINT: ends streams, finishes calls within 5 s, exits with 0. Trainers go on; a coordinator started again on the
same --state-dir adopts them.)";

struct Flags {
  sab::server::Server::Options server;
  std::string lease = "5s";
  std::string stall_limit = "1m";
  std::string queues_file;
  std::string address_file;
  std::string metrics_address_file;
};

void AddFlags(CLI::App& app, Flags& flags) {
  app.set_version_flag("--version", std::string("sab-coordinator ") + SAB_VERSION);
  app.add_option("--state-dir", flags.server.state_dir,
                 "Folder of jobs, figures and logs; made if missing; one coordinator at a time")
      ->required();
  app.add_option("--listen", flags.server.listen, "HOST:PORT of the API (gRPC); port 0 picks a free one")->required();
  flags.server.metrics_listen = "127.0.0.1:9464";
  app.add_option("--metrics-listen", flags.server.metrics_listen,
                 "HOST:PORT of /metrics, /healthz and /readyz; \"\" for none")
      ->capture_default_str();
  app.add_option("--checkpoint-dir", flags.server.checkpoint_dir,
                 "Folder that coordinator and workers share under this path; without it workers upload into "
                 "STATE_DIR/checkpoints");
  app.add_option("--lease", flags.lease, "Time without a call after which a worker counts as lost")
      ->capture_default_str();
  app.add_option("--stall-limit", flags.stall_limit,
                 "Time after which a stream whose reader takes nothing is cut; clients go on from where they were")
      ->capture_default_str();
  app.add_option("--queues", flags.queues_file, "File of the queues, with weights and quotas; see docs/SCHEDULING.md");
  app.add_option("--address-file", flags.address_file, "Gets the API's \"HOST:PORT\" once it is served");
  app.add_option("--metrics-address-file", flags.metrics_address_file, "The same for --metrics-listen");
  app.footer(kExamples);
}

absl::Status WriteAddress(const std::string& path, const std::string& address) {
  return path.empty() ? absl::OkStatus() : sab::WriteFileDurably(path, address + "\n");
}

absl::Status Run(Flags& flags, const sigset_t& signals) {
  if (!absl::ParseDuration(flags.lease, &flags.server.lease) || flags.server.lease < absl::Milliseconds(200)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--lease: must be a duration of at least 200ms, for example 5s, got \"", flags.lease, "\""));
  }
  if (!absl::ParseDuration(flags.stall_limit, &flags.server.stall_limit) ||
      flags.server.stall_limit < absl::Seconds(1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--stall-limit: must be a duration of at least 1s, for example 1m, got \"", flags.stall_limit, "\""));
  }
  if (!flags.queues_file.empty()) {
    SAB_ASSIGN_OR_RETURN(flags.server.queues, sab::server::ReadQueues(flags.queues_file));
  }
  SAB_ASSIGN_OR_RETURN(const auto server, sab::server::Server::Start(flags.server));
  SAB_RETURN_IF_ERROR(WriteAddress(flags.metrics_address_file, server->metrics_address()));
  SAB_RETURN_IF_ERROR(WriteAddress(flags.address_file, server->address()));
  sab::log::Info(absl::StrCat("serving on ", server->address(),
                              server->metrics_address().empty()
                                  ? ""
                                  : absl::StrCat(", metrics on http://", server->metrics_address(), "/metrics")));
  int signal = 0;
  sigwait(&signals, &signal);
  sab::log::Info(absl::StrCat("got ", strsignal(signal), ": shutting down"));
  server->Shutdown(kDrain);
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("The coordinator of sab: keeps jobs, places them on workers, serves the API.", "sab-coordinator");
  Flags flags;
  AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  // Before any thread exists: they all inherit it, and this one alone takes the signals.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  sab::log::Init("coordinator");
  const absl::Status status = Run(flags, signals);
  if (status.ok()) return 0;
  std::cerr << "sab-coordinator: " << status.message() << "\n";
  return absl::IsInvalidArgument(status) ? 2 : 1;
}
