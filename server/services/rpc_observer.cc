#include "server/services/rpc_observer.h"

#include "common/rpc/status.h"

namespace sab::server {

grpc::Status RpcTimer::Done(const absl::Status& status) const {
  metrics_->ObserveRpc(method_, absl::StatusCodeToString(status.code()), SystemClock().Monotonic() - start_);
  return rpc::ToGrpc(status);
}

}  // namespace sab::server
