#include "server/services/job_service.h"

#include "server/coordinator/text.h"

namespace sab::server {
namespace {

class JobWatch final : public WatchReactor<v1::WatchJobResponse> {
 public:
  JobWatch(Coordinator* coordinator, ServiceContext context, JobId job, int64_t version)
      : WatchReactor(context, "WatchJob"), coordinator_(coordinator), job_(std::move(job)), version_(version) {}

 private:
  absl::StatusOr<Step> Next(v1::WatchJobResponse* response) override {
    if (final_) return Step::kEnd;
    SAB_ASSIGN_OR_RETURN(auto job, coordinator_->GetJobUnlessVersion(job_, version_));
    if (!job.has_value()) {
      // A client that comes back with the last version of a final job has everything.
      SAB_ASSIGN_OR_RETURN(const v1::JobState state, coordinator_->GetState(job_));
      return IsFinal(state) ? Step::kEnd : Step::kWait;
    }
    version_ = job->version();
    final_ = IsFinal(job->state());
    *response->mutable_job() = *std::move(job);
    return Step::kSend;
  }

  Coordinator* const coordinator_;
  const JobId job_;
  int64_t version_;
  bool final_ = false;
};

}  // namespace

grpc::Status JobService::CreateJob(grpc::ServerContext*, const v1::CreateJobRequest* request,
                                   v1::CreateJobResponse* response) {
  return Unary(context_.metrics, "CreateJob", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(*response, coordinator_->CreateJob(*request));
    return absl::OkStatus();
  });
}

grpc::Status JobService::GetJob(grpc::ServerContext*, const v1::GetJobRequest* request, v1::GetJobResponse* response) {
  return Unary(context_.metrics, "GetJob", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobName(request->name()));
    SAB_ASSIGN_OR_RETURN(*response->mutable_job(), coordinator_->GetJob(id));
    return absl::OkStatus();
  });
}

grpc::Status JobService::ListJobs(grpc::ServerContext*, const v1::ListJobsRequest* request,
                                  v1::ListJobsResponse* response) {
  return Unary(context_.metrics, "ListJobs", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(*response, coordinator_->ListJobs(*request));
    return absl::OkStatus();
  });
}

grpc::Status JobService::CancelJob(grpc::ServerContext*, const v1::CancelJobRequest* request,
                                   v1::CancelJobResponse* response) {
  return Unary(context_.metrics, "CancelJob", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobName(request->name()));
    SAB_ASSIGN_OR_RETURN(*response->mutable_job(), coordinator_->CancelJob(id));
    return absl::OkStatus();
  });
}

grpc::Status JobService::DeleteJob(grpc::ServerContext*, const v1::DeleteJobRequest* request, v1::DeleteJobResponse*) {
  return Unary(context_.metrics, "DeleteJob", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobName(request->name()));
    return coordinator_->DeleteJob(id);
  });
}

grpc::Status JobService::ExplainJob(grpc::ServerContext*, const v1::ExplainJobRequest* request,
                                    v1::ExplainJobResponse* response) {
  return Unary(context_.metrics, "ExplainJob", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobName(request->name()));
    SAB_ASSIGN_OR_RETURN(*response, coordinator_->ExplainJob(id));
    return absl::OkStatus();
  });
}

grpc::Status JobService::PauseJob(grpc::ServerContext*, const v1::PauseJobRequest* request,
                                  v1::PauseJobResponse* response) {
  return Unary(context_.metrics, "PauseJob", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobName(request->name()));
    SAB_ASSIGN_OR_RETURN(*response->mutable_job(), coordinator_->PauseJob(id));
    return absl::OkStatus();
  });
}

grpc::Status JobService::ResumeJob(grpc::ServerContext*, const v1::ResumeJobRequest* request,
                                   v1::ResumeJobResponse* response) {
  return Unary(context_.metrics, "ResumeJob", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobName(request->name()));
    SAB_ASSIGN_OR_RETURN(*response->mutable_job(), coordinator_->ResumeJob(id));
    return absl::OkStatus();
  });
}

grpc::Status JobService::UpdateJob(grpc::ServerContext*, const v1::UpdateJobRequest* request,
                                   v1::UpdateJobResponse* response) {
  return Unary(context_.metrics, "UpdateJob", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(*response->mutable_job(), coordinator_->UpdateJob(*request));
    return absl::OkStatus();
  });
}

grpc::Status JobService::ListQueues(grpc::ServerContext*, const v1::ListQueuesRequest*,
                                    v1::ListQueuesResponse* response) {
  return Unary(context_.metrics, "ListQueues", [&] {
    *response = coordinator_->ListQueues();
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* JobService::WatchJob(grpc::CallbackServerContext* rpc,
                                                                     const v1::WatchJobRequest* request) {
  const absl::StatusOr<JobId> id = ParseJobName(request->name());
  if (!id.ok()) return new FailedStream<v1::WatchJobResponse>(RpcTimer(context_.metrics, "WatchJob").Done(id.status()));
  return JobWatch::Begin(std::make_shared<JobWatch>(coordinator_, context_, *id, request->after_version()), rpc,
                         {id->name()});
}

}  // namespace sab::server
