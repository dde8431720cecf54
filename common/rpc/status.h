#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace sab::rpc {

// Codes are the same numbers; details (google.rpc.*) travel as a google.rpc.Status in the trailer
// `grpc-status-details-bin`.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace sab::rpc
