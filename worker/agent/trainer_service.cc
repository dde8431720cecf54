#include "worker/agent/trainer_service.h"

#include <atomic>

#include "common/rpc/status.h"

namespace sab::agent {
namespace {

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(rpc::ToGrpc(status));
  return reactor;
}

// A call that waits in the manager until there is an answer or the caller goes. Deletes itself.
class WaitReactor : public grpc::ServerUnaryReactor {
 public:
  explicit WaitReactor(TrainerManager* manager) : manager_(manager) {}

  // The manager's token for the wait, once known; gRPC may have cancelled the call before that.
  void SetToken(int64_t token) {
    if (token_.exchange(token) == kCancelled && token != 0) manager_->CancelWait(token);
  }
  void OnCancel() override {
    if (const int64_t token = token_.exchange(kCancelled); token > 0) manager_->CancelWait(token);
  }
  void OnDone() override { delete this; }

 private:
  static constexpr int64_t kCancelled = -1;
  TrainerManager* const manager_;
  std::atomic<int64_t> token_{0};
};

}  // namespace

// In all waiting calls the reactor outlives the call of SetToken: gRPC lets it go only after this function has
// returned it.
grpc::ServerUnaryReactor* TrainerServiceImpl::GetAssignment(grpc::CallbackServerContext*,
                                                            const v1::GetAssignmentRequest* request,
                                                            v1::GetAssignmentResponse* response) {
  auto* reactor = new WaitReactor(manager_);
  reactor->SetToken(manager_->GetAssignment(request->id(), [=](absl::StatusOr<v1::GetAssignmentResponse> answer) {
    if (answer.ok()) *response = *std::move(answer);
    reactor->Finish(rpc::ToGrpc(answer.status()));
  }));
  return reactor;
}

grpc::ServerUnaryReactor* TrainerServiceImpl::AwaitRendezvous(grpc::CallbackServerContext*,
                                                              const v1::AwaitRendezvousRequest* request,
                                                              v1::AwaitRendezvousResponse* response) {
  auto* reactor = new WaitReactor(manager_);
  reactor->SetToken(manager_->AwaitRendezvous(request->id(), [=](absl::StatusOr<std::string> answer) {
    if (answer.ok()) response->set_rendezvous(*answer);
    reactor->Finish(rpc::ToGrpc(answer.status()));
  }));
  return reactor;
}

grpc::ServerUnaryReactor* TrainerServiceImpl::AwaitAssignment(grpc::CallbackServerContext*,
                                                              const v1::AwaitAssignmentRequest* request,
                                                              v1::AwaitAssignmentResponse* response) {
  auto* reactor = new WaitReactor(manager_);
  reactor->SetToken(manager_->AwaitAssignment(request->standby(), [=](absl::StatusOr<v1::TrainerId> answer) {
    if (answer.ok()) *response->mutable_id() = *std::move(answer);
    reactor->Finish(rpc::ToGrpc(answer.status()));
  }));
  return reactor;
}

grpc::ServerUnaryReactor* TrainerServiceImpl::AwaitRelease(grpc::CallbackServerContext*,
                                                           const v1::AwaitReleaseRequest* request,
                                                           v1::AwaitReleaseResponse* response) {
  auto* reactor = new WaitReactor(manager_);
  reactor->SetToken(manager_->AwaitRelease(request->id(), [=](absl::StatusOr<v1::TrainerId> answer) {
    if (answer.ok()) *response->mutable_next() = *std::move(answer);
    reactor->Finish(rpc::ToGrpc(answer.status()));
  }));
  return reactor;
}

grpc::ServerUnaryReactor* TrainerServiceImpl::PublishRendezvous(grpc::CallbackServerContext* context,
                                                                const v1::PublishRendezvousRequest* request,
                                                                v1::PublishRendezvousResponse*) {
  return Answer(context, manager_->PublishRendezvous(request->id(), request->rendezvous()));
}

grpc::ServerUnaryReactor* TrainerServiceImpl::ReportProgress(grpc::CallbackServerContext* context,
                                                             const v1::ReportProgressRequest* request,
                                                             v1::ReportProgressResponse* response) {
  const absl::StatusOr<bool> leave = manager_->ReportProgress(*request);
  if (leave.ok()) response->set_leave(*leave);
  return Answer(context, leave.status());
}

grpc::ServerUnaryReactor* TrainerServiceImpl::PublishCheckpoint(grpc::CallbackServerContext* context,
                                                                const v1::PublishCheckpointRequest* request,
                                                                v1::PublishCheckpointResponse*) {
  return Answer(context, manager_->PublishCheckpoint(*request));
}

}  // namespace sab::agent
