#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

absl::Status StaleAttempt(const v1::TrainerId& id, absl::string_view why) {
  return WithReason(
      absl::AbortedError(absl::StrCat(id.job(), " attempt ", id.attempt(), " rank ", id.rank(), ": ", why)),
      "STALE_ATTEMPT");
}

}  // namespace

absl::StatusOr<Coordinator::JobEntry*> Coordinator::Fence(const std::string& worker, const v1::TrainerId& id) {
  SAB_ASSIGN_OR_RETURN(const JobId job_id, ParseJobName(id.job()));
  SAB_ASSIGN_OR_RETURN(JobEntry * entry, Find(job_id));
  const v1::Job& job = entry->record.job;
  if (id.attempt() != job.attempt_count()) {
    return StaleAttempt(id, absl::StrCat("the job's attempt is ", job.attempt_count()));
  }
  // The last words of an attempt that did its work may come after its end.
  if (!IsActive(job.state()) && job.state() != v1::JOB_STATE_SUCCEEDED) {
    return StaleAttempt(id, absl::StrCat("it has ended, the job is ", StateName(job.state())));
  }
  const v1::Attempt& attempt = job.attempts(job.attempts_size() - 1);
  if (id.rank() < 0 || id.rank() >= attempt.placements_size() || attempt.placements(id.rank()).worker() != worker) {
    return StaleAttempt(id, absl::StrCat("this rank does not run on ", worker));
  }
  return entry;
}

absl::Status Coordinator::ReportMetrics(const v1::ReportMetricsRequest& request) {
  MetricSource source;
  {
    MutexLock lock(&mutex_);
    SAB_ASSIGN_OR_RETURN(JobEntry * entry, Fence(request.worker(), request.id()));
    source = {entry->id, request.id().attempt(), request.id().rank()};
    if (entry->active.has_value()) Progress(*entry, entry->active->ranks[source.rank], request.step());
  }
  if (request.batch_id() <= 0) return WithReason(InvalidFields({{"batch_id", "must be above 0"}}), "INVALID_REQUEST");
  const std::vector<v1::MetricPoint> points(request.points().begin(), request.points().end());
  SAB_ASSIGN_OR_RETURN(const bool stored, metric_store_->Append(source, request.batch_id(), points));
  if (stored) metrics_->metric_points.Increment(static_cast<double>(points.size()));
  if (stored) hub_->Publish(MetricsKey(source.job));
  return absl::OkStatus();
}

absl::Status Coordinator::ReportLogs(const v1::ReportLogsRequest& request) {
  SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobName(request.id().job()));
  {
    MutexLock lock(&mutex_);
    SAB_ASSIGN_OR_RETURN(const JobEntry* entry, Find(id));
    // Not fenced like the rest: what a failed attempt printed last is what its user wants to read.
    const v1::Job& job = entry->record.job;
    if (request.id().attempt() < 1 || request.id().attempt() > job.attempt_count()) {
      return StaleAttempt(request.id(), "the job has no such attempt");
    }
  }
  const std::vector<v1::LogLine> lines(request.lines().begin(), request.lines().end());
  SAB_RETURN_IF_ERROR(log_store_->Append(id, request.id().attempt(), request.id().rank(), request.first_line(), lines));
  metrics_->log_lines.Increment(static_cast<double>(lines.size()));
  hub_->Publish(LogsKey(id));
  return absl::OkStatus();
}

}  // namespace sab::server
