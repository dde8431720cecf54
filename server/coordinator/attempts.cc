#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/spec/cost.h"
#include "common/spec/update.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

constexpr absl::Duration kRetry = absl::Seconds(1);
constexpr absl::Duration kLongestBackoff = absl::Seconds(30);
constexpr int64_t kTriesFromMemory = 3;

// Before restart `number` (from 1): none, then 1 s, 2 s, 4 s … 30 s.
absl::Duration BackoffBefore(int64_t number) {
  if (number <= 1) return absl::ZeroDuration();
  return std::min(kLongestBackoff, absl::Seconds(int64_t{1} << std::min<int64_t>(number - 2, 10)));
}

// Attempts at the end of the job's history that did not train a step.
int64_t FruitlessInARow(const v1::Job& job) {
  int64_t count = 0;
  for (auto it = job.attempts().rbegin(); it != job.attempts().rend() && !it->has_first_step_time(); ++it) ++count;
  return count;
}

// Stop reason of a trainer that was asked to leave.
constexpr char kLeave[] = "leave";
// Of one that has reached the rung of its assignment.
constexpr char kRung[] = "rung";

std::string Plural(int64_t count, absl::string_view noun) {
  return absl::StrCat(count, " ", noun, count == 1 ? "" : "s");
}

}  // namespace

void Coordinator::SetReason(JobEntry& entry, const std::string& reason) {
  v1::Job& job = entry.record.job;
  std::string text = reason;
  if (job.state() == v1::JOB_STATE_RECOVERING && job.attempts_size() > 0) {
    text = absl::StrCat(job.attempts(job.attempts_size() - 1).end_reason(), "; the next attempt ", reason);
  }
  if (job.state_reason() == text) return;
  job.set_state_reason(text);
  Touch(entry);
}

absl::Status Coordinator::Start(JobEntry& entry, const std::vector<RankPlacement>& placements) {
  const absl::Time now = clock_->Now();
  JobRecord next = entry.record;
  v1::Job& job = next.job;
  v1::Attempt& attempt = *job.add_attempts();
  attempt.set_number(job.attempt_count() + 1);
  *attempt.mutable_start_time() = ToProto(now);
  attempt.set_known_changes(job.changes_size());
  if (entry.resume.has_value()) {
    attempt.set_recovery_source(entry.resume->name());
    attempt.set_start_step(StartStep(entry, *entry.resume));
  } else if (entry.from_memory) {
    // The step is that of the last report until the ranks have agreed.
    attempt.set_recovery_source(kMemorySource);
    attempt.set_start_step(job.step());
  }
  if (!entry.from_memory) spec::Settle(attempt.start_step(), job.mutable_changes());
  if (entry.recovery.has_value()) *attempt.mutable_recovery() = PlacedRecovery(entry);
  attempt.set_last_step(attempt.start_step());
  ActiveAttempt active;
  std::set<WorkerId> hosts;
  for (size_t rank = 0; rank < placements.size(); ++rank) {
    v1::Placement& placement = *attempt.add_placements();
    placement.set_rank(static_cast<int32_t>(rank));
    placement.set_worker(placements[rank].worker.name());
    placement.set_slot(placements[rank].slot);
    active.ranks.push_back(
        {.worker = placements[rank].worker, .slot = placements[rank].slot, .step = attempt.start_step()});
    hosts.insert(placements[rank].worker);
  }
  active.worker_count = static_cast<int>(hosts.size());
  active.resume = entry.resume;
  active.from_memory = entry.from_memory;
  if (entry.recovery.has_value()) active.milestone = clock_->Monotonic();
  active.start_deadline = clock_->Monotonic() + options_.start_deadline;
  active.earlier_skipped = job.skipped_steps();
  const bool first = job.attempt_count() == 0;
  if (first) *job.mutable_start_time() = ToProto(now);
  job.set_attempt_count(attempt.number());
  job.set_step(attempt.start_step());
  job.set_state(v1::JOB_STATE_STARTING);
  job.set_state_reason(absl::StrCat("attempt ", attempt.number(), " starts on ",
                                    Plural(attempt.placements_size(), "slot"), " of ",
                                    Plural(active.worker_count, "worker"),
                                    entry.from_memory          ? ", from the memory of the ranks that survived"
                                    : entry.resume.has_value() ? absl::StrCat(", from step ", attempt.start_step())
                                                               : ""));
  const int64_t number = attempt.number();
  // First: were only the attempt stored, figures of the old branch could still be shown behind it.
  SAB_RETURN_IF_ERROR(
      metric_store_->BeginAttempt(entry.id, number, attempt.recovery_source().empty() ? -1 : attempt.start_step()));
  SAB_RETURN_IF_ERROR(Replace(entry, std::move(next)));
  if (first) {
    metrics_->job_queue_seconds.Observe(
        absl::ToDoubleSeconds(std::max(absl::ZeroDuration(), now - FromProto(entry.record.job.create_time()))));
  }
  waiting_.erase(entry.id);
  const int64_t memory = spec::PlacedCpuBytes(entry.record.job.spec());
  for (size_t rank = 0; rank < placements.size(); ++rank) {
    WorkerEntry& worker = workers_.at(placements[rank].worker);
    worker.occupants[placements[rank].slot] = {entry.id, number, static_cast<int32_t>(rank), std::nullopt, memory};
  }
  for (const WorkerId& host : hosts) Bump(workers_.at(host));
  entry.active = std::move(active);
  entry.recovery.reset();
  start_deadlines_.insert({entry.active->start_deadline, entry.id});
  NeedTick();
  return absl::OkStatus();
}

void Coordinator::CloseAttempt(JobRecord& record, const std::string& reason) {
  if (record.job.attempts_size() == 0) return;
  v1::Attempt& attempt = *record.job.mutable_attempts(record.job.attempts_size() - 1);
  if (attempt.has_end_time()) return;
  // So that it lasted as long as it lasted, wherever the wall clock was set meanwhile.
  const auto entry = jobs_.find(*ParseJobName(record.job.name()));
  *attempt.mutable_end_time() = ToProto(FromProto(attempt.start_time()) + RunTime(entry->second));
  attempt.set_end_reason(reason);
}

void Coordinator::ReleaseRanks(JobEntry& entry) {
  if (!entry.active.has_value()) return;
  const int64_t attempt = entry.record.job.attempt_count();
  std::set<WorkerId> hosts;
  for (size_t rank = 0; rank < entry.active->ranks.size(); ++rank) {
    const Rank& place = entry.active->ranks[rank];
    WorkerEntry& worker = workers_.at(place.worker);
    auto it = worker.occupants.find(place.slot);
    if (it == worker.occupants.end() || it->second.job != entry.id || it->second.attempt != attempt) continue;
    // Nobody was told of it, or its process has ended: nothing runs there.
    if (place.told == kNotTold || place.succeeded) {
      worker.occupants.erase(it);
    } else {
      it->second.removed_at = worker.desired_version + 1;
    }
    hosts.insert(place.worker);
  }
  for (const WorkerId& host : hosts) Bump(workers_.at(host));
  entry.active.reset();
  unfinished_.erase(entry.id);
  schedule_needed_ = true;
}

void Coordinator::EndAttempt(JobEntry& entry, const Fault& fault) {
  if (TryEndAttempt(entry, fault, entry.record).ok()) return;
  unfinished_[entry.id] = fault;
  retry_at_ = std::min(retry_at_, clock_->Monotonic() + kRetry);
  NeedTick();
}

absl::Status Coordinator::TryEndAttempt(JobEntry& entry, const Fault& fault, JobRecord next) {
  // It was to leave anyway: what made it end sooner costs nothing.
  if (entry.record.job.stop_intent() != v1::STOP_INTENT_UNSPECIFIED) return Left(entry, fault.text);
  if (IsAtRung(entry.record.job)) return Left(entry, absl::StrCat("had reached its rung when ", fault.text));
  v1::Job& job = next.job;
  CloseAttempt(next, fault.text);
  const int64_t allowed = job.spec().queue().max_restarts();
  Continuation around = PlaceAroundSurvivors(entry);
  // An attempt from memory that finds the memory gone is a part of the recovery that it was started for.
  const bool free = fault.free || (entry.active->from_memory && around.placements.empty() && !fault.permanent &&
                                   !job.attempts(job.attempts_size() - 1).has_first_step_time());
  absl::Duration backoff;
  if (fault.permanent || (!free && next.restarts >= allowed)) {
    job.set_state(v1::JOB_STATE_FAILED);
    *job.mutable_end_time() = ToProto(clock_->Now());
    job.set_failure(fault.text);
    job.set_state_reason(fault.permanent ? "a restart cannot mend this fault"
                                         : absl::StrCat("no restart is left of queue.max_restarts ", allowed));
  } else {
    // Back-off is for what does not get anywhere: an attempt that trained was worth starting. A memory that would be
    // given up by waiting is worth some tries.
    const int64_t fruitless = FruitlessInARow(job);
    if (!free) ++next.restarts;
    const bool at_once = free || fruitless == 0 || (!around.placements.empty() && fruitless <= kTriesFromMemory);
    if (!at_once) backoff = BackoffBefore(std::min<int64_t>(next.restarts, fruitless + 1));
    job.set_state(v1::JOB_STATE_RECOVERING);
    job.set_state_reason(absl::StrCat(
        fault.text,
        free ? "; starts again, which costs no restart" : absl::StrCat("; restart ", next.restarts, " of ", allowed),
        backoff > absl::ZeroDuration() ? absl::StrCat(" in ", absl::FormatDuration(backoff)) : ""));
  }
  if (job.state() != v1::JOB_STATE_RECOVERING || backoff > absl::ZeroDuration()) around = {};
  SAB_RETURN_IF_ERROR(Replace(entry, std::move(next)));
  metrics_->CountAttempt(fault.outcome);
  BeginRecovery(entry, fault);
  ReleaseRanks(entry);
  if (!around.placements.empty() && ContinueFromMemory(entry, around)) return absl::OkStatus();
  if (entry.record.job.state() == v1::JOB_STATE_RECOVERING) {
    entry.not_before = clock_->Monotonic() + backoff;
    Wait(entry);
  }
  return absl::OkStatus();
}

absl::Status Coordinator::Succeed(JobEntry& entry) {
  if (entry.active->stop_reason == kLeave) return Left(entry, "left with a checkpoint");
  if (entry.active->stop_reason == kRung) {
    if (IsAtRung(entry.record.job)) return Left(entry, "reached a rung of its sweep");
    EndAttempt(entry, {.text = "the trainer ended at a rung without a figure of it", .outcome = "failed"});
    return absl::OkStatus();
  }
  JobRecord next = entry.record;
  v1::Job& job = next.job;
  CloseAttempt(next, "finished");
  job.set_state(v1::JOB_STATE_SUCCEEDED);
  job.clear_stop_intent();
  job.set_stop_reason(entry.active->stop_reason.empty() ? "steps" : entry.active->stop_reason);
  job.set_state_reason("");
  *job.mutable_end_time() = ToProto(clock_->Now());
  SAB_RETURN_IF_ERROR(Replace(entry, std::move(next)));
  metrics_->CountAttempt("succeeded");
  ReleaseRanks(entry);
  return absl::OkStatus();
}

void Coordinator::Progress(JobEntry& entry, Rank& rank, int64_t step) {
  v1::Job& job = entry.record.job;
  if (step <= rank.step) return;
  rank.step = step;
  if (step <= job.step()) return;
  metrics_->train_steps.Increment(static_cast<double>(step - job.step()));
  job.set_step(step);
  v1::Attempt& attempt = *job.mutable_attempts(job.attempts_size() - 1);
  attempt.set_last_step(step);
  if (attempt.has_first_step_time()) {
    Touch(entry);
    return;
  }
  JobRecord next = entry.record;
  v1::Attempt& started = *next.job.mutable_attempts(next.job.attempts_size() - 1);
  *started.mutable_first_step_time() = ToProto(clock_->Now());
  CompleteRecovery(entry, started);
  if (job.state() == v1::JOB_STATE_STARTING) {
    next.job.set_state(v1::JOB_STATE_RUNNING);
    next.job.set_state_reason("");
  }
  const absl::Time start = FromProto(started.start_time());
  // Without the store the job stays STARTING, and the next reported step tries again.
  if (Replace(entry, std::move(next)).ok()) {
    schedule_needed_ = schedule_needed_ || RunsElastic(entry);  // it may be resized from now on
    entry.active->first_step = clock_->Monotonic();
    metrics_->job_first_step_seconds.Observe(
        absl::ToDoubleSeconds(std::max(absl::ZeroDuration(), clock_->Now() - start)));
  }
}

void Coordinator::MarkUnreachable(const WorkerId& worker) {
  for (const JobId& id : JobsOn(worker)) {
    JobEntry& entry = jobs_.at(id);
    if (entry.record.job.state() == v1::JOB_STATE_UNREACHABLE) continue;
    JobRecord next = entry.record;
    next.job.set_state(v1::JOB_STATE_UNREACHABLE);
    next.job.set_state_reason(
        absl::StrCat(worker.name(), " has not been heard of for ", absl::FormatDuration(options_.lease / 2),
                     "; the attempt ends when its lease of ", absl::FormatDuration(options_.lease), " does"));
    (void)Replace(entry, std::move(next));
  }
}

void Coordinator::MarkLost(const WorkerId& worker) {
  metrics_->leases_lost.Increment();
  schedule_needed_ = true;
  MarkChanged(worker);
  log::Warning(absl::StrCat(worker.name(), " is lost: not heard of for ", absl::FormatDuration(options_.lease)));
  for (const JobId& id : JobsOn(worker)) {
    EndAttempt(jobs_.at(id), {.text = absl::StrCat(worker.name(), " was not heard of for ",
                                                   absl::FormatDuration(options_.lease), " (its lease)"),
                              .outcome = "lost",
                              .age = options_.lease});
  }
}

void Coordinator::Revive(JobEntry& entry) {
  if (entry.record.job.state() != v1::JOB_STATE_UNREACHABLE || !entry.active.has_value()) return;
  const absl::Duration now = clock_->Monotonic();
  for (const Rank& rank : entry.active->ranks) {
    if (rank.succeeded) continue;
    if (!leases_.IsPrompt(rank.worker, now) || (rank.told == kToldBeforeRestart && !rank.reported)) return;
  }
  JobRecord next = entry.record;
  const bool ran = next.job.attempts(next.job.attempts_size() - 1).has_first_step_time();
  next.job.set_state(ran ? v1::JOB_STATE_RUNNING : v1::JOB_STATE_STARTING);
  next.job.set_state_reason(ran ? "" : "its workers are back; trainers start");
  if (Replace(entry, std::move(next)).ok()) RenewIfChanged(entry);
  schedule_needed_ = schedule_needed_ || RunsElastic(entry);
}

}  // namespace sab::server
