#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/spec/cost.h"
#include "common/spec/validate.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

constexpr absl::Duration kRetry = absl::Seconds(1);
// The ends of running jobs are worked out anew at most so often.
constexpr absl::Duration kEstimateInterval = absl::Seconds(10);
// Fewer steps than this say nothing about a job's pace.
constexpr int64_t kLeastSteps = 10;

std::string QueueName(const v1::JobSpec& spec) {
  return spec.queue().name().empty() ? "default" : spec.queue().name();
}

}  // namespace

void Coordinator::LoadQueues() {
  const absl::Duration now = clock_->Monotonic();
  cluster_.PutQueue(QueueConfig{}, now);
  for (const QueueConfig& queue : options_.queues) cluster_.PutQueue(queue, now);
}

bool Coordinator::UsesCuda(const v1::Attempt& attempt) {
  if (attempt.placements().empty()) return false;
  const auto id = ParseWorkerName(attempt.placements(0).worker());
  const auto worker = id.ok() ? workers_.find(*id) : workers_.end();
  if (worker == workers_.end()) return false;
  for (const v1::Slot& slot : worker->second.view.slots()) {
    if (slot.index() == attempt.placements(0).slot()) return slot.device() == "cuda";
  }
  return false;
}

// The store holds every attempt, so that the use of a queue need not be stored beside them.
void Coordinator::LoadUse(const v1::Job& job) {
  const absl::Duration now = clock_->Monotonic();
  const auto monotonic = [&](const google::protobuf::Timestamp& time) {
    return now - std::max(absl::ZeroDuration(), clock_->Now() - FromProto(time));
  };
  for (const v1::Attempt& attempt : job.attempts()) {
    cluster_.AddUse(QueueName(job.spec()),
                    {.cuda = UsesCuda(attempt),
                     .slots = attempt.placements_size(),
                     .from = monotonic(attempt.start_time()),
                     .until = attempt.has_end_time() ? monotonic(attempt.end_time()) : now},
                    now);
  }
}

// Not by the wall clock, which may have been set meanwhile, but for what an earlier run of the coordinator saw of it.
absl::Duration Coordinator::RunTime(const JobEntry& entry) {
  const v1::Attempt& attempt = entry.record.job.attempts(entry.record.job.attempts_size() - 1);
  if (entry.started_attempt == attempt.number()) return clock_->Monotonic() - entry.started;
  return std::max(absl::ZeroDuration(), clock_->Now() - FromProto(attempt.start_time()));
}

absl::Duration Coordinator::LeftOfLimit(const JobEntry& entry) {
  const v1::Job& job = entry.record.job;
  const auto limit = spec::ParseTimeLimit(job.spec().queue().time_limit());
  if (!limit.ok() || *limit == absl::InfiniteDuration()) return absl::InfiniteDuration();
  absl::Duration used;
  for (const v1::Attempt& attempt : job.attempts()) {
    used += attempt.has_end_time()
                ? std::max(absl::ZeroDuration(), FromProto(attempt.end_time()) - FromProto(attempt.start_time()))
                : RunTime(entry);
  }
  return std::max(absl::ZeroDuration(), *limit - used);
}

// By the pace of the present attempt, and no later than the time limit. Infinite: unknown.
absl::Duration Coordinator::ExpectedEnd(const JobEntry& entry) {
  const v1::Job& job = entry.record.job;
  const absl::Duration now = clock_->Monotonic();
  if (job.stop_intent() != v1::STOP_INTENT_UNSPECIFIED) return now;
  const absl::Duration by_limit = now + LeftOfLimit(entry);
  const v1::Attempt& attempt = job.attempts(job.attempts_size() - 1);
  const int64_t done = attempt.last_step() - attempt.start_step();
  // How much work a job has that does not train is not known here.
  const absl::Duration first_step = entry.active->first_step;
  if (first_step == absl::InfiniteDuration() || done < kLeastSteps || !spec::IsTraining(job.spec())) return by_limit;
  const absl::Duration ran = now - first_step;
  const int64_t rung = NextRung(job);
  const int64_t until = rung > 0 ? rung : job.spec().train().steps();
  const auto left = static_cast<double>(std::max<int64_t>(0, until - attempt.last_step()));
  return std::min(by_limit, now + std::max(absl::ZeroDuration(), ran) * (left / static_cast<double>(done)));
}

// False for a job that waits for something else than slots; its reason is set then.
bool Coordinator::IsReady(JobEntry& entry) {
  if (IsAtRung(entry.record.job)) return false;  // ReviewSweep says how it stands
  bool broken = false;
  const std::string unmet = Unmet(entry, &broken);
  if (unmet.empty()) {
    if (EnterGroup(entry)) return entry.resume_known && entry.not_before <= clock_->Monotonic();
    SetReason(entry, absl::StrCat("waits for others of group ", entry.record.job.spec().queue().group(), ": at most ",
                                  entry.record.job.spec().queue().max_parallel(), " at a time"));
    return false;
  }
  if (broken && entry.record.job.spec().queue().after_failure() != v1::AFTER_FAILURE_KIND_HOLD) {
    FailDependent(entry, unmet);
  } else {
    SetReason(entry, broken ? absl::StrCat("held: ", unmet, "; `sabctl resume` starts it all the same") : unmet);
  }
  return false;
}

GangRequest Coordinator::RequestOf(const v1::JobSpec& spec) {
  const v1::ResourceSpec& resources = spec.resources();
  return {.replicas = resources.replicas(),
          .device = resources.device(),
          .min_gpu_memory = spec::PlacedGpuBytes(spec),
          .memory = spec::PlacedCpuBytes(spec),
          .min_replicas = resources.min_replicas(),
          // What divides a power of two, the shards.
          .powers_of_two = spec.train().deterministic()};
}

bool Coordinator::RunsElastic(const JobEntry& entry) {
  return entry.record.job.spec().resources().has_min_replicas() && entry.active.has_value();
}

WaitingJob Coordinator::WaitingView(const JobEntry& entry) {
  const v1::Job& job = entry.record.job;
  return {.job = entry.id,
          .queue = QueueName(job.spec()),
          .priority = job.spec().queue().priority(),
          .create_time = absl::ToUnixMicros(FromProto(job.create_time())),
          .request = RequestOf(job.spec()),
          .limit = LeftOfLimit(entry)};
}

RunningJob Coordinator::RunningView(JobEntry& entry) {
  const v1::Job& job = entry.record.job;
  const v1::Attempt& attempt = job.attempts(job.attempts_size() - 1);
  if (entry.started_attempt != attempt.number()) {
    entry.started_attempt = attempt.number();
    entry.started =
        clock_->Monotonic() - std::max(absl::ZeroDuration(), clock_->Now() - FromProto(attempt.start_time()));
    AwaitLimit(entry);
    if (RunsElastic(entry)) {
      due_jobs_.insert({entry.started + options_.scheduling.resize_after, entry.id});
      NeedTick();
    }
    Unwatch(entry);
    // A coordinator that starts finds it leaving.
    if (job.stop_intent() != v1::STOP_INTENT_UNSPECIFIED && entry.leave_by == absl::InfiniteDuration()) {
      AwaitLeaving(entry);
    }
  }
  RunningJob view{.job = entry.id,
                  .queue = QueueName(job.spec()),
                  .priority = job.spec().queue().priority(),
                  .preemptible = job.spec().queue().preemptible(),
                  .cuda = UsesCuda(attempt),
                  .memory = UsesCuda(attempt) ? 0 : spec::PlacedCpuBytes(job.spec()),
                  .start = entry.started,
                  .expected_end = ExpectedEnd(entry),
                  .stopping = job.stop_intent() != v1::STOP_INTENT_UNSPECIFIED,
                  .placements = {},
                  .request = {}};
  for (const Rank& rank : entry.active->ranks) view.placements.push_back({rank.worker, rank.slot});
  if (!RunsElastic(entry)) return view;
  view.request = RequestOf(job.spec());
  if (job.state() == v1::JOB_STATE_RUNNING) view.may_resize = entry.started + options_.scheduling.resize_after;
  return view;
}

WorkerView Coordinator::SlotsOf(const WorkerEntry& worker) {
  WorkerView view{.id = worker.id, .accepts = Accepts(worker), .draining = worker.view.draining(), .slots = {}};
  for (const v1::Slot& slot : worker.view.slots()) {
    const auto occupant = worker.occupants.find(slot.index());
    const bool free = occupant == worker.occupants.end();
    view.slots.push_back({.index = slot.index(),
                          .cuda = slot.device() == "cuda",
                          .free = free,
                          .memory_bytes = std::max<int64_t>(0, slot.memory_bytes()),
                          .held_bytes = free ? 0 : occupant->second.memory});
  }
  std::sort(view.slots.begin(), view.slots.end(), [](const auto& a, const auto& b) { return a.index < b.index; });
  return view;
}

void Coordinator::RefreshWorker(const WorkerId& id) {
  const auto it = workers_.find(id);
  if (it == workers_.end() || !leases_.IsLive(id, clock_->Monotonic())) return cluster_.RemoveWorker(id);
  cluster_.PutWorker(SlotsOf(it->second));
}

std::vector<RankPlacement> Coordinator::FindFreeSlots(const JobEntry& entry, const GangRequest& request) {
  const absl::Duration now = clock_->Monotonic();
  for (const WorkerId& id : changed_workers_) RefreshWorker(id);
  WaitingJob wish = WaitingView(entry);
  wish.request = request;
  cluster_.PutWaiting(wish, now);
  Decision decision = Decide(&cluster_, now, options_.scheduling);
  cluster_.RemoveJob(entry.id, now);
  MarkChanged(entry.id);
  for (Placed& placed : decision.starts) {
    bool live = true;
    for (const RankPlacement& place : placed.placements) live = live && leases_.IsLive(place.worker, now);
    if (placed.job == entry.id && live) return std::move(placed.placements);
  }
  return {};
}

void Coordinator::RefreshJob(const JobId& id) {
  const absl::Duration now = clock_->Monotonic();
  const auto it = jobs_.find(id);
  if (it == jobs_.end()) return cluster_.RemoveJob(id, now);
  JobEntry& entry = it->second;
  if (entry.active.has_value()) {
    EnterGroup(entry);
    return cluster_.PutRunning(RunningView(entry), now);
  }
  if (!waiting_.contains(id) || IsAtRung(entry.record.job)) LeaveGroup(entry);
  if (waiting_.contains(id) && IsReady(entry)) return cluster_.PutWaiting(WaitingView(entry), now);
  cluster_.RemoveJob(id, now);
}

void Coordinator::RefreshCluster() {
  const absl::Duration now = clock_->Monotonic();
  if (now - estimated_at_ >= kEstimateInterval) {
    estimated_at_ = now;
    for (const auto& [id, entry] : jobs_) {
      if (entry.active.has_value()) MarkChanged(id);
    }
  }
  for (const WorkerId& id : std::exchange(changed_workers_, {})) RefreshWorker(id);
  // A job that fails because of another may fail a third.
  while (!changed_jobs_.empty()) {
    for (const JobId& id : std::exchange(changed_jobs_, {})) RefreshJob(id);
  }
}

// A lease may have ended since its worker was last looked at: nothing is placed on that one.
Decision Coordinator::DecideOnLive() {
  const absl::Duration now = clock_->Monotonic();
  while (true) {
    RefreshCluster();
    Decision decision = Decide(&cluster_, now, options_.scheduling);
    std::vector<RankPlacement> places;
    for (const Placed& placed : decision.starts) {
      places.insert(places.end(), placed.placements.begin(), placed.placements.end());
    }
    for (const Growth& growth : decision.growths) {
      places.insert(places.end(), growth.added.begin(), growth.added.end());
    }
    for (const RankPlacement& place : places) {
      if (!leases_.IsLive(place.worker, now)) MarkChanged(place.worker);
    }
    if (changed_workers_.empty()) return decision;
  }
}

// The scheduler has decided on a job that cannot do it now: it is asked again soon.
void Coordinator::DecideAgainSoon(const JobId& id) {
  MarkChanged(id);
  retry_at_ = std::min(retry_at_, clock_->Monotonic() + kRetry);
  NeedTick();
}

bool Coordinator::AllHoldState(const JobEntry& entry) {
  return std::all_of(entry.active->ranks.begin(), entry.active->ranks.end(),
                     [&](const Rank& rank)
                         ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return IsAlive(rank) && rank.pulse.holds_state(); });
}

void Coordinator::CarryOut(const Shrink& shrink) {
  JobEntry& entry = jobs_.at(shrink.job);
  if (entry.record.job.state() != v1::JOB_STATE_RUNNING) return;
  if (!AllHoldState(entry)) return DecideAgainSoon(entry.id);
  Continuation rest;
  for (const Rank& rank : entry.active->ranks) {
    const bool given = std::any_of(shrink.given.begin(), shrink.given.end(), [&](const RankPlacement& place) {
      return place.worker == rank.worker && place.slot == rank.slot;
    });
    if (!given) rest.placements.push_back({rank.worker, rank.slot});
  }
  rest.kept.resize(rest.placements.size(), true);
  const std::string how = absl::StrCat("shrinks from ", entry.active->ranks.size(), " to ", rest.placements.size(),
                                       " replicas for ", shrink.by.name());
  if (const absl::Status status = Resize(entry, rest, how); !status.ok()) {
    log::Warning(absl::StrCat(entry.id.name(), " cannot give ranks back: ", std::string(status.message())));
    DecideAgainSoon(entry.id);
  }
}

absl::Status Coordinator::Grow(JobEntry& entry, const std::vector<RankPlacement>& added) {
  Continuation all;
  for (const Rank& rank : entry.active->ranks) all.placements.push_back({rank.worker, rank.slot});
  all.kept.resize(all.placements.size(), true);
  all.placements.insert(all.placements.end(), added.begin(), added.end());
  const std::string how = absl::StrCat("grows from ", all.kept.size(), " to ", all.placements.size(), " replicas");
  all.kept.resize(all.placements.size(), false);
  return Resize(entry, all, how);
}

void Coordinator::CarryOut(const Growth& growth) {
  JobEntry& entry = jobs_.at(growth.job);
  if (entry.record.job.state() != v1::JOB_STATE_RUNNING) return;
  std::string reason = growth.reason;
  if (!growth.added.empty()) {
    const std::string returning = FindReturning();
    if (!returning.empty()) {
      reason = absl::StrCat("the free slots may be for ", returning, ", which comes back");
    } else if (!AllHoldState(entry)) {
      reason = "not all its ranks have been heard of";
    } else if (const absl::Status status = Grow(entry, growth.added); !status.ok()) {
      reason = std::string(status.message());
    } else {
      return;
    }
    DecideAgainSoon(entry.id);
  }
  SetReason(entry, absl::StrCat("runs with ", growth.ranks, " of ", growth.wanted, " replicas: ", reason));
}

void Coordinator::Schedule() {
  if (!schedule_needed_) return;
  ReviewSweeps();
  schedule_needed_ = false;
  const absl::Duration begin = clock_->Monotonic();
  const Decision decision = DecideOnLive();
  metrics_->schedule_seconds.Observe(absl::ToDoubleSeconds(clock_->Monotonic() - begin));
  // First: what waits points into the cluster.
  for (const server::Wait& wait : decision.waits) SetReason(jobs_.at(wait.job->job), Describe(wait));
  for (const Placed& placed : decision.starts) {
    JobEntry& entry = jobs_.at(placed.job);
    if (absl::Status status = Start(entry, placed.placements); !status.ok()) {
      SetReason(entry, absl::StrCat("cannot start: ", status.message()));
      DecideAgainSoon(entry.id);
    }
  }
  for (const Shrink& shrink : decision.shrinks) CarryOut(shrink);
  for (const Preemption& preemption : decision.preemptions) {
    JobEntry& victim = jobs_.at(preemption.victim);
    if (absl::Status status = AskToLeave(victim, v1::STOP_INTENT_PREEMPT,
                                         absl::StrCat("makes room for ", preemption.by.name(),
                                                      ", which has a higher priority; writes a checkpoint first"));
        !status.ok()) {
      log::Warning(absl::StrCat("cannot preempt ", preemption.victim.name(), ": ", status.message()));
    }
  }
  for (const Growth& growth : decision.growths) CarryOut(growth);
  // What has started counts from now on: its use, its expected end, its time limit.
  RefreshCluster();
  RecountSlots();
}

}  // namespace sab::server
