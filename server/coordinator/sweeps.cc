// Sweeps with successive halving: which jobs are the trials of one, what those at a rung wait for, who goes on.
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/spec/halving.h"
#include "google/protobuf/util/message_differencer.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

constexpr absl::Duration kRetry = absl::Seconds(1);

// `active`: it holds slots.
RankedTrial RankedOf(const v1::Job& job, bool active) {
  using Standing = RankedTrial::Standing;
  const double figure = job.halving().has_figure() ? job.halving().figure() : std::numeric_limits<double>::quiet_NaN();
  switch (job.state()) {
    case v1::JOB_STATE_FAILED:
    case v1::JOB_STATE_CANCELLED:
      return {Standing::kOut, figure};
    case v1::JOB_STATE_SUCCEEDED:
      return {Standing::kEnded, figure};
    default:
      return {IsAtRung(job) && !active ? Standing::kThere : Standing::kComing, figure};
  }
}

auto Stands(RankedTrial::Standing standing) {
  return [standing](const RankedTrial& trial) { return trial.standing == standing; };
}

bool IsWaiting(v1::JobState state) {
  return state == v1::JOB_STATE_QUEUED || state == v1::JOB_STATE_RECOVERING;
}

absl::Status Refuse(const std::string& field, const std::string& reason) {
  return WithReason(InvalidFields({{field, reason}}), "INVALID_SPEC");
}

}  // namespace

void Coordinator::EnterSweep(const JobEntry& entry) {
  const v1::JobSpec& spec = entry.record.job.spec();
  if (!spec.has_halving()) return;
  sweeps_[spec.queue().group()].insert(entry.id);
  MarkSweep(entry.record.job);
}

void Coordinator::LeaveSweep(const JobEntry& entry) {
  const auto it = sweeps_.find(entry.record.job.spec().queue().group());
  if (it == sweeps_.end()) return;
  it->second.erase(entry.id);
  if (it->second.empty()) sweeps_.erase(it);
}

void Coordinator::MarkSweep(const v1::Job& job) {
  if (!job.spec().has_halving()) return;
  changed_sweeps_.insert(job.spec().queue().group());
  schedule_needed_ = true;
  NeedTick();
}

absl::Status Coordinator::CheckSweep(const v1::JobSpec& spec) {
  const auto it = sweeps_.find(spec.queue().group());
  if (!spec.has_halving() || it == sweeps_.end()) return absl::OkStatus();
  const JobEntry& other = jobs_.at(*it->second.begin());
  if (!google::protobuf::util::MessageDifferencer::Equals(other.record.job.spec().halving(), spec.halving())) {
    return Refuse("halving", absl::StrCat("must be as in ", other.id.name(), ", a trial of the same queue.group ",
                                          spec.queue().group(), "; a new sweep needs a new group"));
  }
  if (static_cast<int64_t>(it->second.size()) < spec.halving().trials()) return absl::OkStatus();
  return Refuse("queue.group", absl::StrCat(spec.queue().group(), " has all of its ", spec.halving().trials(),
                                            " trials; remove halving and queue.group to run the job by itself"));
}

const Coordinator::JobEntry* Coordinator::FindUnfinished(const v1::JobSpec& spec) {
  const auto it = sweeps_.find(spec.queue().group());
  if (!spec.has_halving() || it == sweeps_.end()) return nullptr;
  for (const JobId& id : it->second) {
    const JobEntry& entry = jobs_.at(id);
    if (!IsFinal(entry.record.job.state())) return &entry;
  }
  return nullptr;
}

void Coordinator::ReviewSweeps() {
  std::set<std::string> undone;
  while (!changed_sweeps_.empty()) {
    const std::string group = *changed_sweeps_.begin();
    changed_sweeps_.erase(changed_sweeps_.begin());
    if (undone.contains(group)) continue;
    const absl::Status status = ReviewSweep(group);
    if (status.ok()) continue;
    log::Warning(absl::StrCat("sweep ", group, " cannot go on: ", std::string(status.message())));
    undone.insert(group);
  }
  if (undone.empty()) return;
  changed_sweeps_ = std::move(undone);
  retry_at_ = std::min(retry_at_, clock_->Monotonic() + kRetry);
  NeedTick();
}

// Those of the sweep that have been let past most rungs, in the order of their creation.
std::vector<Coordinator::JobEntry*> Coordinator::TrialsAtRung(const std::set<JobId>& sweep) {
  int64_t passed = 0;
  for (const JobId& id : sweep) passed = std::max(passed, jobs_.at(id).record.job.halving().passed());
  std::vector<JobEntry*> trials;
  for (const JobId& id : sweep) {
    JobEntry& entry = jobs_.at(id);
    if (entry.record.job.halving().passed() == passed) trials.push_back(&entry);
  }
  const auto key = [](const JobEntry* entry) {
    return std::make_pair(absl::ToUnixMicros(FromProto(entry->record.job.create_time())), entry->id);
  };
  std::sort(trials.begin(), trials.end(), [&](const JobEntry* a, const JobEntry* b) { return key(a) < key(b); });
  return trials;
}

absl::Status Coordinator::ReviewSweep(const std::string& group) {
  const auto sweep = sweeps_.find(group);
  if (sweep == sweeps_.end()) return absl::OkStatus();
  const std::vector<JobEntry*> trials = TrialsAtRung(sweep->second);
  std::vector<RankedTrial> ranked;
  for (const JobEntry* entry : trials) ranked.push_back(RankedOf(entry->record.job, entry->active.has_value()));
  const auto there = std::find_if(ranked.begin(), ranked.end(), Stands(RankedTrial::Standing::kThere));
  if (there == ranked.end()) return absl::OkStatus();

  const v1::Job& first = trials[static_cast<size_t>(there - ranked.begin())]->record.job;
  const v1::HalvingSpec& halving = first.spec().halving();
  const auto submitted = static_cast<int64_t>(sweep->second.size());
  const int64_t places = spec::PlacesAt(halving.trials(), halving.factor(), static_cast<int>(first.halving().passed()));
  const RungDecision decision = DecideRung(ranked, places, halving.mode() == v1::HALVING_MODE_MAX);
  if (decision.decided && submitted >= halving.trials()) return CarryOut(decision, trials);

  std::string reason = absl::StrCat("waits at step ", NextRung(first), " of its sweep: ");
  if (submitted < halving.trials()) {
    absl::StrAppend(&reason, submitted, " of ", halving.trials(), " trials are submitted; submit the rest with ",
                    "`sabctl submit FILE --sweep ", group, "`, or cancel these");
  } else {
    const auto coming = std::find_if(ranked.begin(), ranked.end(), Stands(RankedTrial::Standing::kComing));
    const v1::Job& late = trials[static_cast<size_t>(coming - ranked.begin())]->record.job;
    const auto out = std::count_if(ranked.begin(), ranked.end(), Stands(RankedTrial::Standing::kOut));
    absl::StrAppend(&reason, decision.ranked, " of ", static_cast<int64_t>(ranked.size()) - out,
                    " are there; among those to come: ", late.name(), ", ", StateName(late.state()));
  }
  for (size_t i = 0; i < trials.size(); ++i) {
    const bool waits = IsWaiting(trials[i]->record.job.state());
    if (waits && ranked[i].standing == RankedTrial::Standing::kThere) SetReason(*trials[i], reason);
  }
  return absl::OkStatus();
}

// All of it is stored in one transaction: a coordinator that is killed finds the rung decided, or decides it again.
absl::Status Coordinator::CarryOut(const RungDecision& decision, const std::vector<JobEntry*>& trials) {
  StoreChange change;
  std::vector<JobEntry*> changed;
  for (size_t i = 0; i < trials.size(); ++i) {
    const bool final = IsFinal(trials[i]->record.job.state());
    if (decision.rank[i] == 0 || (final && !decision.goes_on[i])) continue;
    JobRecord next = trials[i]->record;
    v1::Job& job = next.job;
    if (decision.goes_on[i]) {
      if (IsWaiting(job.state())) job.set_state_reason("waits for its turn");
      job.mutable_halving()->set_passed(job.halving().passed() + 1);
    } else {
      const std::string loss = DescribeLoss(job, decision.rank[i], decision.ranked);
      job.set_state(v1::JOB_STATE_SUCCEEDED);
      job.set_stop_reason(absl::StrCat("halving: ", loss));
      job.set_state_reason(loss);
      *job.mutable_end_time() = ToProto(clock_->Now());
    }
    job.set_version(job.version() + 1);
    change.put_jobs.push_back(std::move(next));
    changed.push_back(trials[i]);
  }
  SAB_RETURN_IF_ERROR(Commit(change));
  for (size_t i = 0; i < changed.size(); ++i) {
    Adopt(*changed[i], std::move(change.put_jobs[i]));
    if (IsFinal(changed[i]->record.job.state())) StopWaiting(*changed[i]);
    LeaveGroup(*changed[i]);
  }
  // The oldest first.
  for (const JobEntry* entry : changed) {
    if (waiting_.contains(entry->id)) (void)EnterGroup(*entry);
  }
  return absl::OkStatus();
}

}  // namespace sab::server
