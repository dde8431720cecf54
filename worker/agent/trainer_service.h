#pragma once

#include "sab/v1/trainer_service.grpc.pb.h"
#include "worker/agent/trainer_manager.h"

namespace sab::agent {

// TrainerService over a TrainerManager. Waiting calls hold no thread.
class TrainerServiceImpl final : public v1::TrainerService::CallbackService {
 public:
  // `manager` outlives this.
  explicit TrainerServiceImpl(TrainerManager* manager) : manager_(manager) {}

  grpc::ServerUnaryReactor* AwaitAssignment(grpc::CallbackServerContext* context,
                                            const v1::AwaitAssignmentRequest* request,
                                            v1::AwaitAssignmentResponse* response) override;
  grpc::ServerUnaryReactor* AwaitRelease(grpc::CallbackServerContext* context, const v1::AwaitReleaseRequest* request,
                                         v1::AwaitReleaseResponse* response) override;
  grpc::ServerUnaryReactor* GetAssignment(grpc::CallbackServerContext* context, const v1::GetAssignmentRequest* request,
                                          v1::GetAssignmentResponse* response) override;
  grpc::ServerUnaryReactor* PublishRendezvous(grpc::CallbackServerContext* context,
                                              const v1::PublishRendezvousRequest* request,
                                              v1::PublishRendezvousResponse* response) override;
  grpc::ServerUnaryReactor* AwaitRendezvous(grpc::CallbackServerContext* context,
                                            const v1::AwaitRendezvousRequest* request,
                                            v1::AwaitRendezvousResponse* response) override;
  grpc::ServerUnaryReactor* ReportProgress(grpc::CallbackServerContext* context,
                                           const v1::ReportProgressRequest* request,
                                           v1::ReportProgressResponse* response) override;
  grpc::ServerUnaryReactor* PublishCheckpoint(grpc::CallbackServerContext* context,
                                              const v1::PublishCheckpointRequest* request,
                                              v1::PublishCheckpointResponse* response) override;

 private:
  TrainerManager* const manager_;
};

}  // namespace sab::agent
