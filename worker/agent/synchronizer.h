#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/rpc/channel.h"
#include "sab/v1/agent_service.grpc.pb.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/trainer_manager.h"

namespace sab::agent {

// Keeps this worker's state and the coordinator's wishes in step: full state up, desired state down, one call held by
// the coordinator at any time. A local change sends the next call at once. While the coordinator is away trainers go on
// and calls are tried again.
class Synchronizer {
 public:
  struct Options {
    std::string worker;  // "workers/{worker}"
    int64_t incarnation = 0;
    std::string host;
    std::vector<v1::Slot> slots;
  };
  using Stub = v1::AgentService::StubInterface;
  // `connect` makes a stub on a connection of its own: the first, and one whenever a call was not answered in time. A
  // connection whose packets were dropped for a while sends again only after as long a while; a new one at once. The
  // others outlive this. `first_answer` is called once, on the thread of Run.
  Synchronizer(Options options, std::function<std::unique_ptr<Stub>()> connect, TrainerManager* manager,
               AgentMetrics* metrics, const Clock* clock, std::function<void()> first_answer);

  // Works until Stop (OK), or until a newer incarnation has taken over (Aborted).
  absl::Status Run();
  void Stop();
  // There is something to tell. Any thread.
  void Changed();
  // "" while the coordinator's last answer is younger than its lease, else what is wrong.
  std::string WhyNotReady();
  // After Run: tells the coordinator that this worker goes and what became of its trainers. Waits a second at most.
  void SayGoodbye();

 private:
  struct Call {
    std::shared_ptr<Stub> agents;  // outlives the context
    grpc::ClientContext context;
    v1::SynchronizeRequest request;
    v1::SynchronizeResponse response;
    absl::Duration started;
    absl::Duration overdue;  // when it is given up; gRPC's own deadlines follow the wall clock where that is set back
    bool done = false;
    bool given_up = false;
    absl::Status status;
  };
  v1::SynchronizeRequest MakeRequest();
  void StartCall();
  absl::Status TakeAnswer(const Call& call);
  void TakeError(const absl::Status& status);
  bool MayCallLocked(absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<std::shared_ptr<Call>> WaitForWork(bool* call_now);

  const Options options_;
  const std::function<std::unique_ptr<Stub>()> connect_;
  TrainerManager* const manager_;
  AgentMetrics* const metrics_;
  const Clock* const clock_;
  const std::function<void()> first_answer_;

  Mutex mutex_;
  CondVar changed_condition_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  bool changed_ ABSL_GUARDED_BY(mutex_) = true;
  std::vector<std::shared_ptr<Call>> calls_ ABSL_GUARDED_BY(mutex_);  // in flight or not yet taken, oldest first
  absl::Duration next_call_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  absl::Duration last_answer_ ABSL_GUARDED_BY(mutex_) = -absl::InfiniteDuration();
  absl::Duration lease_ ABSL_GUARDED_BY(mutex_) = absl::ZeroDuration();
  std::string last_error_ ABSL_GUARDED_BY(mutex_) = "no answer from the coordinator yet";
  bool failing_ ABSL_GUARDED_BY(mutex_) = false;

  // The thread's own.
  std::shared_ptr<Stub> agents_;
  int64_t sequence_ = 0;
  int64_t applied_sequence_ = 0;
  int64_t known_version_ = 0;
  bool answered_ = false;
  rpc::Backoff backoff_;
};

}  // namespace sab::agent
