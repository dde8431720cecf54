#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "sab/v1/trainer_service.grpc.pb.h"

namespace sab::trainer {

// The trainer's calls on its agent (TrainerService). Thread-safe. Every call has a deadline; but for ReportProgress it
// waits for an agent that is not there yet. Aborted from any of them: this trainer is not wanted any more.
class AgentClient {
 public:
  // `on_unwanted` is called with the agent's words when it answers ABORTED, before that call returns; on its thread.
  AgentClient(std::shared_ptr<v1::TrainerService::Stub> stub, v1::TrainerId id,
              std::function<void(const std::string&)> on_unwanted);

  // Before there is a client: a standby waits to be told which trainer it shall be. Aborted: leave.
  static absl::StatusOr<v1::TrainerId> AwaitAssignment(v1::TrainerService::Stub& stub, int64_t standby);

  const v1::TrainerId& id() const { return id_; }
  absl::StatusOr<v1::GetAssignmentResponse> GetAssignment();
  absl::Status PublishRendezvous(const std::string& address);
  // Waits for rank 0, up to `timeout`.
  absl::StatusOr<std::string> AwaitRendezvous(absl::Duration timeout);
  // One try; `id` is filled in.
  absl::StatusOr<v1::ReportProgressResponse> ReportProgress(v1::ReportProgressRequest request);
  absl::Status PublishCheckpoint(const v1::Checkpoint& checkpoint);

 private:
  template <typename Response, typename Request, typename Method>
  absl::StatusOr<Response> Call(Method method, const Request& request, absl::Duration timeout, bool wait);

  const v1::TrainerId id_;
  const std::function<void(const std::string&)> on_unwanted_;
  const std::shared_ptr<v1::TrainerService::Stub> stub_;
};

}  // namespace sab::trainer
