#include "worker/trainer/agent_client.h"

#include "common/rpc/channel.h"
#include "common/rpc/status.h"

namespace sab::trainer {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(10);
constexpr absl::Duration kOneTry = absl::Seconds(5);
// The agent may fetch a checkpoint before it answers. Should it die meanwhile, this process is ended with it.
constexpr absl::Duration kAssignmentPatience = absl::Hours(1);
// Longer than the reporter waits for a silent agent: it is the one place that finds the agent gone.
constexpr absl::Duration kCheckpointPatience = absl::Seconds(60);

}  // namespace

AgentClient::AgentClient(std::shared_ptr<v1::TrainerService::Stub> stub, v1::TrainerId id,
                         std::function<void(const std::string&)> on_unwanted)
    : id_(std::move(id)), on_unwanted_(std::move(on_unwanted)), stub_(std::move(stub)) {}

absl::StatusOr<v1::TrainerId> AgentClient::AwaitAssignment(v1::TrainerService::Stub& stub, int64_t standby) {
  while (true) {
    grpc::ClientContext context;
    rpc::SetDeadline(context, kAssignmentPatience);
    context.set_wait_for_ready(true);
    v1::AwaitAssignmentRequest request;
    request.set_standby(standby);
    v1::AwaitAssignmentResponse response;
    const absl::Status status = rpc::FromGrpc(stub.AwaitAssignment(&context, request, &response));
    if (status.ok()) return response.id();
    if (!absl::IsDeadlineExceeded(status)) return status;
  }
}

// `wait`: for the agent's socket where it is not there yet.
template <typename Response, typename Request, typename Method>
absl::StatusOr<Response> AgentClient::Call(Method method, const Request& request, absl::Duration timeout, bool wait) {
  grpc::ClientContext context;
  rpc::SetDeadline(context, timeout);
  context.set_wait_for_ready(wait);
  Response response;
  const absl::Status status = rpc::FromGrpc((*stub_.*method)(&context, request, &response));
  if (absl::IsAborted(status)) on_unwanted_(std::string(status.message()));
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::GetAssignmentResponse> AgentClient::GetAssignment() {
  v1::GetAssignmentRequest request;
  *request.mutable_id() = id_;
  return Call<v1::GetAssignmentResponse>(&v1::TrainerService::Stub::GetAssignment, request, kAssignmentPatience, true);
}

absl::Status AgentClient::PublishRendezvous(const std::string& address) {
  v1::PublishRendezvousRequest request;
  *request.mutable_id() = id_;
  request.set_rendezvous(address);
  return Call<v1::PublishRendezvousResponse>(&v1::TrainerService::Stub::PublishRendezvous, request, kPatience, true)
      .status();
}

absl::StatusOr<std::string> AgentClient::AwaitRendezvous(absl::Duration timeout) {
  v1::AwaitRendezvousRequest request;
  *request.mutable_id() = id_;
  auto response = Call<v1::AwaitRendezvousResponse>(&v1::TrainerService::Stub::AwaitRendezvous, request, timeout, true);
  if (!response.ok()) return response.status();
  return response->rendezvous();
}

absl::StatusOr<v1::ReportProgressResponse> AgentClient::ReportProgress(v1::ReportProgressRequest request) {
  *request.mutable_id() = id_;
  return Call<v1::ReportProgressResponse>(&v1::TrainerService::Stub::ReportProgress, request, kOneTry, false);
}

absl::Status AgentClient::PublishCheckpoint(const v1::Checkpoint& checkpoint) {
  v1::PublishCheckpointRequest request;
  *request.mutable_id() = id_;
  *request.mutable_checkpoint() = checkpoint;
  return Call<v1::PublishCheckpointResponse>(&v1::TrainerService::Stub::PublishCheckpoint, request, kCheckpointPatience,
                                             true)
      .status();
}

}  // namespace sab::trainer
