#pragma once

#include "sab/v1/worker_service.grpc.pb.h"
#include "server/coordinator/coordinator.h"
#include "server/services/watch_reactor.h"

namespace sab::server {

// sab.v1.WorkerService over the coordinator.
class WorkerService final : public v1::WorkerService::Service {
 public:
  WorkerService(Coordinator* coordinator, ServiceContext context) : coordinator_(coordinator), context_(context) {}

  grpc::Status ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest*, v1::ListWorkersResponse*) override;
  grpc::Status DrainWorker(grpc::ServerContext*, const v1::DrainWorkerRequest*, v1::DrainWorkerResponse*) override;
  grpc::Status UndrainWorker(grpc::ServerContext*, const v1::UndrainWorkerRequest*,
                             v1::UndrainWorkerResponse*) override;

 private:
  Coordinator* const coordinator_;
  const ServiceContext context_;
};

}  // namespace sab::server
