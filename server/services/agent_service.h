#pragma once

#include "sab/v1/agent_service.grpc.pb.h"
#include "server/coordinator/coordinator.h"
#include "server/services/hold_timer.h"
#include "server/services/watch_reactor.h"

namespace sab::server {

// sab.v1.AgentService over the coordinator. A held Synchronize holds no thread; an upload or a verification holds one
// while it works.
class AgentService final : public v1::AgentService::WithCallbackMethod_Synchronize<v1::AgentService::Service> {
 public:
  AgentService(Coordinator* coordinator, ServiceContext context) : coordinator_(coordinator), context_(context) {}

  grpc::ServerUnaryReactor* Synchronize(grpc::CallbackServerContext*, const v1::SynchronizeRequest*,
                                        v1::SynchronizeResponse*) override;
  grpc::Status ReportMetrics(grpc::ServerContext*, const v1::ReportMetricsRequest*,
                             v1::ReportMetricsResponse*) override;
  grpc::Status ReportLogs(grpc::ServerContext*, const v1::ReportLogsRequest*, v1::ReportLogsResponse*) override;
  grpc::Status RecordCheckpoint(grpc::ServerContext*, const v1::RecordCheckpointRequest*,
                                v1::RecordCheckpointResponse*) override;
  grpc::Status UploadCheckpoint(grpc::ServerContext*, grpc::ServerReader<v1::UploadCheckpointRequest>*,
                                v1::UploadCheckpointResponse*) override;

 private:
  Coordinator* const coordinator_;
  const ServiceContext context_;
  HoldTimer hold_timer_;
};

}  // namespace sab::server
