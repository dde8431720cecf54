#include "client/api/client.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "sab/v1/checkpoint_service.grpc.pb.h"
#include "sab/v1/job_service.grpc.pb.h"
#include "sab/v1/log_service.grpc.pb.h"
#include "sab/v1/metric_service.grpc.pb.h"
#include "sab/v1/worker_service.grpc.pb.h"

namespace sab::client {
namespace {

// A stream is opened anew after this time, from where it was: no call lives without a deadline.
constexpr absl::Duration kStreamLifetime = absl::Hours(1);

std::string Quoted(std::string_view text) {
  return std::string(text);
}

// A broken stream that opening it again can mend. CANCELLED comes from a coordinator that shuts down.
bool IsBroken(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsCancelled(status);
}

}  // namespace

struct Client::Stubs {
  explicit Stubs(const std::shared_ptr<grpc::Channel>& channel)
      : jobs(channel), metrics(channel), logs(channel), checkpoints(channel), workers(channel) {}
  v1::JobService::Stub jobs;
  v1::MetricService::Stub metrics;
  v1::LogService::Stub logs;
  v1::CheckpointService::Stub checkpoints;
  v1::WorkerService::Stub workers;
};

// A call's context, known to Cancel() for as long as it runs.
class Client::ActiveCall {
 public:
  explicit ActiveCall(Client* client) : client_(client) {
    MutexLock lock(&client_->mutex_);
    client_->active_.insert(&context);
    if (client_->cancelled_) context.TryCancel();
  }
  ~ActiveCall() {
    MutexLock lock(&client_->mutex_);
    client_->active_.erase(&context);
  }
  bool cancelled() const {
    MutexLock lock(&client_->mutex_);
    return client_->cancelled_;
  }

  grpc::ClientContext context;

 private:
  Client* const client_;
};

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED || state == v1::JOB_STATE_CANCELLED;
}

Client::Client(ClientOptions options) : Client(rpc::MakeChannel(options.address), options) {}

Client::Client(std::shared_ptr<grpc::Channel> channel, ClientOptions options)
    : options_(std::move(options)), channel_(std::move(channel)), stubs_(std::make_unique<Stubs>(channel_)) {}

Client::~Client() = default;

void Client::Cancel() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : active_) context->TryCancel();
}

absl::Status Client::Unreachable(std::string_view why) const {
  return absl::UnavailableError(
      absl::StrCat("no coordinator answers at ", options_.address, " (waited ",
                   absl::FormatDuration(options_.connect_timeout), ")", why.empty() ? "" : ": ", Quoted(why),
                   "\nstart one with `sabctl up`, or name a running one with --address HOST:PORT or SAB_ADDRESS"));
}

absl::Status Client::AwaitConnected(absl::Time deadline) {
  // In slices, so that Cancel() is heard.
  while (true) {
    {
      MutexLock lock(&mutex_);
      if (cancelled_) return absl::CancelledError("cancelled");
    }
    const absl::Time slice = std::min(deadline, absl::Now() + absl::Milliseconds(500));
    if (channel_->WaitForConnected(absl::ToChronoTime(slice))) return absl::OkStatus();
    if (absl::Now() >= deadline) return Unreachable("");
  }
}

absl::Status Client::Retry(const std::function<grpc::Status(grpc::ClientContext&)>& call, int* tries) {
  const absl::Time give_up = absl::Now() + options_.connect_timeout;
  rpc::Backoff backoff;
  for (int attempt = 1;; ++attempt) {
    SAB_RETURN_IF_ERROR(AwaitConnected(give_up));
    if (tries != nullptr) *tries = attempt;
    absl::Status status;
    {
      ActiveCall active(this);
      rpc::SetDeadline(active.context, options_.call_timeout);
      status = rpc::FromGrpc(call(active.context));
    }
    if (absl::IsDeadlineExceeded(status)) {
      return absl::DeadlineExceededError(absl::StrCat("the coordinator at ", options_.address,
                                                      " gave no answer within ",
                                                      absl::FormatDuration(options_.call_timeout), "; try again"));
    }
    if (!absl::IsUnavailable(status)) return status;
    const absl::Duration wait = backoff.Next();
    if (absl::Now() + wait >= give_up) return Unreachable(std::string(status.message()));
    absl::SleepFor(wait);
  }
}

template <typename Response, typename Open, typename OnResponse, typename Done>
absl::Status Client::Follow(Open open, OnResponse on_response, Done done, absl::Time deadline) {
  rpc::Backoff backoff;
  absl::Time give_up = absl::Now() + options_.connect_timeout;
  while (true) {
    if (absl::Status connected = AwaitConnected(std::min(give_up, deadline)); !connected.ok()) {
      if (absl::Now() >= deadline) return absl::DeadlineExceededError("timed out");
      return connected;
    }
    absl::Status status;
    {
      ActiveCall active(this);
      active.context.set_deadline(absl::ToChronoTime(std::min(deadline, absl::Now() + kStreamLifetime)));
      auto reader = open(&active.context);
      Response response;
      while (reader->Read(&response)) {
        on_response(response);
        backoff.Reset();
        give_up = absl::InfiniteFuture();
      }
      status = rpc::FromGrpc(reader->Finish());
      if (active.cancelled()) return absl::CancelledError("cancelled");
    }
    if (status.ok() && done()) return status;
    if (absl::IsDeadlineExceeded(status)) {
      if (absl::Now() >= deadline) return absl::DeadlineExceededError("timed out");
      give_up = absl::InfiniteFuture();
    } else if (!status.ok() && !IsBroken(status)) {
      return status;
    }
    // The time to come back starts when the connection broke.
    if (give_up == absl::InfiniteFuture()) give_up = absl::Now() + options_.connect_timeout;
    const absl::Duration wait = backoff.Next();
    if (absl::Now() + wait >= give_up) return Unreachable(std::string(status.message()));
    absl::SleepFor(std::min(wait, deadline - absl::Now()));
  }
}

absl::StatusOr<v1::CreateJobResponse> Client::CreateJob(const v1::JobSpec& spec, bool validate_only,
                                                        const std::string& request_id) {
  v1::CreateJobRequest request;
  *request.mutable_spec() = spec;
  request.set_request_id(request_id.empty() ? RandomId(20) : request_id);
  request.set_validate_only(validate_only);
  v1::CreateJobResponse response;
  SAB_RETURN_IF_ERROR(Retry([&](auto& context) { return stubs_->jobs.CreateJob(&context, request, &response); }));
  return response;
}

absl::StatusOr<v1::Job> Client::GetJob(const JobId& job) {
  v1::GetJobRequest request;
  request.set_name(job.name());
  v1::GetJobResponse response;
  SAB_RETURN_IF_ERROR(Retry([&](auto& context) { return stubs_->jobs.GetJob(&context, request, &response); }));
  return std::move(*response.mutable_job());
}

absl::StatusOr<v1::ListJobsResponse> Client::ListJobs(const v1::ListJobsRequest& request) {
  v1::ListJobsResponse response;
  SAB_RETURN_IF_ERROR(Retry([&](auto& context) { return stubs_->jobs.ListJobs(&context, request, &response); }));
  return response;
}

absl::StatusOr<v1::Job> Client::CancelJob(const JobId& job) {
  v1::CancelJobRequest request;
  request.set_name(job.name());
  v1::CancelJobResponse response;
  SAB_RETURN_IF_ERROR(Retry([&](auto& context) { return stubs_->jobs.CancelJob(&context, request, &response); }));
  return std::move(*response.mutable_job());
}

absl::Status Client::DeleteJob(const JobId& job) {
  v1::DeleteJobRequest request;
  request.set_name(job.name());
  v1::DeleteJobResponse response;
  int tries = 0;
  const absl::Status status =
      Retry([&](auto& context) { return stubs_->jobs.DeleteJob(&context, request, &response); }, &tries);
  // The job was deleted by a try whose answer was lost.
  if (absl::IsNotFound(status) && tries > 1) return absl::OkStatus();
  return status;
}

absl::StatusOr<v1::ExplainJobResponse> Client::ExplainJob(const JobId& job) {
  v1::ExplainJobRequest request;
  request.set_name(job.name());
  v1::ExplainJobResponse response;
  SAB_RETURN_IF_ERROR(Retry([&](auto& context) { return stubs_->jobs.ExplainJob(&context, request, &response); }));
  return response;
}

absl::StatusOr<v1::Job> Client::PauseJob(const JobId& job) {
  v1::PauseJobRequest request;
  request.set_name(job.name());
  v1::PauseJobResponse response;
  SAB_RETURN_IF_ERROR(Retry([&](auto& context) { return stubs_->jobs.PauseJob(&context, request, &response); }));
  return std::move(*response.mutable_job());
}

absl::StatusOr<v1::Job> Client::ResumeJob(const JobId& job) {
  v1::ResumeJobRequest request;
  request.set_name(job.name());
  v1::ResumeJobResponse response;
  SAB_RETURN_IF_ERROR(Retry([&](auto& context) { return stubs_->jobs.ResumeJob(&context, request, &response); }));
  return std::move(*response.mutable_job());
}

absl::StatusOr<v1::Job> Client::UpdateJob(const v1::UpdateJobRequest& request) {
  v1::UpdateJobResponse response;
  SAB_RETURN_IF_ERROR(Retry([&](auto& context) { return stubs_->jobs.UpdateJob(&context, request, &response); }));
  return std::move(*response.mutable_job());
}

absl::StatusOr<std::vector<v1::Queue>> Client::ListQueues() {
  v1::ListQueuesResponse response;
  SAB_RETURN_IF_ERROR(
      Retry([&](auto& context) { return stubs_->jobs.ListQueues(&context, v1::ListQueuesRequest(), &response); }));
  return std::vector<v1::Queue>(response.queues().begin(), response.queues().end());
}

absl::StatusOr<v1::Worker> Client::DrainWorker(const WorkerId& worker, bool stop_jobs) {
  v1::DrainWorkerRequest request;
  request.set_name(worker.name());
  request.set_stop_jobs(stop_jobs);
  v1::DrainWorkerResponse response;
  SAB_RETURN_IF_ERROR(Retry([&](auto& context) { return stubs_->workers.DrainWorker(&context, request, &response); }));
  return std::move(*response.mutable_worker());
}

absl::StatusOr<v1::Worker> Client::UndrainWorker(const WorkerId& worker) {
  v1::UndrainWorkerRequest request;
  request.set_name(worker.name());
  v1::UndrainWorkerResponse response;
  SAB_RETURN_IF_ERROR(
      Retry([&](auto& context) { return stubs_->workers.UndrainWorker(&context, request, &response); }));
  return std::move(*response.mutable_worker());
}

absl::Status Client::ForEachPoint(v1::ListMetricsRequest request,
                                  const std::function<void(const v1::MetricPoint&)>& use) {
  do {
    SAB_ASSIGN_OR_RETURN(const v1::ListMetricsResponse page, ListMetrics(request));
    for (const v1::MetricPoint& point : page.points()) use(point);
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return absl::OkStatus();
}

absl::StatusOr<v1::ListMetricsResponse> Client::ListMetrics(const v1::ListMetricsRequest& request) {
  v1::ListMetricsResponse response;
  SAB_RETURN_IF_ERROR(Retry([&](auto& context) { return stubs_->metrics.ListMetrics(&context, request, &response); }));
  return response;
}

absl::StatusOr<std::vector<v1::Checkpoint>> Client::ListCheckpoints(const JobId& job) {
  v1::ListCheckpointsRequest request;
  request.set_job(job.name());
  v1::ListCheckpointsResponse response;
  SAB_RETURN_IF_ERROR(
      Retry([&](auto& context) { return stubs_->checkpoints.ListCheckpoints(&context, request, &response); }));
  return std::vector<v1::Checkpoint>(response.checkpoints().begin(), response.checkpoints().end());
}

absl::StatusOr<v1::Checkpoint> Client::GetCheckpoint(const CheckpointName& name) {
  v1::GetCheckpointRequest request;
  request.set_name(name.name());
  v1::GetCheckpointResponse response;
  SAB_RETURN_IF_ERROR(
      Retry([&](auto& context) { return stubs_->checkpoints.GetCheckpoint(&context, request, &response); }));
  return std::move(*response.mutable_checkpoint());
}

absl::StatusOr<v1::Checkpoint> Client::VerifyCheckpoint(const CheckpointName& name) {
  v1::VerifyCheckpointRequest request;
  request.set_name(name.name());
  v1::VerifyCheckpointResponse response;
  SAB_RETURN_IF_ERROR(
      Retry([&](auto& context) { return stubs_->checkpoints.VerifyCheckpoint(&context, request, &response); }));
  return std::move(*response.mutable_checkpoint());
}

absl::StatusOr<std::vector<v1::Worker>> Client::ListWorkers() {
  const v1::ListWorkersRequest request;
  v1::ListWorkersResponse response;
  SAB_RETURN_IF_ERROR(Retry([&](auto& context) { return stubs_->workers.ListWorkers(&context, request, &response); }));
  return std::vector<v1::Worker>(response.workers().begin(), response.workers().end());
}

absl::StatusOr<v1::Job> Client::WatchJob(const JobId& job, const std::function<void(const v1::Job&)>& on_job,
                                         absl::Time deadline) {
  v1::Job last;
  v1::WatchJobRequest request;
  request.set_name(job.name());
  const auto open = [&](grpc::ClientContext* context) {
    request.set_after_version(last.version());
    return stubs_->jobs.WatchJob(context, request);
  };
  const auto on_response = [&](v1::WatchJobResponse& response) {
    last = std::move(*response.mutable_job());
    on_job(last);
  };
  const absl::Status status = Follow<v1::WatchJobResponse>(
      open, on_response, [&] { return IsFinal(last.state()); }, deadline);
  // A final job whose stream broke instead of ending has said all there is.
  if (IsFinal(last.state()) && !absl::IsCancelled(status)) return last;
  SAB_RETURN_IF_ERROR(status);
  return last;
}

absl::Status Client::WatchMetrics(
    const JobId& job,
    const std::function<void(const google::protobuf::RepeatedPtrField<v1::MetricPoint>&)>& on_points) {
  v1::WatchMetricsRequest request;
  request.set_job(job.name());
  const auto open = [&](grpc::ClientContext* context) { return stubs_->metrics.WatchMetrics(context, request); };
  const auto on_response = [&](const v1::WatchMetricsResponse& response) {
    for (const v1::MetricPoint& point : response.points()) {
      request.set_after_sequence(std::max(request.after_sequence(), point.sequence()));
    }
    on_points(response.points());
  };
  return Follow<v1::WatchMetricsResponse>(
      open, on_response, [] { return true; }, absl::InfiniteFuture());
}

absl::Status Client::TailLogs(const v1::TailLogsRequest& request,
                              const std::function<void(const v1::LogLine&)>& on_line) {
  v1::TailLogsRequest next = request;
  // The service keeps no position for a reader: after a break all lines are asked for and those already seen are
  // counted off.
  std::map<std::pair<int64_t, int32_t>, int64_t> seen, skip;
  bool first = true;
  const auto open = [&](grpc::ClientContext* context) {
    if (!first) {
      next.set_tail_lines(0);
      skip = seen;
    }
    first = false;
    return stubs_->logs.TailLogs(context, next);
  };
  const auto on_response = [&](const v1::TailLogsResponse& response) {
    for (const v1::LogLine& line : response.lines()) {
      const auto source = std::make_pair(line.attempt(), line.rank());
      if (auto it = skip.find(source); it != skip.end() && it->second > 0) {
        --it->second;
        continue;
      }
      ++seen[source];
      on_line(line);
    }
  };
  if (request.follow() && request.tail_lines() > 0) {
    // Which lines the last `tail_lines` are is known once all present ones were counted.
    std::vector<v1::LogLine> present;
    v1::TailLogsRequest all = request;
    all.set_follow(false);
    all.set_tail_lines(0);
    SAB_RETURN_IF_ERROR(TailLogs(all, [&](const v1::LogLine& line) { present.push_back(line); }));
    for (const v1::LogLine& line : present) ++seen[{line.attempt(), line.rank()}];
    const size_t from = present.size() - std::min<size_t>(present.size(), request.tail_lines());
    for (size_t i = from; i < present.size(); ++i) on_line(present[i]);
    first = false;
  }
  return Follow<v1::TailLogsResponse>(
      open, on_response, [] { return true; }, absl::InfiniteFuture());
}

absl::Status Client::DownloadFile(const CheckpointName& name, const std::string& path, int64_t offset,
                                  const std::function<absl::Status(const v1::DownloadCheckpointResponse&)>& on_chunk) {
  v1::DownloadCheckpointRequest request;
  request.set_name(name.name());
  request.set_path(path);
  request.set_offset(offset);
  SAB_RETURN_IF_ERROR(AwaitConnected(absl::Now() + options_.connect_timeout));
  ActiveCall active(this);
  rpc::SetDeadline(active.context, kStreamLifetime);
  auto reader = stubs_->checkpoints.DownloadCheckpoint(&active.context, request);
  v1::DownloadCheckpointResponse response;
  while (reader->Read(&response)) {
    if (absl::Status status = on_chunk(response); !status.ok()) {
      active.context.TryCancel();
      reader->Finish().ok();
      return status;
    }
  }
  const absl::Status status = rpc::FromGrpc(reader->Finish());
  return absl::IsCancelled(status) && !active.cancelled() ? absl::UnavailableError(status.message()) : status;
}

}  // namespace sab::client
