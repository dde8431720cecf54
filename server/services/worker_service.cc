#include "server/services/worker_service.h"

#include "common/base/status.h"

namespace sab::server {

grpc::Status WorkerService::ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*,
                                        v1::ListWorkersResponse* response) {
  return Unary(context_.metrics, "ListWorkers", [&] {
    const std::vector<v1::Worker> workers = coordinator_->ListWorkers();
    *response->mutable_workers() = {workers.begin(), workers.end()};
    return absl::OkStatus();
  });
}

grpc::Status WorkerService::DrainWorker(grpc::ServerContext*, const v1::DrainWorkerRequest* request,
                                        v1::DrainWorkerResponse* response) {
  return Unary(context_.metrics, "DrainWorker", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const WorkerId id, ParseWorkerName(request->name()));
    SAB_ASSIGN_OR_RETURN(*response->mutable_worker(), coordinator_->DrainWorker(id, true, request->stop_jobs()));
    return absl::OkStatus();
  });
}

grpc::Status WorkerService::UndrainWorker(grpc::ServerContext*, const v1::UndrainWorkerRequest* request,
                                          v1::UndrainWorkerResponse* response) {
  return Unary(context_.metrics, "UndrainWorker", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const WorkerId id, ParseWorkerName(request->name()));
    SAB_ASSIGN_OR_RETURN(*response->mutable_worker(), coordinator_->DrainWorker(id, false, false));
    return absl::OkStatus();
  });
}

}  // namespace sab::server
