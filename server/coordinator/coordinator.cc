#include "server/coordinator/coordinator.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/spec/cost.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

constexpr absl::Duration kRetry = absl::Seconds(1);
// Reported steps raise a job's version without being stored; after a restart it goes on well above any that was sent.
constexpr int64_t kVersionGap = 1'000'000;

int64_t CreateMicros(const v1::Job& job) {
  return absl::ToUnixMicros(FromProto(job.create_time()));
}

}  // namespace

std::string MetricsKey(const JobId& job) {
  return "metrics/" + job.value();
}
std::string LogsKey(const JobId& job) {
  return "logs/" + job.value();
}

Coordinator::Coordinator(Options options, Collaborators collaborators)
    : options_(std::move(options)),
      store_(collaborators.store),
      metric_store_(collaborators.metric_store),
      log_store_(collaborators.log_store),
      hub_(collaborators.hub),
      metrics_(collaborators.metrics),
      clock_(collaborators.clock),
      files_(options_.checkpoint_dir),
      leases_(options_.lease) {}

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Create(Options options, Collaborators collaborators) {
  std::unique_ptr<Coordinator> coordinator(new Coordinator(std::move(options), collaborators));
  MutexLock lock(&coordinator->mutex_);
  SAB_RETURN_IF_ERROR(coordinator->Load());
  return coordinator;
}

absl::Status Coordinator::Load() {
  SAB_ASSIGN_OR_RETURN(StoredState state, store_->Load());
  LoadQueues();
  for (WorkerRecord& record : state.workers) {
    WorkerEntry& worker = workers_[*ParseWorkerName(record.worker.name())];
    worker.id = *ParseWorkerName(record.worker.name());
    worker.view = std::move(record.worker);
    worker.incarnation = worker.stored_incarnation = record.incarnation;
    worker.desired_version = worker.least_known = absl::ToUnixMicros(clock_->Now());
    MarkChanged(worker.id);
  }
  StoreChange change;
  for (JobRecord& record : state.jobs) {
    const JobId id = *ParseJobName(record.job.name());
    JobEntry& entry = jobs_[id];
    entry.id = id;
    entry.record = std::move(record);
    by_time_.insert({CreateMicros(entry.record.job), id});
  }
  for (v1::Checkpoint& checkpoint : state.checkpoints) {
    const CheckpointName name = *ParseCheckpointName(checkpoint.name());
    if (auto it = jobs_.find(name.job); it != jobs_.end())
      it->second.checkpoints[name.checkpoint] = std::move(checkpoint);
  }
  for (auto& [id, entry] : jobs_) {
    v1::Job& job = entry.record.job;
    KeepInit(entry);
    EnterSweep(entry);
    if (IsActive(job.state())) LoadActive(entry);
    LoadUse(job);
    if (!IsFinal(job.state())) {
      job.set_version(job.version() + kVersionGap);
      change.put_jobs.push_back(entry.record);
    }
    if (job.state() == v1::JOB_STATE_QUEUED || job.state() == v1::JOB_STATE_RECOVERING) Wait(entry);
    uncollected_.insert(id);
    MarkChanged(id);
    metrics_->MoveJob(v1::JOB_STATE_UNSPECIFIED, job.state());
  }
  for (auto& [request, job] : state.requests) requests_.emplace(request, JobId(job));
  removals_ = std::move(state.removals);
  schedule_needed_ = true;
  return Commit(change);
}

void Coordinator::LoadActive(JobEntry& entry) {
  v1::Job& job = entry.record.job;
  const v1::Attempt& attempt = job.attempts(job.attempts_size() - 1);
  ActiveAttempt& active = entry.active.emplace();
  std::set<WorkerId> hosts;
  const int64_t memory = spec::PlacedCpuBytes(job.spec());
  for (const v1::Placement& placement : attempt.placements()) {
    const WorkerId id = *ParseWorkerName(placement.worker());
    WorkerEntry& worker = workers_[id];
    worker.id = id;
    worker.view.set_name(placement.worker());
    worker.occupants[placement.slot()] = {entry.id, attempt.number(), placement.rank(), std::nullopt, memory};
    // Its trainers run on: the worker gets one lease to say so.
    leases_.Renew(id, clock_->Monotonic());
    MarkChanged(id);
    active.ranks.push_back(
        {.worker = id, .slot = placement.slot(), .told = kToldBeforeRestart, .step = attempt.start_step()});
    hosts.insert(id);
  }
  active.worker_count = static_cast<int>(hosts.size());
  active.earlier_skipped = job.skipped_steps();
  if (attempt.has_first_step_time()) {
    active.first_step =
        clock_->Monotonic() - std::max(absl::ZeroDuration(), clock_->Now() - FromProto(attempt.first_step_time()));
  }
  active.from_memory = absl::StartsWith(attempt.recovery_source(), kMemorySource);
  if (auto name = ParseCheckpointName(attempt.recovery_source()); name.ok()) {
    // Its own, or another job's that it was started from.
    if (auto owner = jobs_.find(name->job); owner != jobs_.end()) {
      const auto& checkpoints = owner->second.checkpoints;
      if (auto it = checkpoints.find(name->checkpoint); it != checkpoints.end()) active.resume = it->second;
    }
  }
  job.set_state(v1::JOB_STATE_UNREACHABLE);
  job.set_state_reason("the coordinator was restarted and waits to hear from the job's workers");
}

absl::Status Coordinator::Commit(const StoreChange& change) {
  const absl::Duration start = clock_->Monotonic();
  absl::Status status = store_->Commit(change);
  metrics_->store_commit_seconds.Observe(absl::ToDoubleSeconds(clock_->Monotonic() - start));
  if (!status.ok()) {
    metrics_->store_errors.Increment();
    log::Error(std::string(status.message()));
  }
  return status;
}

absl::Status Coordinator::Replace(JobEntry& entry, JobRecord next, StoreChange change) {
  next.job.set_version(entry.record.job.version() + 1);
  change.put_jobs.push_back(next);
  SAB_RETURN_IF_ERROR(Commit(change));
  Adopt(entry, std::move(next));
  return absl::OkStatus();
}

// `next` has been stored.
void Coordinator::Adopt(JobEntry& entry, JobRecord next) {
  const v1::JobState before = entry.record.job.state();
  if (before != next.job.state()) {
    MarkSweep(next.job);
    metrics_->MoveJob(before, next.job.state());
    log::Info(absl::StrCat(entry.id.name(), ": ", StateName(before), " -> ", StateName(next.job.state()),
                           next.job.state_reason().empty() ? "" : ": ", next.job.state_reason()));
  }
  entry.record = std::move(next);
  if (before != entry.record.job.state() && IsFinal(entry.record.job.state())) {
    uncollected_.insert(entry.id);
    hub_->Publish(kBackgroundKey);
    ReleaseInit(entry);
  }
  MarkChanged(entry.id);
  if (auto waiting = dependents_.find(entry.id); waiting != dependents_.end() && IsFinal(entry.record.job.state())) {
    changed_jobs_.insert(waiting->second.begin(), waiting->second.end());
    schedule_needed_ = true;
  }
  hub_->Publish(entry.id.name());
}

void Coordinator::Touch(JobEntry& entry) {
  entry.record.job.set_version(entry.record.job.version() + 1);
  hub_->Publish(entry.id.name());
}

absl::StatusOr<Coordinator::JobEntry*> Coordinator::Find(const JobId& id) {
  auto it = jobs_.find(id);
  if (it != jobs_.end()) return &it->second;
  return WithReason(
      absl::NotFoundError(absl::StrCat(id.name(), " does not exist; `sabctl list` shows the jobs there are")),
      "JOB_NOT_FOUND");
}

void Coordinator::Wait(JobEntry& entry) {
  waiting_.insert(entry.id);
  MarkChanged(entry.id);
  Watch(entry);
  entry.resume.reset();
  entry.resume_known = entry.checkpoints.empty() && !entry.record.job.spec().has_init_from();
  schedule_needed_ = true;
  if (!entry.resume_known) {
    unverified_.insert(entry.id);
    hub_->Publish(kBackgroundKey);
  }
  if (entry.not_before > clock_->Monotonic()) {
    delayed_.insert({entry.not_before, entry.id});
    NeedTick();
  }
}

void Coordinator::NeedTick() {
  hub_->Publish(kTimerKey);
}

absl::Duration Coordinator::Tick(absl::Duration late) {
  const absl::Duration called = clock_->Monotonic();
  MutexLock lock(&mutex_);
  const absl::Duration now = clock_->Monotonic();
  if (const absl::Duration held_up = late + (now - called); held_up > leases_.lease() / 20) {
    log::Warning(absl::StrCat("was held up for ", absl::FormatDuration(absl::Trunc(held_up, absl::Milliseconds(1))),
                              ": workers' leases are longer by that"));
    leases_.Forgive(held_up, now);
  }
  const LeaseTable::Due due = leases_.TakeDue(now);
  for (const WorkerId& worker : due.late) MarkUnreachable(worker);
  for (const WorkerId& worker : due.lost) MarkLost(worker);
  if (now >= retry_at_) {
    retry_at_ = absl::InfiniteDuration();
    schedule_needed_ = true;
    for (auto& [id, fault] : std::exchange(unfinished_, {})) {
      if (auto it = jobs_.find(id); it != jobs_.end() && it->second.active.has_value()) EndAttempt(it->second, fault);
    }
  }
  while (!delayed_.empty() && delayed_.begin()->first <= now) {
    JobEntry& entry = jobs_.at(delayed_.begin()->second);
    delayed_.erase(delayed_.begin());
    schedule_needed_ = true;
    MarkChanged(entry.id);
    if (!entry.resume_known && unverified_.insert(entry.id).second) hub_->Publish(kBackgroundKey);
  }
  while (!start_deadlines_.empty() && start_deadlines_.begin()->first <= now) {
    const auto [deadline, id] = *start_deadlines_.begin();
    start_deadlines_.erase(start_deadlines_.begin());
    const auto it = jobs_.find(id);
    if (it != jobs_.end() && it->second.active && it->second.active->start_deadline == deadline)
      FindUnstarted(it->second);
  }
  const absl::Duration next_job = TakeDueJobs();
  Schedule();
  absl::Duration next = std::min({leases_.NextDeadline(), retry_at_, next_job});
  if (!start_deadlines_.empty()) next = std::min(next, start_deadlines_.begin()->first);
  if (!delayed_.empty()) next = std::min(next, delayed_.begin()->first);
  return std::max(absl::ZeroDuration(), next - now);
}

void Coordinator::RecountSlots() {
  const absl::Duration now = clock_->Monotonic();
  int64_t ready = 0;
  int64_t slots[2][2] = {};  // by cuda, busy
  for (const auto& [id, worker] : workers_) {
    if (!leases_.IsLive(id, now)) continue;
    ++ready;
    for (const v1::Slot& slot : worker.view.slots()) {
      ++slots[slot.device() == "cuda"][worker.occupants.contains(slot.index())];
    }
  }
  metrics_->SetWorkers(ready, static_cast<int64_t>(workers_.size()) - ready);
  metrics_->SetSlots("cpu", slots[0][0], slots[0][1]);
  metrics_->SetSlots("cuda", slots[1][0], slots[1][1]);
}

bool Coordinator::RunBackgroundTask() {
  return VerifyOne() || RemoveOne() || CollectOne();
}

bool Coordinator::VerifyOne() {
  JobId id;
  v1::Checkpoint newest;
  {
    MutexLock lock(&mutex_);
    if (unverified_.empty()) return false;
    id = *unverified_.begin();
    unverified_.erase(unverified_.begin());
    JobEntry& entry = jobs_.at(id);
    if (const v1::Checkpoint* start = StartingPoint(entry); start != nullptr) {
      newest = *start;
    } else if (const std::string& wanted = entry.record.job.spec().init_from().checkpoint(); !wanted.empty()) {
      FailDependent(entry, absl::StrCat(wanted,
                                        ", which it starts from, is gone or damaged; submit it again with another "
                                        "checkpoint"));
      return true;
    }
  }
  const absl::Status verified = newest.name().empty() ? absl::OkStatus() : files_.Verify(newest);
  const bool damaged = absl::IsDataLoss(verified) || absl::IsNotFound(verified);

  MutexLock lock(&mutex_);
  auto it = jobs_.find(id);
  if (it == jobs_.end() || !waiting_.contains(id)) return true;
  JobEntry& entry = it->second;
  if (verified.ok()) {
    if (!newest.name().empty()) entry.resume = newest;
    entry.resume_known = true;
    MarkChanged(id);
    schedule_needed_ = true;
    Schedule();
    return true;
  }
  log::Error(absl::StrCat(newest.name(), " cannot be resumed from: ", verified.message()));
  // A damaged checkpoint is no longer offered; its files stay for the user to look at, until the job is deleted.
  // Anything else may pass.
  if (damaged && Commit({.delete_checkpoints = {newest.name()}}).ok()) {
    metrics_->checkpoints_damaged.Increment();
    const CheckpointName name = *ParseCheckpointName(newest.name());
    if (auto owner = jobs_.find(name.job); owner != jobs_.end()) owner->second.checkpoints.erase(name.checkpoint);
    unverified_.insert(id);
  } else {
    delayed_.insert({clock_->Monotonic() + kRetry, id});
    NeedTick();
  }
  return true;
}

bool Coordinator::RemoveOne() {
  std::string what;
  {
    MutexLock lock(&mutex_);
    if (removals_.empty()) return false;
    what = std::move(removals_.back());
    removals_.pop_back();
  }
  if (absl::Status status = Remove(what); !status.ok()) {
    // Still in the store: the next start tries again.
    log::Warning(absl::StrCat("could not remove ", what, ": ", status.message()));
    return true;
  }
  MutexLock lock(&mutex_);
  (void)Commit({.drop_removals = {what}});
  return true;
}

// `what` is the name of a job (everything of it) or of a checkpoint (its files).
absl::Status Coordinator::Remove(const std::string& what) {
  if (auto checkpoint = ParseCheckpointName(what); checkpoint.ok()) return files_.RemoveCheckpoint(*checkpoint);
  SAB_ASSIGN_OR_RETURN(const JobId job, ParseJobName(what));
  SAB_RETURN_IF_ERROR(files_.RemoveJob(job));
  SAB_RETURN_IF_ERROR(log_store_->Remove(job));
  for (bool more = true; more;) {
    SAB_ASSIGN_OR_RETURN(more, metric_store_->RemoveSome(job));
  }
  return absl::OkStatus();
}

}  // namespace sab::server
