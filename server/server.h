#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "server/scheduling/cluster.h"

namespace sab::server {

// A whole coordinator in this process: store, state machine, services, metrics, threads.
class Server {
 public:
  struct Options {
    std::string state_dir;
    std::string listen;          // "HOST:PORT"; port 0 picks a free one
    std::string metrics_listen;  // the same; empty: no metrics server
    std::string checkpoint_dir;  // shared with the workers; empty: STATE/checkpoints, filled by uploads
    absl::Duration lease = absl::Seconds(5);
    std::vector<QueueConfig> queues;                // beside "default"
    absl::Duration stall_limit = absl::Minutes(1);  // after which a stream whose reader takes nothing is cut
    const Clock* clock = &SystemClock();
  };
  // Serving when it returns. Errors: those of Store::Open and MetricsServer::Start; Unavailable (reason
  // ADDRESS_IN_USE): `listen` is taken or not ours.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Options& options);
  // Shutdown without a deadline to speak of, unless it was called.
  virtual ~Server() = default;

  // As bound.
  virtual const std::string& address() const = 0;
  virtual const std::string& metrics_address() const = 0;
  virtual std::shared_ptr<grpc::Channel> InProcessChannel() = 0;

  // Refuses new calls, ends streams and held calls at once, gives the others `deadline` to finish, then cancels them.
  // Idempotent.
  virtual void Shutdown(absl::Duration deadline) = 0;
};

}  // namespace sab::server
