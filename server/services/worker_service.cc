#include "server/services/worker_service.h"

namespace sab::server {

grpc::Status WorkerService::ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                                        v1::ListWorkersResponse* response) {
  return Unary(context_.metrics, "ListWorkers", [&] {
    const std::vector<v1::Worker> workers = coordinator_->ListWorkers();
    *response->mutable_workers() = {workers.begin(), workers.end()};
    return absl::OkStatus();
  });
}

}  // namespace sab::server
