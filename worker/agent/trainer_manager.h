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
#include "worker/agent/standby.h"
#include "worker/agent/state_dir.h"
#include "worker/agent/watchdog.h"

namespace sab::agent {

// The trainers of this worker: makes them match what the coordinator wants, and answers what they ask.
//
// A trainer is started with its slot free, lives as one process, and ends once: SUCCEEDED (it said so, and all it
// reported has been passed on), STOPPED (it was not wanted any more) or FAILED. Until its process has been reaped and,
// for SUCCEEDED, its relay is empty, it is reported as before. It is forgotten when the coordinator has answered a call
// that carried its end and does not want it any more. Its process may also be handed over to the trainer that the same
// job wants in this slot in its next attempt: then it is reported as STOPPED while the process goes on as the other.
// A process that hangs (see Watchdog) is killed, and its trainer FAILED. Thread-safe. Never blocks on RPCs or processes
// under its lock; answers and the listener are called without it.
class TrainerManager : public ProcessEvents {
 public:
  struct Options {
    std::string worker;  // "workers/{worker}"
    std::string host;
    std::vector<v1::Slot> slots;
    std::string trainer_path;
    std::string socket;  // "unix:PATH" of TrainerService
    int standby = 0;     // processes that are kept ready to become trainers
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
  // From now on, standbys are kept: their calls can be answered.
  void StartStandbys();

  // --- Towards trainers (TrainerService). Aborted: `id` is not a trainer that shall run.
  // `answer` is called once, perhaps at once. The token is for CancelWait; 0 when it has been answered.
  using AssignmentAnswer = std::function<void(absl::StatusOr<v1::GetAssignmentResponse>)>;
  using RendezvousAnswer = std::function<void(absl::StatusOr<std::string>)>;
  using TrainerAnswer = std::function<void(absl::StatusOr<v1::TrainerId>)>;
  int64_t GetAssignment(const v1::TrainerId& id, AssignmentAnswer answer);
  int64_t AwaitRelease(const v1::TrainerId& id, TrainerAnswer answer);
  int64_t AwaitAssignment(int64_t standby, TrainerAnswer answer);
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
    std::shared_ptr<Trainer> trainer;  // absent: a standby waits
    int64_t standby = 0;
    AssignmentAnswer assignment;  // one of the three
    RendezvousAnswer rendezvous;
    TrainerAnswer trainer_id;
    void Refuse(const absl::Status& status) const;
  };
  using Answers = std::vector<std::function<void()>>;

  std::shared_ptr<Trainer> FindLocked(const TrainerKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::shared_ptr<Trainer>> WantedLocked(const v1::TrainerId& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Trainer> OfHandle(int64_t handle);
  void ReconcileLocked(std::vector<std::shared_ptr<Trainer>>* forgotten, Answers* answers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::shared_ptr<Trainer> MakeTrainerLocked(const v1::TrainerAssignment& assignment)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartLocked(const v1::TrainerAssignment& assignment, Answers* answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void HandOverLocked(const std::shared_ptr<Trainer>& old, const v1::TrainerAssignment& assignment, Answers* answers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AnswerStandbyLocked(int64_t standby, const v1::TrainerId& id, Answers* answers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RecordLater(const Trainer& trainer, Answers* answers);
  void FillStandbysLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnStandbyEnd(int64_t handle, const ProcessEnd& end);
  void Watch();
  void Look(Trainer& trainer, absl::Duration elapsed, const ProcessSample& sample);
  int64_t AddWait(const v1::TrainerId& id, Wait wait);
  void AddEndedLocked(const TrainerKey& key, const std::string& failure) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  ProcessSpec SpecOf(const v1::Slot& slot, const std::string& identity) const;
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
  CondVar watched_changed_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  StandbyPool standbys_ ABSL_GUARDED_BY(mutex_);
  absl::Duration lease_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(10);
  std::map<TrainerKey, std::shared_ptr<Trainer>> trainers_ ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, std::shared_ptr<Trainer>> by_handle_ ABSL_GUARDED_BY(mutex_);
  std::map<int64_t, Wait> waits_ ABSL_GUARDED_BY(mutex_);
  int64_t next_token_ ABSL_GUARDED_BY(mutex_) = 1;
  std::vector<v1::TrainerAssignment> desired_ ABSL_GUARDED_BY(mutex_);
  std::string shared_dir_ ABSL_GUARDED_BY(mutex_);
  std::string stopping_all_ ABSL_GUARDED_BY(mutex_);  // why; "" while running
  std::vector<std::shared_ptr<Trainer>> draining_
      ABSL_GUARDED_BY(mutex_);  // forgotten, but their last lines are on the way

  ProcessSupervisor supervisor_;  // its thread calls into all of the above
  std::thread watching_;          // last: it uses all of the above
};

}  // namespace sab::agent
