#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "common/checkpoint/checkpoint.h"
#include "server/coordinator/coordinator.h"
#include "tests/util/fake_agent.h"
#include "tests/util/fake_clock.h"
#include "tests/util/specs.h"
#include "tests/util/temp_dir.h"

namespace sab::server {

using testing_util::CopySpec;
using testing_util::FakeAgent;
using testing_util::FakeClock;
using testing_util::TempDir;

// A coordinator on a fake clock, driven by direct calls: no threads, no gRPC.
class CoordinatorFixture : public ::testing::Test {
 protected:
  static constexpr absl::Duration kLease = absl::Seconds(10);

  CoordinatorFixture() { Start(); }

  // The second time: a restart on the same state.
  void Start() {
    coordinator_.reset();
    metric_store_.reset();
    log_store_.reset();
    store_.reset();
    store_ = *Store::Open(dir_.path() + "/state");
    metric_store_ = *MetricStore::Open(dir_.path() + "/state/metrics.db", {});
    log_store_ = std::make_unique<LogStore>(dir_.path() + "/state/logs");
    metrics_ = std::make_unique<CoordinatorMetrics>(std::make_shared<prometheus::Registry>());
    auto coordinator = Coordinator::Create(
        {.lease = kLease, .checkpoint_dir = checkpoint_dir(), .checkpoint_dir_shared = true, .queues = queues_},
        {.store = store_.get(),
         .metric_store = metric_store_.get(),
         .log_store = log_store_.get(),
         .hub = &hub_,
         .metrics = metrics_.get(),
         .clock = &clock_});
    ASSERT_TRUE(coordinator.ok()) << coordinator.status();
    coordinator_ = *std::move(coordinator);
  }

  std::string checkpoint_dir() const { return dir_.path() + "/checkpoints"; }

  JobId Submit(const v1::JobSpec& spec = CopySpec()) {
    v1::CreateJobRequest request;
    *request.mutable_spec() = spec;
    auto response = coordinator_->CreateJob(request);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? *ParseJobName(response->job().name()) : JobId();
  }

  v1::Job Get(const JobId& id) { return *coordinator_->GetJob(id); }
  v1::JobState State(const JobId& id) { return Get(id).state(); }

  // One call of the agent.
  absl::Status Sync(FakeAgent& agent) {
    const v1::SynchronizeRequest request = agent.Request();
    if (absl::Status status = coordinator_->Report(request); !status.ok()) return status;
    auto response = coordinator_->Desired(request, /*force=*/true);
    if (!response.ok()) return response.status();
    agent.Apply(**response);
    return absl::OkStatus();
  }
  // Until both sides know all there is to know.
  void Settle(FakeAgent& agent) {
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(Sync(agent).ok());
  }
  void Join(FakeAgent& agent) { Settle(agent); }

  void Set(FakeAgent& agent, const JobId& job, v1::TrainerPhase phase, int64_t step = 0, int32_t rank = 0) {
    v1::TrainerStatus& trainer = agent.Trainer(job.name(), rank);
    trainer.set_phase(phase);
    trainer.set_step(step);
  }
  void Fail(FakeAgent& agent, const JobId& job, bool permanent = false, int32_t rank = 0) {
    Set(agent, job, v1::TRAINER_PHASE_FAILED, 0, rank);
    agent.Trainer(job.name(), rank).set_failure("exit code 3: boom");
    agent.Trainer(job.name(), rank).set_permanent(permanent);
    ASSERT_TRUE(Sync(agent).ok());
  }
  // Submitted, placed on `agent`, at `step` 1.
  JobId Running(FakeAgent& agent, const v1::JobSpec& spec = CopySpec()) {
    const JobId job = Submit(spec);
    Settle(agent);
    Set(agent, job, v1::TRAINER_PHASE_TRAINING, 1);
    EXPECT_TRUE(Sync(agent).ok());
    EXPECT_EQ(State(job), v1::JOB_STATE_RUNNING);
    return job;
  }
  void Background() {
    while (coordinator_->RunBackgroundTask()) {
    }
  }
  void Advance(absl::Duration duration) {
    clock_.Advance(duration);
    coordinator_->Tick();
  }

  // A checkpoint on disk as a trainer leaves it, not recorded.
  v1::RecordCheckpointRequest Checkpoint(FakeAgent& agent, const JobId& job, int64_t step, double eval_loss = -1) {
    const int64_t attempt = Get(job).attempt_count();
    v1::Checkpoint header;
    header.set_name(CheckpointName{job, MakeCheckpointId(step, attempt)}.name());
    header.set_step(step);
    header.set_attempt(attempt);
    if (eval_loss >= 0) header.set_eval_loss(eval_loss);
    auto writer = CheckpointWriter::Create(CheckpointParent(checkpoint_dir(), job.name()), header);
    EXPECT_TRUE(writer.ok()) << writer.status();
    EXPECT_TRUE(writer->AddFile(kStateFile, "{}").ok());
    EXPECT_TRUE(writer->AddFile(kModelFile, std::string(1000, 'm')).ok());
    auto written = writer->Commit();
    EXPECT_TRUE(written.ok()) << written.status();
    v1::RecordCheckpointRequest request;
    request.set_worker(agent.worker());
    request.mutable_id()->set_job(job.name());
    request.mutable_id()->set_attempt(attempt);
    *request.mutable_checkpoint() = *written;
    return request;
  }
  v1::Checkpoint Record(FakeAgent& agent, const JobId& job, int64_t step, double eval_loss = -1) {
    auto recorded = coordinator_->RecordCheckpoint(Checkpoint(agent, job, step, eval_loss));
    EXPECT_TRUE(recorded.ok()) << recorded.status();
    return recorded.ok() ? *recorded : v1::Checkpoint();
  }

  TempDir dir_;
  FakeClock clock_;
  std::vector<QueueConfig> queues_;  // of the next Start
  ChangeHub hub_;
  std::unique_ptr<CoordinatorMetrics> metrics_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<MetricStore> metric_store_;
  std::unique_ptr<LogStore> log_store_;
  std::unique_ptr<Coordinator> coordinator_;
};

}  // namespace sab::server
