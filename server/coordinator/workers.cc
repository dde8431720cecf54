#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/spec/cost.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

constexpr int kMaxSlots = 1024;

bool HasEnded(v1::TrainerPhase phase) {
  return phase == v1::TRAINER_PHASE_SUCCEEDED || phase == v1::TRAINER_PHASE_FAILED ||
         phase == v1::TRAINER_PHASE_STOPPED;
}

absl::Status CheckRequest(const v1::SynchronizeRequest& request) {
  std::vector<FieldViolation> violations;
  if (request.incarnation() <= 0) violations.push_back({"incarnation", "must be above 0"});
  if (request.sequence() <= 0) violations.push_back({"sequence", "must be above 0"});
  if (request.slots_size() > kMaxSlots) violations.push_back({"slots", absl::StrCat("must be at most ", kMaxSlots)});
  std::set<int32_t> indices;
  for (const v1::Slot& slot : request.slots()) {
    if (!indices.insert(slot.index()).second)
      violations.push_back({"slots.index", absl::StrCat(slot.index(), " appears twice")});
    if (slot.device() != "cpu" && slot.device() != "cuda")
      violations.push_back({"slots.device", "must be cpu or cuda"});
  }
  return violations.empty() ? absl::OkStatus() : WithReason(InvalidFields(violations), "INVALID_REQUEST");
}

// What of the request is shown and kept.
v1::Worker ViewOf(const v1::SynchronizeRequest& request) {
  v1::Worker view;
  view.set_name(request.worker());
  view.set_host(request.host());
  view.set_version(request.version());
  *view.mutable_slots() = request.slots();
  for (v1::Slot& slot : *view.mutable_slots()) slot.clear_job();
  return view;
}

bool SameView(v1::Worker a, const v1::Worker& b) {
  a.clear_last_sync_time();
  return a.SerializeAsString() == b.SerializeAsString();
}

absl::Status StaleIncarnation(const WorkerId& id) {
  return WithReason(absl::AbortedError(absl::StrCat("a newer agent of ", id.name(),
                                                    " has called: this one must stop its trainers and exit")),
                    "STALE_INCARNATION");
}

}  // namespace

bool Coordinator::Accepts(const WorkerEntry& worker) const {
  return worker.known_version >= worker.least_known && !worker.unknown_trainer;
}

// A version that this run has not given out is of an earlier one, whose clock stood later: this run's go on above it,
// or a worker that has heard nothing of this run would seem to have confirmed it.
void Coordinator::PassKnownVersion(WorkerEntry& worker, int64_t known) {
  if (known <= worker.desired_version) return;
  worker.desired_version = worker.least_known = known + 1;
  for (auto& [slot, occupant] : worker.occupants) {
    if (occupant.removed_at.has_value()) occupant.removed_at = worker.desired_version;
  }
}

void Coordinator::Bump(WorkerEntry& worker) {
  ++worker.desired_version;
  MarkChanged(worker.id);
  hub_->Publish(worker.id.name());
}

std::set<JobId> Coordinator::JobsOn(const WorkerId& worker) {
  std::set<JobId> jobs;
  auto it = workers_.find(worker);
  if (it == workers_.end()) return jobs;
  for (const auto& [slot, occupant] : it->second.occupants) {
    if (occupant.removed_at.has_value()) continue;
    const JobEntry& entry = jobs_.at(occupant.job);
    if (entry.active.has_value() && !entry.active->ranks[occupant.rank].succeeded) jobs.insert(occupant.job);
  }
  return jobs;
}

absl::StatusOr<Coordinator::WorkerEntry*> Coordinator::Admit(const WorkerId& id,
                                                             const v1::SynchronizeRequest& request) {
  auto it = workers_.find(id);
  const bool known = it != workers_.end();
  if (known && request.incarnation() < it->second.incarnation) return StaleIncarnation(id);
  v1::Worker view = ViewOf(request);
  if (known) view.set_draining(it->second.view.draining());
  const bool renewed = !known || request.incarnation() != it->second.incarnation;
  if (renewed || !SameView(it->second.view, view)) {
    SAB_RETURN_IF_ERROR(Commit({.put_workers = {{view, request.incarnation()}}}));
    schedule_needed_ = true;
  }
  WorkerEntry& worker = workers_[id];
  worker.id = id;
  *view.mutable_last_sync_time() = ToProto(clock_->Now());
  worker.view = std::move(view);
  if (!renewed) return &worker;
  log::Info(absl::StrCat(id.name(), known ? " was started anew" : " joined", " with ", request.slots_size(),
                         " slots on ", request.host()));
  worker.incarnation = request.incarnation();
  worker.sequence = 0;
  worker.known_version = 0;
  // Trainers of the earlier agent ended with it, unless this one reports them.
  std::erase_if(worker.occupants, [](const auto& item) { return item.second.removed_at.has_value(); });
  worker.desired_version = std::max(worker.desired_version, absl::ToUnixMicros(clock_->Now())) + 1;
  worker.least_known = worker.desired_version;
  return &worker;
}

absl::Status Coordinator::Report(const v1::SynchronizeRequest& request) {
  SAB_ASSIGN_OR_RETURN(const WorkerId id, ParseWorkerName(request.worker()));
  SAB_RETURN_IF_ERROR(CheckRequest(request));
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(WorkerEntry * worker, Admit(id, request));
  const absl::Duration now = clock_->Monotonic();
  const bool was_live = leases_.IsLive(id, now);
  leases_.Renew(id, now);
  MarkChanged(id);
  if (!was_live) {
    schedule_needed_ = true;
    NeedTick();
  }
  if (request.sequence() <= worker->sequence) return absl::OkStatus();
  worker->sequence = request.sequence();
  const bool accepted = Accepts(*worker);
  PassKnownVersion(*worker, request.known_version());
  worker->known_version = request.known_version();
  // An older call of this worker that is held has been overtaken.
  hub_->Publish(id.name());
  Reported reported;
  for (const v1::TrainerStatus& trainer : request.trainers()) {
    reported[{trainer.id().job(), trainer.id().attempt(), trainer.id().rank()}] = &trainer;
  }
  TakeIn(*worker, reported);
  if (accepted != Accepts(*worker)) schedule_needed_ = true;
  Schedule();
  return absl::OkStatus();
}

void Coordinator::TakeIn(WorkerEntry& worker, const Reported& reported) {
  std::map<JobId, std::pair<const v1::TrainerStatus*, int32_t>> failures;
  // Progress and ends first; a failure ends the whole attempt, so one rank's is taken: a permanent one before others,
  // then the lowest rank.
  std::vector<std::pair<int32_t, Occupant>> occupants(worker.occupants.begin(), worker.occupants.end());
  for (const auto& [slot, occupant] : occupants) {
    if (occupant.removed_at.has_value()) continue;
    auto status = reported.find({occupant.job.name(), occupant.attempt, occupant.rank});
    if (status == reported.end()) continue;
    const v1::TrainerPhase phase = status->second->phase();
    JobEntry& entry = jobs_.at(occupant.job);
    if (occupant.attempt != entry.record.job.attempt_count()) continue;  // it has ended just now
    if (phase == v1::TRAINER_PHASE_FAILED || phase == v1::TRAINER_PHASE_STOPPED) {
      if (entry.active.has_value()) entry.active->ranks[occupant.rank].dead = true;
      auto [it, added] = failures.try_emplace(occupant.job, status->second, occupant.rank);
      if (!added && status->second->permanent() && !it->second.first->permanent())
        it->second = {status->second, occupant.rank};
      continue;
    }
    TakeInRank(entry, occupant.rank, *status->second);
  }
  for (const auto& [id, failure] : failures) {
    const v1::TrainerStatus& status = *failure.first;
    const std::string what = !status.failure().empty()                     ? status.failure()
                             : status.phase() == v1::TRAINER_PHASE_STOPPED ? "its agent stopped the trainer"
                                                                           : "the trainer ended without a word";
    EndAttempt(jobs_.at(id), {.text = absl::StrCat("rank ", failure.second, " on ", worker.id.name(), ": ", what),
                              .outcome = status.permanent() ? "permanent"
                                         : status.hung()    ? "hung"
                                                            : "failed",
                              .permanent = status.permanent(),
                              .age = absl::Seconds(status.fault_age_seconds())});
  }
  FindMissing(worker, reported);
  FindStrangers(worker, reported);
  FreeSlots(worker, reported);
  for (const JobId& id : JobsOn(worker.id)) Revive(jobs_.at(id));
}

void Coordinator::TakeInRank(JobEntry& entry, int32_t number, const v1::TrainerStatus& status) {
  if (!entry.active.has_value()) return;
  ActiveAttempt& active = *entry.active;
  Rank& rank = active.ranks[number];
  rank.reported = true;
  if (rank.told == kToldBeforeRestart) rank.told = workers_.at(rank.worker).incarnation;
  rank.pulse = status.pulse();
  rank.prepares = rank.prepares || status.phase() != v1::TRAINER_PHASE_STARTING;
  rank.restored = rank.restored || status.has_restored();
  if (status.has_restored()) TakeInRestoration(entry, status.restored());
  PassMilestones(entry);
  if (status.skipped_steps() > rank.skipped) {
    rank.skipped = status.skipped_steps();
    v1::Job& job = entry.record.job;
    job.set_skipped_steps(std::max(job.skipped_steps(), active.earlier_skipped + rank.skipped));
    Touch(entry);
  }
  if (number == 0 && !status.rendezvous().empty() && status.rendezvous() != active.rendezvous) {
    active.rendezvous = status.rendezvous();
    std::set<WorkerId> peers;
    for (size_t i = 1; i < active.ranks.size(); ++i) peers.insert(active.ranks[i].worker);
    for (const WorkerId& peer : peers) Bump(workers_.at(peer));
  }
  Progress(entry, rank, status.step());
  if (status.phase() != v1::TRAINER_PHASE_SUCCEEDED || rank.succeeded) {
    if (auto fault = FindCommonWait(entry); fault.has_value()) EndAttempt(entry, *fault);
    return;
  }
  rank.succeeded = true;
  if (number == 0) active.stop_reason = status.stop_reason();
  // It stays desired until all have, so that its agent goes on reporting it: the next run of the coordinator hears of
  // it too.
  const bool all = std::all_of(active.ranks.begin(), active.ranks.end(), [](const Rank& r) { return r.succeeded; });
  // The store cannot take it now: the next call tries again.
  if (all && !Succeed(entry).ok()) rank.succeeded = false;
}

// The earlier run of the coordinator may have ended between storing the attempt and telling this agent, which hears of
// it by the answer to this call.
bool Coordinator::MayNotHaveHeard(const JobEntry& entry, const WorkerEntry& worker) {
  const v1::Job& job = entry.record.job;
  return !job.attempts(job.attempts_size() - 1).has_first_step_time() && worker.known_version < worker.least_known &&
         worker.incarnation == worker.stored_incarnation;
}

void Coordinator::FindMissing(WorkerEntry& worker, const Reported& reported) {
  std::map<JobId, Fault> faults;
  for (const auto& [slot, occupant] : worker.occupants) {
    if (occupant.removed_at.has_value() || reported.contains({occupant.job.name(), occupant.attempt, occupant.rank}))
      continue;
    JobEntry& entry = jobs_.at(occupant.job);
    if (!entry.active.has_value()) continue;
    const Rank& rank = entry.active->ranks[occupant.rank];
    if (rank.succeeded) continue;
    const std::string who = absl::StrCat("rank ", occupant.rank, " on ", worker.id.name());
    const auto add = [&, job = occupant.job, number = occupant.rank](Fault fault) {
      entry.active->ranks[number].dead = true;
      faults.try_emplace(job, std::move(fault));
    };
    if (rank.told == kToldBeforeRestart && !rank.reported) {
      if (MayNotHaveHeard(entry, worker)) continue;
      add({.text = absl::StrCat(who, " was not running any more after a restart of the coordinator"),
           .outcome = "superseded",
           .free = true});
    } else if (rank.told != kNotTold && rank.told != worker.incarnation && rank.told != kToldBeforeRestart) {
      add({.text = absl::StrCat(who, " ended: the worker's agent was restarted"), .outcome = "lost"});
    } else if (rank.reported) {
      add({.text = absl::StrCat(who, " is no longer reported by its worker"), .outcome = "lost"});
    }
  }
  for (const auto& [id, fault] : faults) EndAttempt(jobs_.at(id), fault);
}

// Trainers of attempts that have ended, known from before a restart of the coordinator or of the agent: they hold their
// slots too.
void Coordinator::FindStrangers(WorkerEntry& worker, const Reported& reported) {
  worker.unknown_trainer = false;
  for (const auto& [key, status] : reported) {
    if (HasEnded(status->phase())) continue;
    const auto& [name, attempt, rank] = key;
    const auto same = [&, job = name, number = attempt, index = rank](const auto& item) {
      return item.second.job.name() == job && item.second.attempt == number && item.second.rank == index;
    };
    if (std::any_of(worker.occupants.begin(), worker.occupants.end(), same)) continue;
    const auto id = ParseJobName(name);
    const auto job = id.ok() ? jobs_.find(*id) : jobs_.end();
    bool found = false;
    const int64_t memory = job == jobs_.end() ? 0 : spec::PlacedCpuBytes(job->second.record.job.spec());
    if (job != jobs_.end() && attempt >= 1 && attempt <= job->second.record.job.attempts_size()) {
      for (const v1::Placement& placement :
           job->second.record.job.attempts(static_cast<int>(attempt) - 1).placements()) {
        if (placement.rank() != rank || placement.worker() != worker.id.name()) continue;
        const auto [occupant, added] =
            worker.occupants.try_emplace(placement.slot(), Occupant{*id, attempt, rank, 0, memory});
        // Or its slot is already its own job's next trainer's: the agent sees to it that it is free by then.
        found = added || (occupant->second.job == *id && occupant->second.attempt > attempt);
      }
    }
    if (!found) worker.unknown_trainer = true;
  }
}

void Coordinator::FreeSlots(WorkerEntry& worker, const Reported& reported) {
  std::set<JobId> freed;
  std::erase_if(worker.occupants, [&](const auto& item) {
    const Occupant& occupant = item.second;
    if (!occupant.removed_at.has_value()) return false;
    auto status = reported.find({occupant.job.name(), occupant.attempt, occupant.rank});
    const bool free =
        status != reported.end() ? HasEnded(status->second->phase()) : worker.known_version >= *occupant.removed_at;
    if (free) freed.insert(occupant.job);
    return free;
  });
  if (!freed.empty()) schedule_needed_ = true;
  for (const JobId& id : freed) {
    if (auto job = jobs_.find(id); job != jobs_.end() && job->second.recovery.has_value())
      job->second.recovery->stopped = clock_->Monotonic();
  }
}

absl::StatusOr<absl::optional<v1::SynchronizeResponse>> Coordinator::Desired(const v1::SynchronizeRequest& request,
                                                                             bool force) {
  SAB_ASSIGN_OR_RETURN(const WorkerId id, ParseWorkerName(request.worker()));
  MutexLock lock(&mutex_);
  auto it = workers_.find(id);
  if (it == workers_.end()) return absl::InternalError(absl::StrCat(id.name(), " has never reported"));
  WorkerEntry& worker = it->second;
  if (request.incarnation() < worker.incarnation) return StaleIncarnation(id);
  absl::optional<v1::SynchronizeResponse> none;
  if (!force && request.known_version() == worker.desired_version && request.sequence() >= worker.sequence) return none;
  v1::SynchronizeResponse response;
  for (auto& [slot, occupant] : worker.occupants) {
    if (occupant.removed_at.has_value()) continue;
    JobEntry& entry = jobs_.at(occupant.job);
    ActiveAttempt& active = *entry.active;
    Rank& rank = active.ranks[occupant.rank];
    if (rank.succeeded && rank.told != worker.incarnation) continue;  // its agent, which knew of it, is gone
    if (rank.told != worker.incarnation && rank.told != kToldBeforeRestart) rank.told = worker.incarnation;
    v1::TrainerAssignment& assignment = *response.add_desired();
    assignment.mutable_id()->set_job(occupant.job.name());
    assignment.mutable_id()->set_attempt(occupant.attempt);
    assignment.mutable_id()->set_rank(occupant.rank);
    assignment.set_world_size(static_cast<int32_t>(active.ranks.size()));
    assignment.set_slot(slot);
    TellSettings(entry.record.job, &assignment);
    if (occupant.rank != 0) assignment.set_rendezvous(active.rendezvous);
    if (active.resume.has_value()) *assignment.mutable_resume_from() = *active.resume;
    assignment.set_from_memory(active.from_memory);
    assignment.set_worker_count(active.worker_count);
    assignment.set_leave(entry.record.job.stop_intent() != v1::STOP_INTENT_UNSPECIFIED);
    assignment.set_rung(NextRung(entry.record.job));
  }
  response.set_desired_version(worker.desired_version);
  *response.mutable_lease() = ToProto(options_.lease);
  *response.mutable_next_call() = ToProto(options_.lease / 10);
  if (options_.checkpoint_dir_shared) response.set_checkpoint_dir(options_.checkpoint_dir);
  return absl::make_optional(std::move(response));
}

std::vector<v1::Worker> Coordinator::ListWorkers() {
  MutexLock lock(&mutex_);
  const absl::Duration now = clock_->Monotonic();
  std::vector<v1::Worker> workers;
  for (const auto& [id, worker] : workers_) {
    v1::Worker& view = workers.emplace_back(worker.view);
    view.set_state(leases_.IsLive(id, now) ? v1::WORKER_STATE_READY : v1::WORKER_STATE_LOST);
    for (v1::Slot& slot : *view.mutable_slots()) {
      if (auto it = worker.occupants.find(slot.index()); it != worker.occupants.end())
        slot.set_job(it->second.job.name());
    }
  }
  return workers;
}

}  // namespace sab::server
