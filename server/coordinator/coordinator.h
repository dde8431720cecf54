#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "sab/v1/agent_service.pb.h"
#include "sab/v1/job_service.pb.h"
#include "server/coordinator/checkpoint_files.h"
#include "server/coordinator/halving.h"
#include "server/coordinator_metrics.h"
#include "server/events/change_hub.h"
#include "server/lease/lease_table.h"
#include "server/scheduling/scheduling.h"
#include "server/store/log_store.h"
#include "server/store/metric_store.h"
#include "server/store/store.h"

namespace sab::server {

// Keys of ChangeHub besides the resource names of jobs ("jobs/x": the job changed) and workers ("workers/x": its
// desired state changed or it called).
inline constexpr char kTimerKey[] = "timer";            // Tick has an earlier deadline
inline constexpr char kBackgroundKey[] = "background";  // RunBackgroundTask has something to do
std::string MetricsKey(const JobId& job);               // figures of the job arrived
std::string LogsKey(const JobId& job);                  // lines of the job arrived

// The coordinator's state machine: jobs, attempts, workers. docs/JOB_STATES.md draws the states.
//
// What holds at all times:
//  - Every state a caller sees is in the store: a change is committed and synced before it is visible. (Not stored: the
//  step a job has
//    reached and the reason why it waits, which are found anew after a restart.)
//  - At most one attempt of a job is active. Its number is stored before any worker is told, and everything a trainer
//  reports under another number
//    is refused with ABORTED.
//  - All ranks of an attempt are placed, or none; how many that are is fixed for an attempt, not for a job.
//  - A slot is given to a new trainer only after the worker has confirmed a desired state without the earlier one and
//  reports it no more (or reported
//    its end): two trainers never share a slot, however messages are delayed. A worker gets new work only after it has
//    confirmed a desired state of this run of the coordinator.
//
// Thread-safe. One lock; calls commit to the store (a few milliseconds) under it, and never verify checkpoints, remove
// files, write figures or call others under it: that happens in RunBackgroundTask or outside the lock. Time comes from
// `clock`; Tick acts on what is due. Errors carry ErrorInfo; see docs/ERRORS.md.
class Coordinator {
 public:
  struct Options {
    absl::Duration lease = absl::Seconds(5);
    absl::Duration start_deadline = absl::Minutes(1);  // from a rank's assignment to its agent's first report of it
    std::string checkpoint_dir;                        // absolute
    bool checkpoint_dir_shared = false;                // workers see it too: they are told, and upload nothing
    bool check_paths = false;                          // the spec's paths are this machine's
    std::vector<QueueConfig> queues;                   // beside "default", unless it is among them
    absl::Duration leave_grace =
        absl::Minutes(2);  // for a job that is asked to leave, until it is stopped all the same
    SchedulingOptions scheduling;
  };
  // All outlive the coordinator.
  struct Collaborators {
    Store* store = nullptr;
    MetricStore* metric_store = nullptr;
    LogStore* log_store = nullptr;
    ChangeHub* hub = nullptr;
    CoordinatorMetrics* metrics = nullptr;
    const Clock* clock = nullptr;
  };
  // Replays the store. Jobs whose attempt was active become UNREACHABLE until their workers report its trainers, for
  // one lease at most.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Create(Options options, Collaborators collaborators);

  const Options& options() const { return options_; }

  // --- Jobs (jobs.cc). Errors as job_service.proto says.
  absl::StatusOr<v1::CreateJobResponse> CreateJob(const v1::CreateJobRequest& request);
  absl::StatusOr<v1::Job> GetJob(const JobId& id);
  // Nothing when the job's version is `version`.
  absl::StatusOr<absl::optional<v1::Job>> GetJobUnlessVersion(const JobId& id, int64_t version);
  absl::StatusOr<v1::JobState> GetState(const JobId& id);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request);
  absl::StatusOr<v1::Job> CancelJob(const JobId& id);
  absl::Status DeleteJob(const JobId& id);
  absl::StatusOr<v1::ExplainJobResponse> ExplainJob(const JobId& id);
  // queue.cc
  absl::StatusOr<v1::Job> PauseJob(const JobId& id);
  absl::StatusOr<v1::Job> ResumeJob(const JobId& id);
  absl::StatusOr<v1::Job> UpdateJob(const v1::UpdateJobRequest& request);
  v1::ListQueuesResponse ListQueues();
  absl::StatusOr<v1::Worker> DrainWorker(const WorkerId& id, bool draining, bool stop_jobs);

  // --- Agents (workers.cc, reports.cc). Errors as agent_service.proto says.
  // Takes in a worker's state and renews its lease. One that is not newer than the last (by sequence) is ignored.
  absl::Status Report(const v1::SynchronizeRequest& request);
  // What the worker shall run. Nothing while there is no news for this call: the desired state is the one it knows and
  // no newer call has come; `force` answers all the same. Aborted: a newer incarnation has called.
  absl::StatusOr<absl::optional<v1::SynchronizeResponse>> Desired(const v1::SynchronizeRequest& request, bool force);
  // Longest time a call of Synchronize may be held, so that leases are renewed in time.
  absl::Duration max_hold() const { return options_.lease / 5; }
  absl::Status ReportMetrics(const v1::ReportMetricsRequest& request);
  absl::Status ReportLogs(const v1::ReportLogsRequest& request);
  absl::StatusOr<std::unique_ptr<CheckpointFiles::Upload>> StartUpload(const v1::UploadCheckpointHeader& header);
  // Verifies (blocking, outside the lock), records, and applies retention.
  absl::StatusOr<v1::Checkpoint> RecordCheckpoint(const v1::RecordCheckpointRequest& request);

  // --- Looking (checkpoints.cc, workers.cc).
  absl::StatusOr<std::vector<v1::Checkpoint>> ListCheckpoints(const JobId& job);  // newest first
  absl::StatusOr<v1::Checkpoint> GetCheckpoint(const CheckpointName& name);
  // Reads all of a recorded checkpoint again. Blocking. DataLoss: damaged or gone.
  absl::StatusOr<v1::Checkpoint> VerifyRecorded(const CheckpointName& name);
  std::string FolderOf(const CheckpointName& name) const { return files_.FolderOf(name); }
  std::vector<v1::Worker> ListWorkers();

  // --- Driving. Acts on what is due; returns the time until something is due again (InfiniteDuration: nothing).
  // `late`: how long ago it should have been called. That and the wait for a write to the store are no worker's
  // silence.
  absl::Duration Tick(absl::Duration late = absl::ZeroDuration());
  // Does one piece of slow work: verifies the checkpoint a job resumes from, removes files. False: there was nothing.
  bool RunBackgroundTask();

 private:
  // Why an attempt ended before its work was done.
  struct Fault {
    std::string text;
    std::string outcome;     // label of sab_attempts_total
    bool permanent = false;  // a restart cannot mend it
    bool free = false;       // costs no restart: nobody's process failed
    absl::Duration age;      // from the fault to now
  };
  // `told` of a rank.
  static constexpr int64_t kNotTold = 0;
  static constexpr int64_t kToldBeforeRestart = -1;
  struct Rank {
    WorkerId worker;
    int32_t slot = 0;
    int64_t told = kNotTold;  // incarnation of the worker that an answer with this rank was given to
    bool reported = false;    // by its agent to this run of the coordinator
    bool succeeded = false;
    int64_t step = 0;
    int64_t skipped = 0;
    bool kept = false;         // its process was already there in the attempt before
    bool dead = false;         // its end has been reported
    bool prepares = false;     // its process has taken the assignment
    bool restored = false;     // all ranks have agreed, as this one says
    v1::TrainerPulse pulse{};  // its last sign of life
  };
  // A recovery that has no attempt yet.
  struct PendingRecovery {
    std::string cause;
    absl::Duration detect;
    absl::Duration begun;                   // monotonic: when the fault was known
    std::optional<absl::Duration> stopped;  // monotonic: when the last process of the attempt was gone
    int64_t last_step = 0;
  };
  struct ActiveAttempt {
    ActiveAttempt() {}  // written out: clang cannot make one that std::optional may use inside the enclosing class
    std::vector<Rank> ranks;
    int worker_count = 0;
    std::string rendezvous;
    std::string stop_reason;
    std::optional<v1::Checkpoint> resume;
    int64_t earlier_skipped = 0;  // skipped_steps of earlier attempts
    bool from_memory = false;
    bool restored_known = false;                               // start_step is what the ranks agreed on
    absl::Duration first_step = absl::InfiniteDuration();      // monotonic: when it was heard of
    absl::Duration milestone = absl::InfiniteDuration();       // monotonic: end of the last phase of its recovery
    absl::Duration start_deadline = absl::InfiniteDuration();  // monotonic
  };
  struct JobEntry {
    JobId id;
    JobRecord record;
    std::optional<ActiveAttempt> active;                // present while IsActive(state)
    std::map<std::string, v1::Checkpoint> checkpoints;  // by id, so in order of step
    // While it waits (QUEUED, RECOVERING):
    absl::Duration not_before;             // back-off, monotonic
    bool resume_known = true;              // `resume` has been verified
    std::optional<v1::Checkpoint> resume;  // absent: from the beginning
    bool from_memory = false;              // Start: from the processes that survived
    std::optional<PendingRecovery> recovery;
    // While it holds slots: when it got them (monotonic), of which attempt that is, and when it is stopped if it has
    // been asked to leave and does not.
    absl::Duration started;
    int64_t started_attempt = 0;
    absl::Duration leave_by = absl::InfiniteDuration();
  };
  // The trainer that a slot belongs to.
  struct Occupant {
    JobId job;
    int64_t attempt = 0;
    int32_t rank = 0;
    // Unset: it shall run. Set: it shall not, since this desired state; the slot is its own until the worker has
    // confirmed that one.
    std::optional<int64_t> removed_at;
    int64_t memory = 0;  // that it was placed by, on a CPU slot
  };
  struct WorkerEntry {
    WorkerId id;
    v1::Worker view;  // without state
    int64_t incarnation = 0;
    int64_t stored_incarnation = 0;  // the one that an earlier run of the coordinator told what to run
    int64_t sequence = 0;
    int64_t desired_version = 0;
    int64_t least_known = 0;       // desired state that it must have confirmed before it gets work
    int64_t known_version = 0;     // the one it has confirmed
    bool unknown_trainer = false;  // it runs a trainer of which nobody knows the slot
    std::map<int32_t, Occupant> occupants;
  };
  using TrainerKey = std::tuple<std::string, int64_t, int32_t>;  // job name, attempt, rank
  using Reported = std::map<TrainerKey, const v1::TrainerStatus*>;

  Coordinator(Options options, Collaborators collaborators);

  // coordinator.cc
  absl::Status Load() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LoadActive(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Commit(const StoreChange& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Replace(JobEntry& entry, JobRecord next, StoreChange change = {}) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Adopt(JobEntry& entry, JobRecord next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Touch(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<JobEntry*> Find(const JobId& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Wait(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NeedTick() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RecountSlots() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool VerifyOne();
  bool RemoveOne();
  bool CollectOne();
  absl::Status Remove(const std::string& what);

  // schedule.cc: what the scheduler knows, and what it decides. Whoever changes a job or a worker marks it.
  void MarkChanged(const JobId& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { changed_jobs_.insert(job); }
  void MarkChanged(const WorkerId& worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { changed_workers_.insert(worker); }
  void LoadQueues() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LoadUse(const v1::Job& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Schedule() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RefreshCluster() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  WorkerView SlotsOf(const WorkerEntry& worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RefreshWorker(const WorkerId& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Where the scheduler would place the request of a job whose attempt is ending, in the job's place among those that
  // wait; empty: nowhere.
  std::vector<RankPlacement> FindFreeSlots(const JobEntry& entry, const GangRequest& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RefreshJob(const JobId& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsReady(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static GangRequest RequestOf(const v1::JobSpec& spec);
  WaitingJob WaitingView(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  RunningJob RunningView(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool UsesCuda(const v1::Attempt& attempt) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // How long the present attempt has run.
  absl::Duration RunTime(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration LeftOfLimit(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration ExpectedEnd(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Decision DecideOnLive() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether it is an elastic job with an attempt.
  static bool RunsElastic(const JobEntry& entry);
  bool AllHoldState(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DecideAgainSoon(const JobId& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CarryOut(const Shrink& shrink) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Grow(JobEntry& entry, const std::vector<RankPlacement>& added) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CarryOut(const Growth& growth) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // queue.cc: leaving, dependencies, limits.
  // The job's attempt is to end with a checkpoint. Its intent is stored; it ends in Left.
  absl::Status AskToLeave(JobEntry& entry, v1::StopIntent intent, const std::string& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The attempt of a job that was asked to leave, or is at a rung, has ended, `how`: PAUSED, QUEUED or FAILED by its
  // intent.
  absl::Status Left(JobEntry& entry, const std::string& how) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Acts on time limits and on jobs that do not leave. Returns when something is due next.
  absl::Duration TakeDueJobs() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StopWaiting(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckQueue(const v1::JobSpec& spec) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What the job still waits for among those that it runs after; empty: nothing. `broken`: one will never succeed.
  std::string Unmet(const JobEntry& entry, bool* broken) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Watch(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Unwatch(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AwaitLeaving(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AwaitLimit(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the job may go among those of its group that hold slots or wait for them; it does then.
  bool EnterGroup(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveGroup(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FailDependent(JobEntry& entry, const std::string& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // sweeps.cc: successive halving. What is decided at a rung is stored for all its trials at once.
  void EnterSweep(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void LeaveSweep(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The job's sweep, if it is a trial of one, is looked at by the next Schedule.
  void MarkSweep(const v1::Job& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether a trial with this spec may be created.
  absl::Status CheckSweep(const v1::JobSpec& spec) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A trial of the same sweep that is not final; null: there is none.
  const JobEntry* FindUnfinished(const v1::JobSpec& spec) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReviewSweeps() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status ReviewSweep(const std::string& group) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<JobEntry*> TrialsAtRung(const std::set<JobId>& sweep) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CarryOut(const RungDecision& decision, const std::vector<JobEntry*>& trials)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // attempts.cc
  absl::Status Start(JobEntry& entry, const std::vector<RankPlacement>& placements)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SetReason(JobEntry& entry, const std::string& reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The attempt ends by a fault: RECOVERING or FAILED. Tried again by Tick when the store cannot take it.
  void EndAttempt(JobEntry& entry, const Fault& fault) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // `next`: the job's record, perhaps with other settings for the next attempt.
  absl::Status TryEndAttempt(JobEntry& entry, const Fault& fault, JobRecord next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Succeed(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CloseAttempt(JobRecord& record, const std::string& reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReleaseRanks(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Progress(JobEntry& entry, Rank& rank, int64_t step) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkUnreachable(const WorkerId& worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MarkLost(const WorkerId& worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Revive(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // recovery.cc
  bool IsAlive(const Rank& rank) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The ranks of a next attempt, and which of them the present one's processes go on as.
  struct Continuation {
    std::vector<RankPlacement> placements;  // empty: there is none
    std::vector<bool> kept;
  };
  Continuation PlaceAroundSurvivors(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends a healthy attempt and goes on from its memory with other ranks. Costs no restart. `how`: in words.
  absl::Status Resize(JobEntry& entry, const Continuation& next, const std::string& how)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A job that is about to want slots again, which it had before; empty: none.
  std::string FindReturning() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void BeginRecovery(JobEntry& entry, const Fault& fault) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ContinueFromMemory(JobEntry& entry, const Continuation& next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  v1::Recovery PlacedRecovery(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void PassMilestones(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CompleteRecovery(const JobEntry& entry, v1::Attempt& attempt) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeInRestoration(JobEntry& entry, const v1::Restoration& restored) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<Fault> FindCommonWait(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FindUnstarted(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddRanks(const JobEntry& entry, v1::Job& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // workers.cc
  absl::StatusOr<WorkerEntry*> Admit(const WorkerId& id, const v1::SynchronizeRequest& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeIn(WorkerEntry& worker, const Reported& reported) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void TakeInRank(JobEntry& entry, int32_t rank, const v1::TrainerStatus& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FindMissing(WorkerEntry& worker, const Reported& reported) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FindStrangers(WorkerEntry& worker, const Reported& reported) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FreeSlots(WorkerEntry& worker, const Reported& reported) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Accepts(const WorkerEntry& worker) const;
  static void PassKnownVersion(WorkerEntry& worker, int64_t known);
  static bool MayNotHaveHeard(const JobEntry& entry, const WorkerEntry& worker);
  void Bump(WorkerEntry& worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::set<JobId> JobsOn(const WorkerId& worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // init_from.cc
  // Whether a job with this spec may be created, by the checkpoint that it starts from. Reads files.
  absl::Status CheckInit(const v1::JobSpec& spec) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<const v1::Checkpoint*> FindInit(const v1::JobSpec& spec) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void KeepInit(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReleaseInit(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // What the job's next attempt from disk starts from; null: from the beginning, or what init_from names is gone.
  const v1::Checkpoint* StartingPoint(const JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t StartStep(const JobEntry& entry, const v1::Checkpoint& checkpoint) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // update.cc: settings that are changed while a job trains.
  // Adds to the job's history what was changed in its spec.
  absl::Status AddChange(const std::vector<std::string>& fields, const v1::JobSpec& before, v1::Job* job)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static Fault Renewal(const v1::Job& job);
  // Stores `next`, whose settings are changed. A running attempt ends; the next one goes on from its memory with them.
  absl::Status Renew(JobEntry& entry, JobRecord next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RenewIfChanged(JobEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The changes that the attempt knows take effect after `step`, which it goes on from.
  absl::Status SettleChanges(JobEntry& entry, int64_t step) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void TellSettings(const v1::Job& job, v1::TrainerAssignment* assignment);

  // reports.cc, checkpoints.cc
  absl::StatusOr<JobEntry*> Fence(const std::string& worker, const v1::TrainerId& id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<std::string> Excess(const JobEntry& entry, const v1::Checkpoint& added)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  Store* const store_;  // used under the lock alone
  MetricStore* const metric_store_;
  LogStore* const log_store_;
  ChangeHub* const hub_;
  CoordinatorMetrics* const metrics_;
  const Clock* const clock_;
  const CheckpointFiles files_;

  Mutex mutex_;
  std::map<JobId, JobEntry> jobs_ ABSL_GUARDED_BY(mutex_);
  std::set<std::pair<int64_t, JobId>> by_time_ ABSL_GUARDED_BY(mutex_);  // (creation in microseconds, job)
  std::map<std::string, JobId> requests_ ABSL_GUARDED_BY(mutex_);
  std::map<WorkerId, WorkerEntry> workers_ ABSL_GUARDED_BY(mutex_);
  LeaseTable leases_ ABSL_GUARDED_BY(mutex_);
  std::set<JobId> waiting_ ABSL_GUARDED_BY(mutex_);  // QUEUED or RECOVERING
  std::set<std::pair<absl::Duration, JobId>> delayed_
      ABSL_GUARDED_BY(mutex_);  // those of them with something to do at a time
  std::set<std::pair<absl::Duration, JobId>> start_deadlines_ ABSL_GUARDED_BY(mutex_);  // of attempts that start
  std::set<JobId> unverified_ ABSL_GUARDED_BY(mutex_);   // those whose checkpoint is to be verified
  std::set<JobId> uncollected_ ABSL_GUARDED_BY(mutex_);  // jobs that may have left files behind
  std::vector<std::string> removals_ ABSL_GUARDED_BY(mutex_);
  std::map<JobId, Fault> unfinished_ ABSL_GUARDED_BY(mutex_);  // ends of attempts that the store has not taken yet
  absl::Duration retry_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteDuration();
  bool schedule_needed_ ABSL_GUARDED_BY(mutex_) = false;
  Cluster cluster_ ABSL_GUARDED_BY(mutex_){Cluster::Options()};  // as of the last RefreshCluster
  std::set<JobId> changed_jobs_ ABSL_GUARDED_BY(mutex_);
  std::set<WorkerId> changed_workers_ ABSL_GUARDED_BY(mutex_);
  absl::Duration estimated_at_ ABSL_GUARDED_BY(mutex_);  // when the ends of running jobs were last worked out
  std::set<std::pair<absl::Duration, JobId>> due_jobs_ ABSL_GUARDED_BY(mutex_);  // time limits, jobs that leave
  std::map<JobId, std::set<JobId>> dependents_ ABSL_GUARDED_BY(mutex_);          // who waits for whom to succeed
  struct Group {
    std::set<JobId> entered;
    std::set<std::pair<int64_t, JobId>> outside;  // (creation, job): the oldest goes in next
  };
  std::map<std::string, Group> groups_ ABSL_GUARDED_BY(mutex_);            // those with a bound
  std::map<std::string, std::set<JobId>> sweeps_ ABSL_GUARDED_BY(mutex_);  // by group: those with `halving`
  std::set<std::string> changed_sweeps_ ABSL_GUARDED_BY(mutex_);
  // Checkpoints that jobs of init_from still need, by name: they are kept, and so is the job that has them.
  std::map<std::string, std::set<JobId>> init_users_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sab::server
