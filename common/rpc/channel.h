#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <string>

#include "absl/time/time.h"

namespace sab::rpc {

// A channel to "HOST:PORT" or "unix:/path", with the keepalive that ConfigureServer permits. Connects in the
// background.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);

// Keepalive, message bound (4 MiB), no SO_REUSEPORT (a taken port is an error and not a shared port).
void ConfigureServer(grpc::ServerBuilder& builder);

// Every client call has a deadline.
void SetDeadline(grpc::ClientContext& context, absl::Duration timeout);

// Waits between retries: from `initial`, times 1.6 each, up to `max`, with 20 % jitter.
struct BackoffOptions {
  absl::Duration initial = absl::Milliseconds(50);
  absl::Duration max = absl::Seconds(2);
};
class Backoff {
 public:
  explicit Backoff(BackoffOptions options = {});
  absl::Duration Next();
  void Reset();

 private:
  BackoffOptions options_;
  absl::Duration current_;
};

}  // namespace sab::rpc
