#pragma once

#include <functional>
#include <optional>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "sab/v1/trainer_service.grpc.pb.h"

namespace sab::trainer {

// A pending AwaitRelease: the agent's way to make this process another trainer of its job. Thread-safe.
class Release {
 public:
  // `on_release` is called on a thread of gRPC's, once, when the agent has answered with the next trainer.
  Release(std::shared_ptr<v1::TrainerService::Stub> stub, const v1::TrainerId& id, std::function<void()> on_release);
  // Ends the call.
  ~Release();

  // Waits for the answer, up to `patience`. Nothing: the agent has none, or refused, or does not know the call.
  std::optional<v1::TrainerId> Await(absl::Duration patience) ABSL_LOCKS_EXCLUDED(mutex_);
  // The call has ended without a next trainer.
  bool refused() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const std::shared_ptr<v1::TrainerService::Stub> stub_;
  const std::function<void()> on_release_;
  grpc::ClientContext context_;
  v1::AwaitReleaseRequest request_;
  v1::AwaitReleaseResponse response_;  // gRPC's until the call is done
  mutable Mutex mutex_;
  CondVar changed_;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<v1::TrainerId> next_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sab::trainer
