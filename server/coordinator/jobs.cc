#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "common/spec/cost.h"
#include "common/spec/validate.h"
#include "google/protobuf/util/message_differencer.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/job_filter.h"
#include "server/coordinator/text.h"

namespace sab::server {
namespace {

constexpr int kDefaultPage = 100;
constexpr int kMaxPage = 1000;
// A page stays well below the largest message.
constexpr size_t kMaxPageBytes = 3 << 20;

absl::Status CheckSpec(const v1::JobSpec& spec, bool check_paths) {
  std::vector<FieldViolation> violations = spec::Validate(spec);
  if (check_paths) {
    for (FieldViolation& violation : spec::CheckPaths(spec)) violations.push_back(std::move(violation));
  }
  return violations.empty() ? absl::OkStatus() : WithReason(InvalidFields(violations), "INVALID_SPEC");
}

struct PageToken {
  int64_t create_micros = 0;
  std::string job;
};

absl::StatusOr<PageToken> ParseToken(const std::string& text) {
  const std::vector<std::string> parts = absl::StrSplit(text, absl::MaxSplits('.', 1));
  PageToken token;
  if (parts.size() == 2 && absl::SimpleAtoi(parts[0], &token.create_micros)) {
    token.job = parts[1];
    return token;
  }
  return WithReason(absl::InvalidArgumentError("page_token: is not one that an earlier page gave"), "BAD_PAGE_TOKEN");
}

}  // namespace

absl::StatusOr<v1::CreateJobResponse> Coordinator::CreateJob(const v1::CreateJobRequest& request) {
  if (request.request_id().size() > 64) {
    return WithReason(InvalidFields({{"request_id", "must have at most 64 characters"}}), "INVALID_REQUEST");
  }
  SAB_RETURN_IF_ERROR(CheckSpec(request.spec(), options_.check_paths));
  JobRecord record;
  v1::Job& job = record.job;
  *job.mutable_spec() = request.spec();
  spec::ResolveDefaults(job.mutable_spec());
  v1::CreateJobResponse response;
  *response.mutable_cost() = spec::EstimateCost(job.spec());
  response.mutable_cost()->set_placed_bytes(job.spec().resources().device() == v1::DEVICE_KIND_CUDA
                                                ? spec::PlacedGpuBytes(job.spec())
                                                : spec::PlacedCpuBytes(job.spec()));
  const absl::Status init = CheckInit(job.spec());

  MutexLock lock(&mutex_);
  if (request.validate_only()) {
    SAB_RETURN_IF_ERROR(init);
    SAB_RETURN_IF_ERROR(CheckQueue(job.spec()));
    SAB_RETURN_IF_ERROR(CheckSweep(job.spec()));
    *response.mutable_job() = std::move(job);
    return response;
  }
  if (auto it = requests_.find(request.request_id()); it != requests_.end() && !request.request_id().empty()) {
    const v1::Job& earlier = jobs_.at(it->second).record.job;
    if (!google::protobuf::util::MessageDifferencer::Equals(earlier.spec(), job.spec())) {
      return WithReason(
          absl::AlreadyExistsError(absl::StrCat("request_id \"", request.request_id(), "\" was used for ",
                                                earlier.name(), " with another spec: draw a new one for a new job")),
          "REQUEST_ID_REUSED");
    }
    *response.mutable_job() = earlier;
    return response;
  }
  SAB_RETURN_IF_ERROR(init);
  SAB_RETURN_IF_ERROR(CheckQueue(job.spec()));
  SAB_RETURN_IF_ERROR(CheckSweep(job.spec()));
  if (job.spec().has_init_from()) SAB_RETURN_IF_ERROR(FindInit(job.spec()).status());  // meanwhile it may have gone
  JobId id(RandomId(8));
  while (jobs_.contains(id)) id = JobId(RandomId(8));
  // Later jobs are listed before earlier ones even when the wall clock stands still.
  int64_t created = absl::ToUnixMicros(clock_->Now());
  if (!by_time_.empty()) created = std::max(created, by_time_.rbegin()->first + 1);
  job.set_name(id.name());
  *job.mutable_create_time() = ToProto(absl::FromUnixMicros(created));
  job.set_state(v1::JOB_STATE_QUEUED);
  job.set_state_reason("waits for its turn");
  job.set_version(1);
  StoreChange change{.put_jobs = {record}};
  if (!request.request_id().empty()) change.add_requests[request.request_id()] = id.value();
  SAB_RETURN_IF_ERROR(Commit(change));
  JobEntry& entry = jobs_[id];
  entry.id = id;
  entry.record = std::move(record);
  by_time_.insert({created, id});
  if (!request.request_id().empty()) requests_[request.request_id()] = id;
  KeepInit(entry);
  EnterSweep(entry);
  metrics_->MoveJob(v1::JOB_STATE_UNSPECIFIED, v1::JOB_STATE_QUEUED);
  Wait(entry);
  Schedule();
  *response.mutable_job() = entry.record.job;
  return response;
}

absl::StatusOr<v1::Job> Coordinator::GetJob(const JobId& id) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(const JobEntry* entry, Find(id));
  v1::Job job = entry->record.job;
  AddRanks(*entry, job);
  return job;
}

absl::StatusOr<absl::optional<v1::Job>> Coordinator::GetJobUnlessVersion(const JobId& id, int64_t version) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(const JobEntry* entry, Find(id));
  absl::optional<v1::Job> job;
  if (entry->record.job.version() != version) {
    job = entry->record.job;
    AddRanks(*entry, *job);
  }
  return job;
}

absl::StatusOr<v1::JobState> Coordinator::GetState(const JobId& id) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(const JobEntry* entry, Find(id));
  return entry->record.job.state();
}

absl::StatusOr<v1::ListJobsResponse> Coordinator::ListJobs(const v1::ListJobsRequest& request) {
  SAB_ASSIGN_OR_RETURN(const JobFilter filter, JobFilter::Parse(request.filter()));
  if (request.page_size() < 0) {
    return WithReason(InvalidFields({{"page_size", absl::StrCat("must not be negative, got ", request.page_size())}}),
                      "INVALID_REQUEST");
  }
  const int limit = request.page_size() == 0 ? kDefaultPage : std::min(request.page_size(), kMaxPage);
  MutexLock lock(&mutex_);
  auto end = by_time_.end();
  if (!request.page_token().empty()) {
    SAB_ASSIGN_OR_RETURN(const PageToken token, ParseToken(request.page_token()));
    end = by_time_.lower_bound({token.create_micros, JobId(token.job)});
  }
  v1::ListJobsResponse response;
  size_t bytes = 0;
  for (auto it = std::make_reverse_iterator(end); it != by_time_.rend(); ++it) {
    const v1::Job& job = jobs_.at(it->second).record.job;
    if (!filter.Matches(job)) continue;
    if (response.jobs_size() == limit || bytes > kMaxPageBytes) {
      const v1::Job& last = response.jobs(response.jobs_size() - 1);
      response.set_next_page_token(
          absl::StrCat(absl::ToUnixMicros(FromProto(last.create_time())), ".", ParseJobName(last.name())->value()));
      break;
    }
    v1::Job& listed = *response.add_jobs();
    listed = job;
    listed.clear_attempts();
    bytes += listed.ByteSizeLong();
  }
  return response;
}

absl::StatusOr<v1::Job> Coordinator::CancelJob(const JobId& id) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(JobEntry * entry, Find(id));
  const v1::JobState state = entry->record.job.state();
  if (state == v1::JOB_STATE_CANCELLED) return entry->record.job;
  if (IsFinal(state)) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat(id.name(), " has already ", StateName(state), ": nothing to cancel")),
                      "JOB_FINAL");
  }
  JobRecord next = entry->record;
  CloseAttempt(next, "cancelled");
  next.job.set_state(v1::JOB_STATE_CANCELLED);
  next.job.set_state_reason("cancelled by a user");
  next.job.clear_stop_intent();
  *next.job.mutable_end_time() = ToProto(clock_->Now());
  SAB_RETURN_IF_ERROR(Replace(*entry, std::move(next)));
  if (IsActive(state)) metrics_->CountAttempt("cancelled");
  StopWaiting(*entry);
  ReleaseRanks(*entry);
  schedule_needed_ = true;
  Schedule();
  return entry->record.job;
}

absl::Status Coordinator::DeleteJob(const JobId& id) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(JobEntry * entry, Find(id));
  const v1::JobState state = entry->record.job.state();
  if (!IsFinal(state)) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(id.name(), " is ", StateName(state), ": cancel it first")),
        "JOB_NOT_FINAL");
  }
  if (auto it = dependents_.find(id); it != dependents_.end() && !it->second.empty()) {
    return WithReason(absl::FailedPreconditionError(absl::StrCat(it->second.begin()->name(), " runs after ", id.name(),
                                                                 " and has not started: cancel it first")),
                      "JOB_NEEDED");
  }
  for (const auto& [name, checkpoint] : entry->checkpoints) {
    const auto it = init_users_.find(checkpoint.name());
    if (it == init_users_.end()) continue;
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat(it->second.begin()->name(), " starts from ", checkpoint.name(),
                                       " and has no checkpoint of its own yet: wait for that, or cancel it first")),
                      "JOB_NEEDED");
  }
  if (const JobEntry* trial = FindUnfinished(entry->record.job.spec()); trial != nullptr) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(trial->id.name(), " of the same sweep is ",
                                                   StateName(trial->record.job.state()), " and ", id.name(),
                                                   " is ranked with it: cancel it first, or "
                                                   "wait for the end of the sweep")),
        "JOB_NEEDED");
  }
  SAB_RETURN_IF_ERROR(Commit({.delete_jobs = {id}, .add_removals = {id.name()}}));
  metrics_->MoveJob(state, v1::JOB_STATE_UNSPECIFIED);
  by_time_.erase({absl::ToUnixMicros(FromProto(entry->record.job.create_time())), id});
  std::erase_if(requests_, [&](const auto& item) { return item.second == id; });
  LeaveGroup(*entry);
  LeaveSweep(*entry);
  jobs_.erase(id);
  MarkChanged(id);
  removals_.push_back(id.name());
  hub_->Publish(kBackgroundKey);
  for (const std::string& key : {id.name(), MetricsKey(id), LogsKey(id)}) hub_->Publish(key);
  return absl::OkStatus();
}

absl::StatusOr<v1::ExplainJobResponse> Coordinator::ExplainJob(const JobId& id) {
  MutexLock lock(&mutex_);
  SAB_ASSIGN_OR_RETURN(const JobEntry* entry, Find(id));
  const v1::Job& job = entry->record.job;
  v1::ExplainJobResponse response;
  response.set_reason(absl::StrCat(StateName(job.state()), job.state_reason().empty() ? "" : ": ", job.state_reason()));
  if (!waiting_.contains(id)) return response;
  RefreshCluster();
  if (cluster_.FindWaiting(id) == nullptr) return response;  // held by something else than slots: the reason says so
  const absl::Duration now = clock_->Monotonic();
  const Explanation answer = Explain(&cluster_, id, now, options_.scheduling);
  response.set_queue_position(static_cast<int32_t>(answer.position));
  if (!answer.starts_now) response.set_reason(absl::StrCat(StateName(job.state()), ": ", Describe(answer.wait)));
  response.set_expected_start_unknown(answer.unknown);
  if (answer.expected_start < absl::InfiniteDuration()) {
    *response.mutable_expected_start() = ToProto(clock_->Now() + (answer.expected_start - now));
  }
  for (const JobId& other : answer.must_end) response.add_must_end(other.name());
  return response;
}

}  // namespace sab::server
