#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/spec/update.h"
#include "common/spec/validate.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

absl::Status AlreadyFinal(const v1::Job& job, absl::string_view verb) {
  return WithReason(absl::FailedPreconditionError(
                        absl::StrCat(job.name(), " has already ", StateName(job.state()), ": nothing to ", verb)),
                    "JOB_FINAL");
}

const char* OutcomeOf(v1::StopIntent intent) {
  if (intent == v1::STOP_INTENT_UNSPECIFIED) return "rung";
  if (intent == v1::STOP_INTENT_PAUSE) return "paused";
  return intent == v1::STOP_INTENT_TIME_LIMIT ? "time_limit" : "preempted";
}

}  // namespace

// --- Leaving.

absl::Status Coordinator::AskToLeave(JobEntry& entry, v1::StopIntent intent, const std::string& why) {
  const v1::Job& job = entry.record.job;
  const bool asked = job.stop_intent() != v1::STOP_INTENT_UNSPECIFIED;
  JobRecord next = entry.record;
  next.job.set_stop_intent(intent);
  next.job.set_state_reason(why);
  SAB_RETURN_IF_ERROR(Replace(entry, std::move(next)));
  if (!job.attempts(job.attempts_size() - 1).has_first_step_time()) return Left(entry, "stopped before its first step");
  if (asked) return absl::OkStatus();
  std::set<WorkerId> hosts;
  for (const Rank& rank : entry.active->ranks) hosts.insert(rank.worker);
  for (const WorkerId& host : hosts) Bump(workers_.at(host));
  AwaitLeaving(entry);
  return absl::OkStatus();
}

void Coordinator::AwaitLeaving(JobEntry& entry) {
  entry.leave_by = clock_->Monotonic() + options_.leave_grace;
  due_jobs_.insert({entry.leave_by, entry.id});
  NeedTick();
}

void Coordinator::AwaitLimit(JobEntry& entry) {
  const absl::Duration left = LeftOfLimit(entry);
  if (left == absl::InfiniteDuration()) return;
  due_jobs_.insert({clock_->Monotonic() + left, entry.id});
  NeedTick();
}

absl::Status Coordinator::Left(JobEntry& entry, const std::string& how) {
  JobRecord next = entry.record;
  v1::Job& job = next.job;
  const v1::StopIntent intent = job.stop_intent();
  CloseAttempt(next, how);
  job.clear_stop_intent();
  if (intent == v1::STOP_INTENT_PAUSE) {
    job.set_state(v1::JOB_STATE_PAUSED);
    job.set_state_reason(absl::StrCat("paused by a user; `sabctl resume ", job.name(), "` goes on"));
  } else if (intent == v1::STOP_INTENT_TIME_LIMIT) {
    job.set_state(v1::JOB_STATE_FAILED);
    job.set_failure(
        absl::StrCat("queue.time_limit ", job.spec().queue().time_limit(), " is over at step ", job.step()));
    job.set_state_reason("its newest checkpoint is kept: submit it with a longer limit");
    *job.mutable_end_time() = ToProto(clock_->Now());
  } else {
    job.set_state(v1::JOB_STATE_QUEUED);
    job.set_state_reason(IsAtRung(job) ? absl::StrCat("waits at step ", NextRung(job), " of its sweep")
                                       : "waits for slots again");
  }
  SAB_RETURN_IF_ERROR(Replace(entry, std::move(next)));
  metrics_->CountAttempt(OutcomeOf(intent));
  entry.leave_by = absl::InfiniteDuration();
  ReleaseRanks(entry);
  if (entry.record.job.state() == v1::JOB_STATE_QUEUED) Wait(entry);
  return absl::OkStatus();
}

absl::Duration Coordinator::TakeDueJobs() {
  const absl::Duration now = clock_->Monotonic();
  while (!due_jobs_.empty() && due_jobs_.begin()->first <= now) {
    const JobId id = due_jobs_.begin()->second;
    due_jobs_.erase(due_jobs_.begin());
    const auto it = jobs_.find(id);
    if (it == jobs_.end() || !it->second.active.has_value()) continue;
    JobEntry& entry = it->second;
    absl::Status status;
    schedule_needed_ = schedule_needed_ || RunsElastic(entry);  // it may be resized
    if (entry.leave_by <= now) {
      status = Left(entry, absl::StrCat("did not leave within ", absl::FormatDuration(options_.leave_grace)));
    } else if (LeftOfLimit(entry) == absl::ZeroDuration()) {
      status = AskToLeave(entry, v1::STOP_INTENT_TIME_LIMIT, "its time limit is over; writes a checkpoint");
    }
    if (!status.ok()) due_jobs_.insert({now + absl::Seconds(1), id});
  }
  return due_jobs_.empty() ? absl::InfiniteDuration() : due_jobs_.begin()->first;
}

void Coordinator::StopWaiting(JobEntry& entry) {
  waiting_.erase(entry.id);
  unverified_.erase(entry.id);
  std::erase_if(delayed_, [&](const auto& item) { return item.second == entry.id; });
  Unwatch(entry);
}

absl::StatusOr<v1::Job> Coordinator::PauseJob(const JobId& id) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(JobEntry * entry, Find(id));
  const v1::Job& job = entry->record.job;
  if (IsFinal(job.state())) return AlreadyFinal(job, "pause");
  if (job.state() == v1::JOB_STATE_PAUSED || job.stop_intent() == v1::STOP_INTENT_PAUSE) return job;
  if (entry->active.has_value()) {
    SAB_RETURN_IF_ERROR(AskToLeave(*entry, v1::STOP_INTENT_PAUSE, "is paused: writes a checkpoint first"));
  } else {
    JobRecord next = entry->record;
    next.job.set_state(v1::JOB_STATE_PAUSED);
    next.job.set_state_reason(absl::StrCat("paused by a user; `sabctl resume ", id.name(), "` goes on"));
    SAB_RETURN_IF_ERROR(Replace(*entry, std::move(next)));
    StopWaiting(*entry);
    entry->recovery.reset();  // the time until it is resumed is nobody's fault
  }
  schedule_needed_ = true;
  Schedule();
  return entry->record.job;
}

absl::StatusOr<v1::Job> Coordinator::ResumeJob(const JobId& id) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(JobEntry * entry, Find(id));
  const v1::Job& job = entry->record.job;
  if (IsFinal(job.state())) return AlreadyFinal(job, "resume");
  bool broken = false;
  const bool held = waiting_.contains(id) && !Unmet(*entry, &broken).empty() && broken;
  if (job.stop_intent() == v1::STOP_INTENT_PAUSE) {
    // It has been told; it comes back by way of the queue.
    SAB_RETURN_IF_ERROR(AskToLeave(*entry, v1::STOP_INTENT_REQUEUE, "was resumed while it left: queues again"));
  } else if (job.state() == v1::JOB_STATE_PAUSED || held) {
    JobRecord next = entry->record;
    next.job.set_state(v1::JOB_STATE_QUEUED);
    next.job.set_state_reason("waits for its turn");
    StopWaiting(*entry);
    if (held) next.job.mutable_spec()->mutable_queue()->clear_after();
    if (held) next.job.mutable_spec()->mutable_queue()->clear_after_failure();
    const absl::Status status = Replace(*entry, std::move(next));
    if (held || status.ok()) Wait(*entry);
    SAB_RETURN_IF_ERROR(status);
  }
  schedule_needed_ = true;
  Schedule();
  return entry->record.job;
}

absl::StatusOr<v1::Job> Coordinator::UpdateJob(const v1::UpdateJobRequest& request) {
  SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobName(request.name()));
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(JobEntry * entry, Find(id));
  if (IsFinal(entry->record.job.state())) return AlreadyFinal(entry->record.job, "change");
  JobRecord next = entry->record;
  v1::QueueSpec& queue = *next.job.mutable_spec()->mutable_queue();
  if (request.has_priority()) queue.set_priority(request.priority());
  if (request.has_max_restarts()) queue.set_max_restarts(request.max_restarts());
  if (request.has_preemptible()) queue.set_preemptible(request.preemptible());
  if (request.has_time_limit()) queue.set_time_limit(request.time_limit());
  const std::vector<std::string> fields(request.update_mask().paths().begin(), request.update_mask().paths().end());
  const v1::JobSpec before = next.job.spec();
  std::vector<std::string> training;
  std::vector<FieldViolation> refused = spec::ApplyUpdate(fields, request.spec(), next.job.mutable_spec(), &training);
  const int64_t steps = next.job.spec().train().steps();
  if (steps != before.train().steps() && steps <= next.job.step()) {
    refused.push_back({"train.steps", absl::StrCat("must be above ", next.job.step(), ", where it is, got ", steps)});
  }
  if (!refused.empty()) return WithReason(InvalidFields(refused), "INVALID_SPEC");
  if (const auto violations = spec::Validate(next.job.spec()); !violations.empty()) {
    return WithReason(InvalidFields(violations), "INVALID_SPEC");
  }
  v1::JobSpec checked = next.job.spec();
  checked.mutable_queue()->clear_after();  // may have been deleted since
  SAB_RETURN_IF_ERROR(CheckQueue(checked));
  if (training.empty()) {
    SAB_RETURN_IF_ERROR(Replace(*entry, std::move(next)));
  } else {
    SAB_RETURN_IF_ERROR(AddChange(training, before, &next.job));
    SAB_RETURN_IF_ERROR(Renew(*entry, std::move(next)));
  }
  if (entry->active.has_value()) AwaitLimit(*entry);
  schedule_needed_ = true;
  Schedule();
  return entry->record.job;
}

// --- Queues and dependencies.

absl::Status Coordinator::CheckQueue(const v1::JobSpec& spec) {
  std::vector<FieldViolation> violations;
  std::vector<std::string> names;
  const QueueConfig* config = nullptr;
  for (const auto& [name, queue] : cluster_.queues()) {
    names.push_back(name);
    if (name == spec.queue().name()) config = &queue.config;
  }
  if (config == nullptr) {
    violations.push_back({"queue.name", absl::StrCat("there is no queue \"", spec.queue().name(),
                                                     "\"; there are: ", absl::StrJoin(names, ", "))});
  } else if (spec.queue().priority() > config->max_priority) {
    violations.push_back({"queue.priority", absl::StrCat("queue ", config->name, " allows at most ",
                                                         config->max_priority, ", got ", spec.queue().priority())});
  }
  for (int i = 0; i < spec.queue().after_size(); ++i) {
    if (jobs_.contains(*ParseJobName(spec.queue().after(i)))) continue;
    violations.push_back(
        {absl::StrCat("queue.after[", i, "]"), absl::StrCat(spec.queue().after(i), " does not exist")});
  }
  return violations.empty() ? absl::OkStatus() : WithReason(InvalidFields(violations), "INVALID_SPEC");
}

std::string Coordinator::Unmet(const JobEntry& entry, bool* broken) {
  *broken = false;
  std::string waits;
  // Those that it ran after may be deleted once it has started.
  if (entry.record.job.attempt_count() > 0) return waits;
  for (const std::string& name : entry.record.job.spec().queue().after()) {
    const auto it = jobs_.find(*ParseJobName(name));
    const v1::JobState state = it == jobs_.end() ? v1::JOB_STATE_CANCELLED : it->second.record.job.state();
    if (state == v1::JOB_STATE_SUCCEEDED) continue;
    *broken = IsFinal(state);
    if (*broken) return absl::StrCat(name, ", which it runs after, has ", StateName(state));
    if (waits.empty()) waits = absl::StrCat("waits for ", name, " to succeed, which is ", StateName(state));
  }
  return waits;
}

void Coordinator::Watch(const JobEntry& entry) {
  if (entry.record.job.attempt_count() > 0) return;
  for (const std::string& name : entry.record.job.spec().queue().after()) {
    dependents_[*ParseJobName(name)].insert(entry.id);
  }
}

void Coordinator::Unwatch(const JobEntry& entry) {
  for (const std::string& name : entry.record.job.spec().queue().after()) {
    const auto it = dependents_.find(*ParseJobName(name));
    if (it == dependents_.end()) continue;
    it->second.erase(entry.id);
    if (it->second.empty()) dependents_.erase(it);
  }
}

bool Coordinator::EnterGroup(const JobEntry& entry) {
  const v1::QueueSpec& queue = entry.record.job.spec().queue();
  if (!queue.has_max_parallel()) return true;
  Group& group = groups_[queue.group()];
  const std::pair<int64_t, JobId> key{absl::ToUnixMicros(FromProto(entry.record.job.create_time())), entry.id};
  if (group.entered.contains(entry.id)) return true;
  const bool first = group.outside.empty() || !(*group.outside.begin() < key);
  if (static_cast<int64_t>(group.entered.size()) < queue.max_parallel() && first) {
    group.outside.erase(key);
    group.entered.insert(entry.id);
    return true;
  }
  group.outside.insert(key);
  return false;
}

void Coordinator::LeaveGroup(const JobEntry& entry) {
  const auto it = groups_.find(entry.record.job.spec().queue().group());
  if (it == groups_.end()) return;
  Group& group = it->second;
  const bool entered = group.entered.erase(entry.id) > 0;
  const size_t outside = std::erase_if(group.outside, [&](const auto& other) { return other.second == entry.id; });
  if (entered || outside > 0) {
    schedule_needed_ = true;
    if (!group.outside.empty()) MarkChanged(group.outside.begin()->second);
  }
  if (group.entered.empty() && group.outside.empty()) groups_.erase(it);
}

void Coordinator::FailDependent(JobEntry& entry, const std::string& why) {
  JobRecord next = entry.record;
  next.job.set_state(v1::JOB_STATE_FAILED);
  next.job.set_failure(why);
  next.job.set_state_reason(next.job.attempt_count() == 0 ? "never started" : "cannot start again");
  *next.job.mutable_end_time() = ToProto(clock_->Now());
  if (!Replace(entry, std::move(next)).ok()) {
    SetReason(entry, why);
    return;
  }
  StopWaiting(entry);
}

v1::ListQueuesResponse Coordinator::ListQueues() {
  MutexLock lock(&mutex_);
  RefreshCluster();
  const absl::Duration now = clock_->Monotonic();
  v1::ListQueuesResponse response;
  std::map<std::string, std::pair<int64_t, int64_t>> jobs;  // waiting, running
  for (const auto& [key, lane] : cluster_.lanes()) {
    jobs[key.queue].first += static_cast<int64_t>(lane.jobs.size());
  }
  for (const auto& [id, entry] : jobs_) {
    if (entry.active.has_value()) ++jobs[entry.record.job.spec().queue().name()].second;
  }
  for (const auto& [name, queue] : cluster_.queues()) {
    v1::Queue& shown = *response.add_queues();
    shown.set_name(name);
    shown.set_weight(queue.config.weight);
    shown.set_max_priority(queue.config.max_priority);
    shown.set_waiting_jobs(jobs[name].first);
    shown.set_running_jobs(jobs[name].second);
    shown.set_share(cluster_.Share(queue, now));
    for (const bool cuda : {false, true}) {
      v1::QueueSlots& slots = *shown.add_slots();
      slots.set_device(cuda ? "cuda" : "cpu");
      if (queue.config.quota[cuda].has_value()) slots.set_quota(*queue.config.quota[cuda]);
      slots.set_in_use(queue.in_use[cuda]);
      slots.set_average_use(cluster_.AverageUse(queue, cuda, now));
    }
  }
  return response;
}

// --- Workers.

absl::StatusOr<v1::Worker> Coordinator::DrainWorker(const WorkerId& id, bool draining, bool stop_jobs) {
  MutexLock lock(&mutex_);
  const auto it = workers_.find(id);
  if (it == workers_.end()) {
    return WithReason(
        absl::NotFoundError(absl::StrCat(id.name(), " is not known; `sabctl worker list` shows the workers there are")),
        "WORKER_NOT_FOUND");
  }
  WorkerEntry& worker = it->second;
  v1::Worker view = worker.view;
  view.set_draining(draining);
  SAB_RETURN_IF_ERROR(Commit({.put_workers = {{view, worker.incarnation}}}));
  worker.view = std::move(view);
  MarkChanged(id);
  if (draining && stop_jobs) {
    for (const JobId& job : JobsOn(id)) {
      JobEntry& entry = jobs_.at(job);
      if (entry.record.job.stop_intent() != v1::STOP_INTENT_UNSPECIFIED) continue;
      SAB_RETURN_IF_ERROR(
          AskToLeave(entry, v1::STOP_INTENT_REQUEUE,
                     absl::StrCat(id.name(), " is drained: writes a checkpoint and goes on elsewhere")));
    }
  }
  schedule_needed_ = true;
  Schedule();
  return worker.view;
}

}  // namespace sab::server
