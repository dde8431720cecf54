// Changes of the settings of jobs that train: when they take effect, and who is told.
#include "common/spec/update.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

constexpr int kMostChanges = 1000;

// How many of the job's changes, the first ones, its last attempt has known from its start on.
int KnownChanges(const v1::Job& job) {
  if (job.attempts_size() == 0) return 0;
  const v1::Attempt& attempt = job.attempts(job.attempts_size() - 1);
  // Not by times: the wall clock may have been set between the change and the attempt.
  if (attempt.has_known_changes()) return std::min(attempt.known_changes(), job.changes_size());
  const absl::Time start = FromProto(attempt.start_time());
  const auto known = [&](const v1::SpecChange& change) { return FromProto(change.create_time()) <= start; };
  return static_cast<int>(std::count_if(job.changes().begin(), job.changes().end(), known));
}

}  // namespace

absl::Status Coordinator::AddChange(const std::vector<std::string>& fields, const v1::JobSpec& before, v1::Job* job) {
  if (job->changes_size() >= kMostChanges) {
    return WithReason(
        InvalidFields({{fields.front(), absl::StrCat("the job's settings have been changed ", kMostChanges,
                                                     " times: submit a new one with --from")}}),
        "INVALID_SPEC");
  }
  v1::SpecChange& change = *job->add_changes();
  for (const std::string& field : fields) change.add_fields(field);
  *change.mutable_before() = spec::Pick(fields, before);
  *change.mutable_after() = spec::Pick(fields, job->spec());
  *change.mutable_create_time() = ToProto(clock_->Now());
  return absl::OkStatus();
}

Coordinator::Fault Coordinator::Renewal(const v1::Job& job) {
  const v1::SpecChange& last = job.changes(job.changes_size() - 1);
  return {.text = absl::StrCat("settings changed: ", absl::StrJoin(last.fields(), ", ")),
          .outcome = "updated",
          .free = true};
}

absl::Status Coordinator::Renew(JobEntry& entry, JobRecord next) {
  const v1::Job& job = entry.record.job;
  const bool later = !entry.active.has_value() || job.stop_intent() != v1::STOP_INTENT_UNSPECIFIED ||
                     job.state() == v1::JOB_STATE_UNREACHABLE;
  if (later) return Replace(entry, std::move(next));
  const Fault renewal = Renewal(next.job);
  return TryEndAttempt(entry, renewal, std::move(next));
}

void Coordinator::RenewIfChanged(JobEntry& entry) {
  const v1::Job& job = entry.record.job;
  if (entry.active.has_value() && job.stop_intent() == v1::STOP_INTENT_UNSPECIFIED &&
      KnownChanges(job) < job.changes_size())
    EndAttempt(entry, Renewal(job));
}

absl::Status Coordinator::SettleChanges(JobEntry& entry, int64_t step) {
  JobRecord next = entry.record;
  spec::SpecChanges known;
  for (int i = 0; i < KnownChanges(next.job); ++i) *known.Add() = next.job.changes(i);
  spec::Settle(step, &known);
  bool changed = false;
  for (int i = 0; i < known.size(); ++i) {
    changed =
        changed || known[i].after_step() != next.job.changes(i).after_step() || !next.job.changes(i).has_after_step();
    *next.job.mutable_changes(i) = known[i];
  }
  return changed ? Replace(entry, std::move(next)) : absl::OkStatus();
}

// All ranks of an attempt are told the same, whenever they ask.
void Coordinator::TellSettings(const v1::Job& job, v1::TrainerAssignment* assignment) {
  *assignment->mutable_spec() = job.spec();
  const int known = KnownChanges(job);
  for (int i = job.changes_size() - 1; i >= known; --i) spec::Undo(job.changes(i), assignment->mutable_spec());
  for (int i = 0; i < known; ++i) *assignment->add_changes() = job.changes(i);
}

}  // namespace sab::server
