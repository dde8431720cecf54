#include "bench/coordinator/stored_jobs.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/spec/validate.h"
#include "sab/v1/job_service.grpc.pb.h"
#include "server/store/store.h"
#include "tests/util/specs.h"

namespace sab::bench {
namespace {

constexpr int64_t kJobsAtOnce = 500;  // in a transaction
constexpr int64_t kFirstSecond = 1'767'225'600;
constexpr int64_t kSteps = 1000;

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

v1::Attempt MakeAttempt(int64_t number, int64_t second, int64_t from, int64_t to) {
  v1::Attempt attempt;
  attempt.set_number(number);
  attempt.mutable_start_time()->set_seconds(second);
  attempt.mutable_first_step_time()->set_seconds(second + 1);
  attempt.mutable_end_time()->set_seconds(second + 60);
  attempt.set_end_reason(to == kSteps ? "finished" : "rank 0 on workers/stored: killed by signal 9");
  attempt.set_start_step(from);
  attempt.set_last_step(to);
  attempt.add_placements()->set_worker("workers/stored");
  return attempt;
}

v1::Checkpoint MakeCheckpoint(const std::string& job, int64_t step, int64_t attempt) {
  v1::Checkpoint checkpoint;
  checkpoint.set_name(absl::StrCat(job, "/checkpoints/", MakeCheckpointId(step, attempt)));
  checkpoint.set_step(step);
  checkpoint.set_attempt(attempt);
  for (const char* path : {"model.safetensors", "optimizer.safetensors", "state.json"}) {
    v1::CheckpointFile& file = *checkpoint.add_files();
    file.set_path(path);
    file.set_size_bytes(100'000);
    file.set_sha256(std::string(64, 'a'));
  }
  return checkpoint;
}

void AddJob(int64_t index, server::StoreChange* change) {
  server::JobRecord record;
  v1::Job& job = record.job;
  const std::string id = absl::StrCat("stored-", index);
  job.set_name("jobs/" + id);
  *job.mutable_spec() = testing_util::CopySpec();
  job.mutable_spec()->mutable_train()->set_steps(kSteps);
  spec::ResolveDefaults(job.mutable_spec());
  job.mutable_create_time()->set_seconds(kFirstSecond + index);
  job.set_version(20);
  job.set_state(v1::JOB_STATE_QUEUED);
  change->add_requests[absl::StrCat("request-", index)] = id;
  if (index % 5 != 0) {
    record.restarts = 1;
    job.set_state(v1::JOB_STATE_SUCCEEDED);
    job.set_stop_reason("steps");
    job.set_step(kSteps);
    job.set_attempt_count(2);
    *job.add_attempts() = MakeAttempt(1, kFirstSecond + index, 0, kSteps / 2);
    change->put_jobs.push_back(record);
    *job.add_attempts() = MakeAttempt(2, kFirstSecond + index + 60, kSteps / 2, kSteps);
    change->put_checkpoints.push_back(MakeCheckpoint(job.name(), kSteps / 2, 1));
    change->put_checkpoints.push_back(MakeCheckpoint(job.name(), kSteps, 2));
  }
  change->put_jobs.push_back(std::move(record));
}

}  // namespace

void StoreJobs(const std::string& state_dir, int64_t count) {
  const auto store = server::Store::Open(state_dir);
  Check(store.status());
  for (int64_t first = 0; first < count; first += kJobsAtOnce) {
    server::StoreChange change;
    for (int64_t i = first; i < std::min(count, first + kJobsAtOnce); ++i) AddJob(i, &change);
    Check((*store)->Commit(change));
  }
}

double TimeSubmit(const std::string& address) {
  const auto jobs = v1::JobService::NewStub(rpc::MakeChannel(address));
  v1::CreateJobRequest request;
  *request.mutable_spec() = testing_util::CopySpec();
  v1::CreateJobResponse response;
  grpc::ClientContext context;
  rpc::SetDeadline(context, absl::Minutes(1));
  const auto begin = std::chrono::steady_clock::now();
  Check(rpc::FromGrpc(jobs->CreateJob(&context, request, &response)));
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace sab::bench
