#pragma once

#include <grpcpp/channel.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "sab/v1/checkpoint_service.pb.h"
#include "sab/v1/job_service.pb.h"
#include "sab/v1/log_service.pb.h"
#include "sab/v1/metric_service.pb.h"
#include "sab/v1/worker_service.pb.h"

namespace sab::client {

struct ClientOptions {
  std::string address = "127.0.0.1:7070";
  // How long a call waits for a coordinator that does not answer, at the start and after a broken connection.
  absl::Duration connect_timeout = absl::Seconds(10);
  // Deadline of one call once connected.
  absl::Duration call_timeout = absl::Seconds(30);
};

// A coordinator, as a user of the service sees it. Thread-safe; every call blocks.
//
// Calls wait up to `connect_timeout` for a coordinator and are repeated while it answers UNAVAILABLE; a repeated
// CreateJob carries the same request id and so creates one job. Streams go on after a broken connection where they
// were. Errors beside those of the services (proto/sab/v1): Unavailable: nobody answers at the address, the text says
// what to do. DeadlineExceeded: connected, but no answer within `call_timeout`. Cancelled: Cancel() was called.
class Client {
 public:
  explicit Client(ClientOptions options);
  Client(std::shared_ptr<grpc::Channel> channel, ClientOptions options);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const ClientOptions& options() const { return options_; }

  // With `validate_only` nothing is created and the resolved spec and its predicted cost come back. `request_id`: of a
  // call that may be repeated by another client; empty: one is drawn.
  absl::StatusOr<v1::CreateJobResponse> CreateJob(const v1::JobSpec& spec, bool validate_only = false,
                                                  const std::string& request_id = "");
  absl::StatusOr<v1::Job> GetJob(const JobId& job);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(const v1::ListJobsRequest& request);
  absl::StatusOr<v1::Job> CancelJob(const JobId& job);
  absl::Status DeleteJob(const JobId& job);
  absl::StatusOr<v1::ExplainJobResponse> ExplainJob(const JobId& job);
  absl::StatusOr<v1::Job> PauseJob(const JobId& job);
  absl::StatusOr<v1::Job> ResumeJob(const JobId& job);
  absl::StatusOr<v1::Job> UpdateJob(const v1::UpdateJobRequest& request);
  absl::StatusOr<std::vector<v1::Queue>> ListQueues();
  absl::StatusOr<v1::ListMetricsResponse> ListMetrics(const v1::ListMetricsRequest& request);
  // Calls `use` for every point that `request` asks for, in order, and fetches page after page.
  absl::Status ForEachPoint(v1::ListMetricsRequest request, const std::function<void(const v1::MetricPoint&)>& use);
  absl::StatusOr<std::vector<v1::Checkpoint>> ListCheckpoints(const JobId& job);
  absl::StatusOr<v1::Checkpoint> GetCheckpoint(const CheckpointName& name);
  // Lets the coordinator read all of a stored checkpoint again. DataLoss: damaged.
  absl::StatusOr<v1::Checkpoint> VerifyCheckpoint(const CheckpointName& name);
  absl::StatusOr<std::vector<v1::Worker>> ListWorkers();
  absl::StatusOr<v1::Worker> DrainWorker(const WorkerId& worker, bool stop_jobs);
  absl::StatusOr<v1::Worker> UndrainWorker(const WorkerId& worker);

  // Calls `on_job` with the present job and after every change, on this thread; returns the job in its final state.
  // DeadlineExceeded: it was not final before `deadline`.
  absl::StatusOr<v1::Job> WatchJob(const JobId& job, const std::function<void(const v1::Job&)>& on_job,
                                   absl::Time deadline = absl::InfiniteFuture());

  // Calls `on_points` with every figure stored and then as they arrive, each once, until the job is final and all were
  // sent.
  absl::Status WatchMetrics(
      const JobId& job,
      const std::function<void(const google::protobuf::RepeatedPtrField<v1::MetricPoint>&)>& on_points);

  // Calls `on_line` with the lines asked for. With `follow` it goes on until the job is final.
  absl::Status TailLogs(const v1::TailLogsRequest& request, const std::function<void(const v1::LogLine&)>& on_line);

  // One attempt at one file, from `offset` on: the caller repeats it from where it got to. `on_chunk` ends it by an
  // error.
  absl::Status DownloadFile(const CheckpointName& name, const std::string& path, int64_t offset,
                            const std::function<absl::Status(const v1::DownloadCheckpointResponse&)>& on_chunk);

  // Waits until connected. Unavailable when `deadline` passed first.
  absl::Status AwaitConnected(absl::Time deadline);

  // Ends running calls and refuses later ones, with Cancelled.
  void Cancel();

 private:
  struct Stubs;
  class ActiveCall;

  // Repeats `call` while it answers UNAVAILABLE and connect_timeout has not passed. Returns how often it was tried in
  // `tries`.
  absl::Status Retry(const std::function<grpc::Status(grpc::ClientContext&)>& call, int* tries = nullptr);
  // Reads streams that `open` starts until one ends with OK and `done` holds, or an error that repeating cannot mend.
  template <typename Response, typename Open, typename OnResponse, typename Done>
  absl::Status Follow(Open open, OnResponse on_response, Done done, absl::Time deadline);
  absl::Status Unreachable(std::string_view why) const;

  const ClientOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<Stubs> stubs_;

  Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> active_ ABSL_GUARDED_BY(mutex_);
};

// True for SUCCEEDED, FAILED and CANCELLED.
bool IsFinal(v1::JobState state);

}  // namespace sab::client
