#pragma once

#include <grpcpp/grpcpp.h>
#include <zlib.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "sab/v1/checkpoint_service.grpc.pb.h"
#include "sab/v1/job_service.grpc.pb.h"
#include "sab/v1/log_service.grpc.pb.h"
#include "sab/v1/metric_service.grpc.pb.h"
#include "sab/v1/worker_service.grpc.pb.h"

namespace sab::client {

// A coordinator that does what a test scripts: each call runs the function that the test has set (without one:
// UNIMPLEMENTED). Functions run on server threads, one at a time.
class FakeService {
 public:
  template <typename Request, typename Response>
  using Unary = std::function<absl::Status(const Request&, Response*)>;
  // `write` is false once the client is gone.
  template <typename Request, typename Response>
  using Stream = std::function<absl::Status(const Request&, const std::function<bool(const Response&)>& write)>;

  Unary<v1::CreateJobRequest, v1::CreateJobResponse> create_job;
  Unary<v1::GetJobRequest, v1::GetJobResponse> get_job;
  Unary<v1::ListJobsRequest, v1::ListJobsResponse> list_jobs;
  Unary<v1::CancelJobRequest, v1::CancelJobResponse> cancel_job;
  Unary<v1::DeleteJobRequest, v1::DeleteJobResponse> delete_job;
  Unary<v1::ExplainJobRequest, v1::ExplainJobResponse> explain_job;
  Stream<v1::WatchJobRequest, v1::WatchJobResponse> watch_job;
  Unary<v1::ListMetricsRequest, v1::ListMetricsResponse> list_metrics;
  Stream<v1::WatchMetricsRequest, v1::WatchMetricsResponse> watch_metrics;
  Stream<v1::TailLogsRequest, v1::TailLogsResponse> tail_logs;
  Unary<v1::ListCheckpointsRequest, v1::ListCheckpointsResponse> list_checkpoints;
  Unary<v1::GetCheckpointRequest, v1::GetCheckpointResponse> get_checkpoint;
  Stream<v1::DownloadCheckpointRequest, v1::DownloadCheckpointResponse> download_checkpoint;
  Unary<v1::ListWorkersRequest, v1::ListWorkersResponse> list_workers;
  Unary<v1::PauseJobRequest, v1::PauseJobResponse> pause_job;
  Unary<v1::ResumeJobRequest, v1::ResumeJobResponse> resume_job;
  Unary<v1::UpdateJobRequest, v1::UpdateJobResponse> update_job;
  Unary<v1::ListQueuesRequest, v1::ListQueuesResponse> list_queues;
  Unary<v1::DrainWorkerRequest, v1::DrainWorkerResponse> drain_worker;
  Unary<v1::UndrainWorkerRequest, v1::UndrainWorkerResponse> undrain_worker;

  FakeService() : jobs_(this), metrics_(this), logs_(this), checkpoints_(this), workers_(this) { Start(0); }
  ~FakeService() { Stop(); }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // Cuts every connection.
  void Stop() {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }
  // Comes back at the same address.
  void Restart() { Start(port_); }

 private:
  void Start(int port) {
    grpc::ServerBuilder builder;
    rpc::ConfigureServer(builder);
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(), &port_);
    for (grpc::Service* service :
         std::initializer_list<grpc::Service*>{&jobs_, &metrics_, &logs_, &checkpoints_, &workers_}) {
      builder.RegisterService(service);
    }
    server_ = builder.BuildAndStart();
  }

  template <typename Request, typename Response>
  grpc::Status Answer(const Unary<Request, Response>& function, const Request* request, Response* response) {
    if (!function) return {grpc::StatusCode::UNIMPLEMENTED, "not scripted"};
    MutexLock lock(&mutex_);
    return rpc::ToGrpc(function(*request, response));
  }
  template <typename Request, typename Response>
  grpc::Status Answer(const Stream<Request, Response>& function, const Request* request,
                      grpc::ServerWriter<Response>* writer) {
    if (!function) return {grpc::StatusCode::UNIMPLEMENTED, "not scripted"};
    return rpc::ToGrpc(function(*request, [&](const Response& response) { return writer->Write(response); }));
  }

  struct Jobs : v1::JobService::Service {
    explicit Jobs(FakeService* fake) : fake(fake) {}
    using Context = grpc::ServerContext;
    grpc::Status CreateJob(Context*, const v1::CreateJobRequest* in, v1::CreateJobResponse* out) override {
      return fake->Answer(fake->create_job, in, out);
    }
    grpc::Status GetJob(Context*, const v1::GetJobRequest* in, v1::GetJobResponse* out) override {
      return fake->Answer(fake->get_job, in, out);
    }
    grpc::Status ListJobs(Context*, const v1::ListJobsRequest* in, v1::ListJobsResponse* out) override {
      return fake->Answer(fake->list_jobs, in, out);
    }
    grpc::Status CancelJob(Context*, const v1::CancelJobRequest* in, v1::CancelJobResponse* out) override {
      return fake->Answer(fake->cancel_job, in, out);
    }
    grpc::Status DeleteJob(Context*, const v1::DeleteJobRequest* in, v1::DeleteJobResponse* out) override {
      return fake->Answer(fake->delete_job, in, out);
    }
    grpc::Status ExplainJob(Context*, const v1::ExplainJobRequest* in, v1::ExplainJobResponse* out) override {
      return fake->Answer(fake->explain_job, in, out);
    }
    grpc::Status PauseJob(Context*, const v1::PauseJobRequest* in, v1::PauseJobResponse* out) override {
      return fake->Answer(fake->pause_job, in, out);
    }
    grpc::Status ResumeJob(Context*, const v1::ResumeJobRequest* in, v1::ResumeJobResponse* out) override {
      return fake->Answer(fake->resume_job, in, out);
    }
    grpc::Status UpdateJob(Context*, const v1::UpdateJobRequest* in, v1::UpdateJobResponse* out) override {
      return fake->Answer(fake->update_job, in, out);
    }
    grpc::Status ListQueues(Context*, const v1::ListQueuesRequest* in, v1::ListQueuesResponse* out) override {
      return fake->Answer(fake->list_queues, in, out);
    }
    grpc::Status WatchJob(Context*, const v1::WatchJobRequest* in,
                          grpc::ServerWriter<v1::WatchJobResponse>* out) override {
      return fake->Answer(fake->watch_job, in, out);
    }
    FakeService* fake;
  };
  struct Metrics : v1::MetricService::Service {
    explicit Metrics(FakeService* fake) : fake(fake) {}
    grpc::Status ListMetrics(grpc::ServerContext*, const v1::ListMetricsRequest* in,
                             v1::ListMetricsResponse* out) override {
      return fake->Answer(fake->list_metrics, in, out);
    }
    grpc::Status WatchMetrics(grpc::ServerContext*, const v1::WatchMetricsRequest* in,
                              grpc::ServerWriter<v1::WatchMetricsResponse>* out) override {
      return fake->Answer(fake->watch_metrics, in, out);
    }
    FakeService* fake;
  };
  struct Logs : v1::LogService::Service {
    explicit Logs(FakeService* fake) : fake(fake) {}
    grpc::Status TailLogs(grpc::ServerContext*, const v1::TailLogsRequest* in,
                          grpc::ServerWriter<v1::TailLogsResponse>* out) override {
      return fake->Answer(fake->tail_logs, in, out);
    }
    FakeService* fake;
  };
  struct Checkpoints : v1::CheckpointService::Service {
    explicit Checkpoints(FakeService* fake) : fake(fake) {}
    grpc::Status ListCheckpoints(grpc::ServerContext*, const v1::ListCheckpointsRequest* in,
                                 v1::ListCheckpointsResponse* out) override {
      return fake->Answer(fake->list_checkpoints, in, out);
    }
    grpc::Status GetCheckpoint(grpc::ServerContext*, const v1::GetCheckpointRequest* in,
                               v1::GetCheckpointResponse* out) override {
      return fake->Answer(fake->get_checkpoint, in, out);
    }
    grpc::Status DownloadCheckpoint(grpc::ServerContext*, const v1::DownloadCheckpointRequest* in,
                                    grpc::ServerWriter<v1::DownloadCheckpointResponse>* out) override {
      return fake->Answer(fake->download_checkpoint, in, out);
    }
    FakeService* fake;
  };
  struct Workers : v1::WorkerService::Service {
    explicit Workers(FakeService* fake) : fake(fake) {}
    grpc::Status ListWorkers(grpc::ServerContext*, const v1::ListWorkersRequest* in,
                             v1::ListWorkersResponse* out) override {
      return fake->Answer(fake->list_workers, in, out);
    }
    grpc::Status DrainWorker(grpc::ServerContext*, const v1::DrainWorkerRequest* in,
                             v1::DrainWorkerResponse* out) override {
      return fake->Answer(fake->drain_worker, in, out);
    }
    grpc::Status UndrainWorker(grpc::ServerContext*, const v1::UndrainWorkerRequest* in,
                               v1::UndrainWorkerResponse* out) override {
      return fake->Answer(fake->undrain_worker, in, out);
    }
    FakeService* fake;
  };

  Mutex mutex_;
  Jobs jobs_;
  Metrics metrics_;
  Logs logs_;
  Checkpoints checkpoints_;
  Workers workers_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace sab::client
