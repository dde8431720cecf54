#pragma once

#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "sab/v1/checkpoint_service.grpc.pb.h"
#include "sab/v1/trainer_service.pb.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/process.h"
#include "worker/agent/reconcile.h"
#include "worker/agent/relay.h"
#include "worker/agent/state_dir.h"

namespace sab::agent {

// The trainers of this worker: makes them match what the coordinator wants, and answers what they ask.
//
// A trainer is started with its slot free, lives as one process, and ends once: SUCCEEDED (it said so, and all it
// reported has been passed on), STOPPED (it was not wanted any more) or FAILED. Until its process has been reaped and,
// for SUCCEEDED, its relay is empty, it is reported as before. It is forgotten when the coordinator has answered a call
// that carried its end and does not want it any more. Thread-safe. Never blocks on RPCs or processes under its lock;
// answers and the listener are called without it.
class TrainerManager : public ProcessEvents {
 public:
  struct Options {
    std::string worker;  // "workers/{worker}"
    std::string host;
    std::vector<v1::Slot> slots;
    std::string trainer_path;
    std::string socket;  // "unix:PATH" of TrainerService
    absl::Duration stop_grace = absl::Seconds(5);
    absl::Duration failure_delay =
        absl::Milliseconds(500);  // for the last figures of a failed trainer to arrive before its end
  };
  struct Collaborators {  // all outlive the manager
    StateDir* state = nullptr;
    v1::AgentService::StubInterface* agents = nullptr;
    v1::CheckpointService::StubInterface* checkpoints = nullptr;
    AgentMetrics* metrics = nullptr;
    const Clock* clock = nullptr;
  };
  // `changed`: there is something to tell the coordinator at once.
  TrainerManager(Options options, Collaborators collaborators, std::function<void()> changed);
  // Kills what still runs.
  ~TrainerManager() override;

  // --- Towards the coordinator.
  // Adds every trainer to `request`, whose sequence is set.
  void Describe(v1::SynchronizeRequest* request);
  // Takes the answer to the call of that sequence.
  void Apply(const v1::SynchronizeResponse& response, int64_t sequence);
  // Time until the description changes by itself.
  absl::Duration TimeToChange();
  // A trainer of an earlier agent on this folder, which is gone: reported as FAILED.
  void AddLeftover(const TrainerKey& key);
  // Stops all trainers and waits until their processes are gone. What is wanted later is not started.
  void StopAll(const std::string& why);

  // --- Towards trainers (TrainerService). Aborted: `id` is not a trainer that shall run.
  // `answer` is called once, perhaps at once. The token is for CancelWait; 0 when it has been answered.
  using AssignmentAnswer = std::function<void(absl::StatusOr<v1::GetAssignmentResponse>)>;
  using RendezvousAnswer = std::function<void(absl::StatusOr<std::string>)>;
  int64_t GetAssignment(const v1::TrainerId& id, AssignmentAnswer answer);
  int64_t AwaitRendezvous(const v1::TrainerId& id, RendezvousAnswer answer);
  void CancelWait(int64_t token);
  absl::Status PublishRendezvous(const v1::TrainerId& id, const std::string& rendezvous);
  // True: the trainer is to leave, with a checkpoint.
  absl::StatusOr<bool> ReportProgress(const v1::ReportProgressRequest& request);
  absl::Status PublishCheckpoint(const v1::PublishCheckpointRequest& request);

  // ProcessEvents.
  void OnStarted(int64_t handle, int pid) override;
  void OnLines(int64_t handle, const std::vector<std::string>& lines) override;
  void OnEnd(int64_t handle, const ProcessEnd& end) override;

 private:
  struct Trainer;
  struct Wait {
    std::shared_ptr<Trainer> trainer;
    AssignmentAnswer assignment;  // one of the two
    RendezvousAnswer rendezvous;
  };
  using Answers = std::vector<std::function<void()>>;

  std::shared_ptr<Trainer> FindLocked(const TrainerKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::shared_ptr<Trainer>> WantedLocked(const v1::TrainerId& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Trainer> OfHandle(int64_t handle);
  void ReconcileLocked(std::vector<std::shared_ptr<Trainer>>* forgotten) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartLocked(const v1::TrainerAssignment& assignment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddEndedLocked(const TrainerKey& key, const std::string& failure) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  ProcessSpec SpecOf(const Trainer& trainer) const;
  void Prepare(Trainer* trainer);
  v1::TrainerPhase VisiblePhaseLocked(const Trainer& trainer, std::string* failure)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::GetAssignmentResponse AssignmentLocked(const Trainer& trainer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Answers the waits of `trainer` that can be answered now.
  void AnswerWaitsLocked(Trainer* trainer, Answers* answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetRendezvousLocked(const TrainerKey& of_rank0, const std::string& rendezvous, Answers* answers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReleaseDrained();

  const Options options_;
  const Collaborators with_;
  const std::function<void()> changed_;

  Mutex mutex_;
  CondVar all_ended_;
  std::map<TrainerKey, std::shared_ptr<Trainer>> trainers_ ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, std::shared_ptr<Trainer>> by_handle_ ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, Wait> waits_ ABSL_GUARDED_BY(mutex_);
  int64_t next_token_ ABSL_GUARDED_BY(mutex_) = 1;
  std::vector<v1::TrainerAssignment> desired_ ABSL_GUARDED_BY(mutex_);
  std::string shared_dir_ ABSL_GUARDED_BY(mutex_);
  std::string stopping_all_ ABSL_GUARDED_BY(mutex_);  // why; "" while running
  std::vector<std::shared_ptr<Trainer>> draining_
      ABSL_GUARDED_BY(mutex_);  // forgotten, but their last lines are on the way

  ProcessSupervisor supervisor_;  // last: its thread calls into all of the above
};

}  // namespace sab::agent
