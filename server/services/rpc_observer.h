#pragma once

#include <grpcpp/support/status.h>

#include <exception>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "server/coordinator_metrics.h"

namespace sab::server {

// Counts and times one RPC from construction until Done.
class RpcTimer {
 public:
  RpcTimer(CoordinatorMetrics* metrics, const char* method)
      : metrics_(metrics), method_(method), start_(SystemClock().Monotonic()) {}
  // Returns `status` as it travels, counted. Once.
  grpc::Status Done(const absl::Status& status) const;

 private:
  CoordinatorMetrics* const metrics_;
  const char* const method_;
  const absl::Duration start_;
};

// Answers a unary RPC with the absl::Status that `call` returns. Exceptions of libraries become Internal.
template <typename Call>
grpc::Status Unary(CoordinatorMetrics* metrics, const char* method, Call call) {
  const RpcTimer timer(metrics, method);
  try {
    return timer.Done(call());
  } catch (const std::exception& error) {
    return timer.Done(absl::InternalError(std::string(method) + ": " + error.what()));
  }
}

}  // namespace sab::server
