#pragma once

#include "sab/v1/checkpoint_service.grpc.pb.h"
#include "server/coordinator/coordinator.h"
#include "server/services/watch_reactor.h"

namespace sab::server {

// sab.v1.CheckpointService over the coordinator and the checkpoints' files.
class CheckpointService final
    : public v1::CheckpointService::WithCallbackMethod_DownloadCheckpoint<v1::CheckpointService::Service> {
 public:
  CheckpointService(Coordinator* coordinator, ServiceContext context) : coordinator_(coordinator), context_(context) {}

  grpc::Status ListCheckpoints(grpc::ServerContext*, const v1::ListCheckpointsRequest*,
                               v1::ListCheckpointsResponse*) override;
  grpc::Status GetCheckpoint(grpc::ServerContext*, const v1::GetCheckpointRequest*,
                             v1::GetCheckpointResponse*) override;
  grpc::Status VerifyCheckpoint(grpc::ServerContext*, const v1::VerifyCheckpointRequest*,
                                v1::VerifyCheckpointResponse*) override;
  grpc::ServerWriteReactor<v1::DownloadCheckpointResponse>* DownloadCheckpoint(
      grpc::CallbackServerContext*, const v1::DownloadCheckpointRequest*) override;

 private:
  Coordinator* const coordinator_;
  const ServiceContext context_;
};

}  // namespace sab::server
