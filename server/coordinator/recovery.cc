// From the end of an attempt to the first step of the next: going on from the memory of the processes that survived,
// and what each phase of it took.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

// Ranks that wait in collective calls for so long, all of them, wait for each other.
constexpr absl::Duration kLeastCommonWait = absl::Minutes(1);
constexpr double kCommonWaitFactor = 10;
// A rank that computes for so many times the median is a straggler, if its peers lose this share of a step by it.
constexpr double kStragglerFactor = 1.5;
constexpr double kStragglerShare = 0.1;

bool Computes(v1::TrainerActivity activity) {
  return activity != v1::TRAINER_ACTIVITY_COLLECTIVE && activity != v1::TRAINER_ACTIVITY_INTERRUPTED;
}

// "collective".
std::string ActivityWord(v1::TrainerActivity activity) {
  static constexpr const char* kWords[] = {"",           "prepare",    "meet",       "step",
                                           "collective", "evaluation", "checkpoint", "interrupted"};
  return v1::TrainerActivity_IsValid(activity) ? kWords[activity] : "";
}

// A phase that ends at `now` and began where the known ones end.
void SetPhase(google::protobuf::Duration* phase, absl::Duration since, absl::Duration now) {
  *phase = ToProto(std::max(absl::ZeroDuration(), now - since));
}

}  // namespace

bool Coordinator::IsAlive(const Rank& rank) {
  const bool same_agent = rank.told == workers_.at(rank.worker).incarnation || rank.told == kToldBeforeRestart;
  return rank.reported && !rank.dead && !rank.succeeded && same_agent &&
         leases_.IsPrompt(rank.worker, clock_->Monotonic());
}

// A slot for every rank, the processes that hold the job's state in theirs: in their own. An elastic job goes on with
// those ranks that have one. Nothing where that cannot be done at once.
Coordinator::Continuation Coordinator::PlaceAroundSurvivors(const JobEntry& entry) {
  const ActiveAttempt& active = *entry.active;
  // What speaks for a rank, the least first.
  enum Home { kNone, kFound, kOwn, kAlive, kHoldsState };
  std::vector<Home> homes;
  std::vector<RankPlacement> placements;
  std::string device;
  for (const Rank& rank : active.ranks) {
    const bool alive = IsAlive(rank);
    const WorkerEntry& worker = workers_.at(rank.worker);
    const auto slot = std::find_if(worker.view.slots().begin(), worker.view.slots().end(),
                                   [&](const v1::Slot& s) { return s.index() == rank.slot; });
    // An agent that was just started has never been told anything: nothing of before can come back to it.
    const bool fresh = worker.known_version == 0 && !worker.unknown_trainer;
    const bool usable = slot != worker.view.slots().end() && leases_.IsPrompt(rank.worker, clock_->Monotonic()) &&
                        (alive || fresh || Accepts(worker));
    if (slot != worker.view.slots().end()) device = slot->device();
    homes.push_back(!usable ? kNone : alive && rank.pulse.holds_state() ? kHoldsState : alive ? kAlive : kOwn);
    placements.push_back({rank.worker, rank.slot});
  }
  if (std::find(homes.begin(), homes.end(), kHoldsState) == homes.end()) return {};
  GangRequest request = RequestOf(entry.record.job.spec());
  // Those who wait and go before this job have the free slots first.
  if (const auto homeless = std::count(homes.begin(), homes.end(), kNone); homeless > 0) {
    const bool elastic = request.least() < request.replicas;
    const std::vector<RankPlacement> found =
        FindFreeSlots(entry, {.replicas = homeless,
                              .device = device == "cuda" ? v1::DEVICE_KIND_CUDA : v1::DEVICE_KIND_CPU,
                              .min_gpu_memory = request.min_gpu_memory,
                              .memory = device == "cuda" ? 0 : request.memory,
                              .min_replicas = elastic ? 1 : 0});
    size_t next = 0;
    for (size_t i = 0; i < homes.size() && next < found.size(); ++i) {
      if (homes[i] != kNone) continue;
      homes[i] = kFound;
      placements[i] = found[next++];
    }
  }
  const auto homed = static_cast<int64_t>(homes.size()) - std::count(homes.begin(), homes.end(), kNone);
  // As many as before at most: that it grows is decided elsewhere.
  int64_t left = request.MostOf(homed);
  std::vector<bool> chosen(homes.size(), false);
  for (const Home home : {kHoldsState, kAlive, kOwn, kFound}) {
    for (size_t i = 0; i < homes.size() && left > 0; ++i) {
      if (homes[i] != home) continue;
      chosen[i] = true;
      --left;
    }
  }
  Continuation next;
  for (size_t i = 0; i < homes.size(); ++i) {
    if (!chosen[i]) continue;
    next.placements.push_back(placements[i]);
    next.kept.push_back(homes[i] >= kAlive);
  }
  return next;
}

absl::Status Coordinator::Resize(JobEntry& entry, const Continuation& next, const std::string& how) {
  JobRecord record = entry.record;
  CloseAttempt(record, how);
  record.job.set_state(v1::JOB_STATE_RECOVERING);
  record.job.set_state_reason(how);
  SAB_RETURN_IF_ERROR(Replace(entry, std::move(record)));
  const Fault none{.text = how, .outcome = "resized"};
  metrics_->CountAttempt(none.outcome);
  BeginRecovery(entry, none);
  ReleaseRanks(entry);
  if (!ContinueFromMemory(entry, next)) Wait(entry);
  return absl::OkStatus();
}

std::string Coordinator::FindReturning() {
  for (const JobId& id : waiting_) {
    const JobEntry& entry = jobs_.at(id);
    if (!entry.resume_known || entry.not_before > clock_->Monotonic()) return id.name();
  }
  return "";
}

void Coordinator::BeginRecovery(JobEntry& entry, const Fault& fault) {
  const v1::Job& job = entry.record.job;
  PendingRecovery pending;
  pending.cause = fault.outcome;
  pending.detect = fault.age;
  pending.begun = clock_->Monotonic();
  pending.last_step = job.step();
  entry.recovery = std::move(pending);
}

// Starts the next attempt around the processes that hold the state. Without them, or when the store cannot take it, the
// job waits as any other.
bool Coordinator::ContinueFromMemory(JobEntry& entry, const Continuation& next) {
  entry.resume.reset();
  entry.from_memory = true;
  const absl::Status started = Start(entry, next.placements);
  entry.from_memory = false;
  if (!started.ok()) {
    log::Warning(absl::StrCat(entry.id.name(), " cannot go on from memory: ", std::string(started.message())));
    return false;
  }
  for (size_t i = 0; i < next.kept.size(); ++i) entry.active->ranks[i].kept = next.kept[i];
  return true;
}

v1::Recovery Coordinator::PlacedRecovery(JobEntry& entry) {
  v1::Recovery recovery;
  const PendingRecovery& pending = *entry.recovery;
  const absl::Duration now = clock_->Monotonic();
  recovery.set_cause(pending.cause);
  recovery.set_lost_steps(
      std::max<int64_t>(0, pending.last_step - (entry.resume ? StartStep(entry, *entry.resume) : 0)));
  *recovery.mutable_detect() = ToProto(pending.detect);
  if (entry.from_memory) {
    recovery.set_lost_steps(0);  // until the ranks have agreed
    SetPhase(recovery.mutable_place(), pending.begun, now);
  } else {
    const absl::Duration stopped = std::min(pending.stopped.value_or(now), now);
    SetPhase(recovery.mutable_stop(), pending.begun, stopped);
    SetPhase(recovery.mutable_place(), stopped, now);
  }
  return recovery;
}

// Takes note of the milestones that the ranks of a recovering attempt have passed together.
void Coordinator::PassMilestones(JobEntry& entry) {
  v1::Job& job = entry.record.job;
  ActiveAttempt& active = *entry.active;
  v1::Attempt& attempt = *job.mutable_attempts(job.attempts_size() - 1);
  if (!attempt.has_recovery() || active.milestone == absl::InfiniteDuration()) return;
  v1::Recovery& recovery = *attempt.mutable_recovery();
  const absl::Duration now = clock_->Monotonic();
  const auto all = [&](auto passed) { return std::all_of(active.ranks.begin(), active.ranks.end(), passed); };
  const auto pass = [&](google::protobuf::Duration* phase) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    SetPhase(phase, active.milestone, now);
    active.milestone = now;
    Touch(entry);
  };
  if (!recovery.has_stop() && all([](const Rank& rank) { return !rank.kept || rank.prepares; }))
    pass(recovery.mutable_stop());
  if (recovery.has_stop() && !recovery.has_start() && all([](const Rank& rank) { return rank.prepares; }))
    pass(recovery.mutable_start());
  if (recovery.has_start() && !recovery.has_restore() && all([](const Rank& rank) { return rank.restored; }))
    pass(recovery.mutable_restore());
}

// The first step is being stored: whatever phase has not been heard of by itself ends with it.
void Coordinator::CompleteRecovery(const JobEntry& entry, v1::Attempt& attempt) {
  if (!attempt.has_recovery()) return;
  v1::Recovery& recovery = *attempt.mutable_recovery();
  for (auto* phase : {recovery.has_stop() ? nullptr : recovery.mutable_stop(),
                      recovery.has_start() ? nullptr : recovery.mutable_start(),
                      recovery.has_restore() ? nullptr : recovery.mutable_restore()}) {
    if (phase != nullptr) *phase = ToProto(absl::ZeroDuration());
  }
  const absl::Duration since = entry.active->milestone;
  SetPhase(recovery.mutable_first_step(), since, since == absl::InfiniteDuration() ? since : clock_->Monotonic());
}

void Coordinator::TakeInRestoration(JobEntry& entry, const v1::Restoration& restored) {
  ActiveAttempt& active = *entry.active;
  const v1::Attempt& last = *entry.record.job.attempts().rbegin();
  if (active.restored_known || !restored.has_source_rank() || last.recovery_source() != kMemorySource) return;
  // Figures that are replaced are so before the first new one arrives; without the store the next report tries again.
  if (!metric_store_->BeginAttempt(entry.id, last.number(), restored.replaces_after()).ok()) return;
  if (!SettleChanges(entry, restored.step()).ok()) return;
  v1::Job& job = entry.record.job;
  v1::Attempt& attempt = *job.mutable_attempts(job.attempts_size() - 1);
  active.restored_known = true;
  attempt.set_recovery_source(absl::StrCat("memory of rank ", restored.source_rank()));
  attempt.mutable_recovery()->set_lost_steps(std::max<int64_t>(0, attempt.start_step() - restored.step()));
  attempt.set_start_step(restored.step());
  // Figures come another way, and may have been faster than this.
  if (!attempt.has_first_step_time()) {
    attempt.set_last_step(restored.step());
    job.set_step(restored.step());
    for (Rank& rank : active.ranks) rank.step = restored.step();
  }
  Touch(entry);
}

// Ranks that wait for each other, though none of them has failed: their connections are broken.
std::optional<Coordinator::Fault> Coordinator::FindCommonWait(const JobEntry& entry) {
  bool all_interrupted = true;
  bool all_waited = true;
  for (const Rank& rank : entry.active->ranks) {
    if (rank.succeeded || !rank.reported || Computes(rank.pulse.activity())) return std::nullopt;
    const bool interrupted = rank.pulse.activity() == v1::TRAINER_ACTIVITY_INTERRUPTED;
    const absl::Duration step = absl::Seconds(rank.pulse.compute_seconds() + rank.pulse.wait_seconds());
    const absl::Duration limit = std::max(kLeastCommonWait, kCommonWaitFactor * step);
    all_interrupted = all_interrupted && interrupted;
    // How long a call takes is not known before there were some.
    all_waited = all_waited && step > absl::ZeroDuration() && absl::Seconds(rank.pulse.activity_seconds()) >= limit;
  }
  if (!all_interrupted && !all_waited) return std::nullopt;
  return Fault{.text = all_interrupted ? "all ranks lost the connections to their peers"
                                       : "all ranks wait for each other in a collective call",
               .outcome = "lost"};
}

void Coordinator::FindUnstarted(JobEntry& entry) {
  for (size_t i = 0; i < entry.active->ranks.size(); ++i) {
    Rank& rank = entry.active->ranks[i];
    if (rank.reported || rank.succeeded || rank.told == kToldBeforeRestart) continue;
    rank.dead = true;
    EndAttempt(entry,
               {.text = absl::StrCat("rank ", i, " on ", rank.worker.name(), " was assigned and not started within ",
                                     absl::FormatDuration(options_.start_deadline)),
                .outcome = "lost",
                .age = options_.start_deadline});
    return;
  }
}

void Coordinator::AddRanks(const JobEntry& entry, v1::Job& job) {
  if (!entry.active.has_value()) return;
  std::vector<double> computing;
  for (const Rank& rank : entry.active->ranks) computing.push_back(rank.pulse.compute_seconds());
  std::sort(computing.begin(), computing.end());
  const double median = computing[(computing.size() - 1) / 2];
  for (size_t i = 0; i < entry.active->ranks.size(); ++i) {
    const Rank& rank = entry.active->ranks[i];
    v1::RankStatus& status = *job.add_ranks();
    const double compute = rank.pulse.compute_seconds();
    status.set_rank(static_cast<int32_t>(i));
    status.set_worker(rank.worker.name());
    status.set_step(rank.step);
    status.set_activity(ActivityWord(rank.pulse.activity()));
    status.set_compute_seconds(compute);
    status.set_wait_seconds(rank.pulse.wait_seconds());
    status.set_straggler(median > 0 && compute > kStragglerFactor * median &&
                         compute - median > kStragglerShare * (compute + rank.pulse.wait_seconds()));
  }
}

}  // namespace sab::server
