// Jobs and the queue: pausing, preemption, time limits, dependencies, groups, queues, drained workers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/status.h"
#include "common/spec/cost.h"
#include "common/spec/validate.h"
#include "server/scheduling/queue_file.h"
#include "tests/server/coordinator_fixture.h"

namespace sab::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class CoordinatorQueueTest : public CoordinatorFixture {
 protected:
  v1::JobSpec Spec(int64_t priority = 50) {
    v1::JobSpec spec = CopySpec();
    spec.mutable_queue()->set_priority(priority);
    return spec;
  }
  // The trainer has written its checkpoint and ended as it was asked to.
  void Leave(FakeAgent& agent, const JobId& job, int64_t step) {
    Record(agent, job, step);
    Set(agent, job, v1::TRAINER_PHASE_SUCCEEDED, step);
    agent.Trainer(job.name()).set_stop_reason("leave");
    ASSERT_TRUE(Sync(agent).ok());
    Background();
    Settle(agent);
  }
  void Finish(FakeAgent& agent, const JobId& job) {
    Set(agent, job, v1::TRAINER_PHASE_SUCCEEDED, 100);
    agent.Trainer(job.name()).set_stop_reason("steps");
    Settle(agent);
  }
  std::vector<std::string> Fields(const absl::Status& status) {
    std::vector<std::string> fields;
    for (const FieldViolation& violation : ViolationsOf(status)) fields.push_back(violation.field);
    return fields;
  }
  absl::Status Create(const v1::JobSpec& spec) {
    v1::CreateJobRequest request;
    *request.mutable_spec() = spec;
    return coordinator_->CreateJob(request).status();
  }
};

// --- Pausing.

TEST_F(CoordinatorQueueTest, AWaitingJobIsPausedAtOnceAndTakesItsPlaceAgain) {
  const JobId job = Submit();
  EXPECT_EQ(coordinator_->PauseJob(job)->state(), v1::JOB_STATE_PAUSED);
  FakeAgent agent("workers/a", 1);
  Join(agent);
  EXPECT_EQ(State(job), v1::JOB_STATE_PAUSED);
  EXPECT_NE(coordinator_->ResumeJob(job)->state(), v1::JOB_STATE_PAUSED);
  Settle(agent);
  EXPECT_TRUE(agent.Runs(job.name()));
}

TEST_F(CoordinatorQueueTest, ARunningJobIsPausedWhenItHasLeftWithACheckpointAndGoesOnFromIt) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  const JobId job = Running(agent);
  EXPECT_EQ(coordinator_->PauseJob(job)->state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Get(job).stop_intent(), v1::STOP_INTENT_PAUSE);
  Settle(agent);
  EXPECT_TRUE(agent.Assignment(job.name()).leave());
  Leave(agent, job, 7);
  EXPECT_EQ(State(job), v1::JOB_STATE_PAUSED);
  EXPECT_FALSE(agent.Runs(job.name()));

  ASSERT_TRUE(coordinator_->ResumeJob(job).ok());
  Background();
  Settle(agent);
  EXPECT_EQ(agent.Assignment(job.name()).resume_from().step(), 7);
  EXPECT_FALSE(agent.Assignment(job.name()).leave());
  EXPECT_EQ(Get(job).attempts(0).end_reason(), "left with a checkpoint");
}

TEST_F(CoordinatorQueueTest, APausedJobFreesItsSlotForOthers) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  const JobId job = Running(agent);
  const JobId other = Submit();
  ASSERT_TRUE(coordinator_->PauseJob(job).ok());
  Settle(agent);
  EXPECT_FALSE(agent.Runs(other.name()));
  Leave(agent, job, 7);
  EXPECT_TRUE(agent.Runs(other.name()));
}

TEST_F(CoordinatorQueueTest, AJobThatDoesNotLeaveIsStoppedAfterTheGrace) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  const JobId job = Running(agent);
  ASSERT_TRUE(coordinator_->PauseJob(job).ok());
  for (int i = 0; i < 23; ++i) {
    Advance(absl::Seconds(5));
    ASSERT_TRUE(Sync(agent).ok());
  }
  EXPECT_EQ(State(job), v1::JOB_STATE_RUNNING);
  Advance(absl::Seconds(5));
  EXPECT_EQ(State(job), v1::JOB_STATE_PAUSED);
  Settle(agent);
  EXPECT_FALSE(agent.Runs(job.name()));
}

TEST_F(CoordinatorQueueTest, AFailureWhileLeavingCostsNoRestart) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  v1::JobSpec spec = Spec();
  spec.mutable_queue()->set_max_restarts(0);
  const JobId job = Running(agent, spec);
  ASSERT_TRUE(coordinator_->PauseJob(job).ok());
  Fail(agent, job);
  EXPECT_EQ(State(job), v1::JOB_STATE_PAUSED);
}

TEST_F(CoordinatorQueueTest, PausingOutlivesARestartOfTheCoordinator) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  const JobId job = Running(agent);
  ASSERT_TRUE(coordinator_->PauseJob(job).ok());
  const JobId waiting = Submit();
  ASSERT_TRUE(coordinator_->PauseJob(waiting).ok());
  Start();
  Settle(agent);
  EXPECT_TRUE(agent.Assignment(job.name()).leave());
  Leave(agent, job, 7);
  EXPECT_EQ(State(job), v1::JOB_STATE_PAUSED);
  EXPECT_EQ(State(waiting), v1::JOB_STATE_PAUSED);
}

TEST_F(CoordinatorQueueTest, AJobResumedWhileItLeavesComesBackByWayOfTheQueue) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  const JobId job = Running(agent);
  ASSERT_TRUE(coordinator_->PauseJob(job).ok());
  ASSERT_TRUE(coordinator_->ResumeJob(job).ok());
  Settle(agent);
  Leave(agent, job, 7);
  EXPECT_EQ(State(job), v1::JOB_STATE_STARTING);
  EXPECT_EQ(agent.Assignment(job.name()).resume_from().step(), 7);
}

TEST_F(CoordinatorQueueTest, AJobThatEndsWhileItIsPausedHasSucceeded) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  const JobId job = Running(agent);
  ASSERT_TRUE(coordinator_->PauseJob(job).ok());
  Finish(agent, job);
  EXPECT_EQ(State(job), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(Get(job).stop_intent(), v1::STOP_INTENT_UNSPECIFIED);
  EXPECT_EQ(ReasonOf(coordinator_->PauseJob(job).status()), "JOB_FINAL");
  EXPECT_EQ(ReasonOf(coordinator_->ResumeJob(job).status()), "JOB_FINAL");
}

// --- Preemption and time limits.

TEST_F(CoordinatorQueueTest, AJobOfLowPriorityMakesRoomAndComesBackWithoutLosingARestart) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  const JobId low = Running(agent, Spec(10));
  const JobId high = Submit(Spec(90));
  Settle(agent);
  EXPECT_EQ(Get(low).stop_intent(), v1::STOP_INTENT_UNSPECIFIED) << "it has its minimum run time";
  for (int i = 0; i < 13; ++i) {
    Advance(absl::Seconds(5));
    ASSERT_TRUE(Sync(agent).ok());
  }
  const JobId nudge = Submit(Spec(0));
  EXPECT_EQ(Get(low).stop_intent(), v1::STOP_INTENT_PREEMPT);
  EXPECT_THAT(Get(low).state_reason(), HasSubstr(high.name()));
  Settle(agent);
  Leave(agent, low, 9);
  EXPECT_TRUE(agent.Runs(high.name()));
  EXPECT_EQ(State(low), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(Get(low).attempts(0).end_reason(), "left with a checkpoint");
  Finish(agent, high);
  EXPECT_EQ(agent.Assignment(low.name()).resume_from().step(), 9);
}

TEST_F(CoordinatorQueueTest, AJobFailsWhenItsTimeLimitIsOverAndKeepsItsCheckpoint) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  v1::JobSpec spec = Spec();
  spec.mutable_queue()->set_time_limit("30s");
  const JobId job = Running(agent, spec);
  for (int i = 0; i < 6; ++i) {
    Advance(absl::Seconds(5));
    ASSERT_TRUE(Sync(agent).ok());
  }
  EXPECT_EQ(Get(job).stop_intent(), v1::STOP_INTENT_TIME_LIMIT);
  Settle(agent);
  Leave(agent, job, 50);
  EXPECT_EQ(State(job), v1::JOB_STATE_FAILED);
  EXPECT_THAT(Get(job).failure(), HasSubstr("queue.time_limit 30s is over"));
  EXPECT_THAT(*coordinator_->ListCheckpoints(job), SizeIs(1));
}

TEST_F(CoordinatorQueueTest, ATimeLimitCountsAllAttemptsAndMayBeRaised) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  v1::JobSpec spec = Spec();
  spec.mutable_queue()->set_time_limit("30s");
  const JobId job = Running(agent, spec);
  Advance(absl::Seconds(8));
  Fail(agent, job);
  Settle(agent);
  Set(agent, job, v1::TRAINER_PHASE_TRAINING, 1);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Sync(agent).ok());
    Advance(absl::Seconds(6));
  }
  v1::UpdateJobRequest update;
  update.set_name(job.name());
  update.set_time_limit("40s");
  ASSERT_TRUE(coordinator_->UpdateJob(update).ok());
  ASSERT_TRUE(Sync(agent).ok());
  Advance(absl::Seconds(8));
  EXPECT_EQ(Get(job).stop_intent(), v1::STOP_INTENT_UNSPECIFIED);
  ASSERT_TRUE(Sync(agent).ok());
  Advance(absl::Seconds(6));
  EXPECT_EQ(Get(job).stop_intent(), v1::STOP_INTENT_TIME_LIMIT);
}

TEST_F(CoordinatorQueueTest, AWallClockThatIsSetUsesUpNoTimeLimit) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  v1::JobSpec spec = Spec();
  spec.mutable_queue()->set_time_limit("30s");
  const JobId job = Running(agent, spec);
  clock_.StepWall(absl::Hours(5));
  Advance(absl::Seconds(8));
  ASSERT_TRUE(Sync(agent).ok());
  EXPECT_EQ(Get(job).stop_intent(), v1::STOP_INTENT_UNSPECIFIED);
  Fail(agent, job);
  Settle(agent);
  Set(agent, job, v1::TRAINER_PHASE_TRAINING, 1);
  clock_.StepWall(-absl::Hours(9));
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(Sync(agent).ok());
    EXPECT_EQ(Get(job).stop_intent(), v1::STOP_INTENT_UNSPECIFIED);
    Advance(absl::Seconds(8));
  }
  EXPECT_EQ(Get(job).stop_intent(), v1::STOP_INTENT_TIME_LIMIT);
}

// --- Dependencies and groups.

TEST_F(CoordinatorQueueTest, AJobStartsAfterThoseItRunsAfterHaveSucceeded) {
  FakeAgent agent("workers/a", 2);
  Join(agent);
  const JobId first = Running(agent);
  v1::JobSpec spec = Spec();
  spec.mutable_queue()->add_after(first.name());
  const JobId second = Submit(spec);
  Settle(agent);
  EXPECT_FALSE(agent.Runs(second.name()));
  EXPECT_EQ(Get(second).state_reason(), "waits for " + first.name() + " to succeed, which is RUNNING");
  EXPECT_EQ(coordinator_->ExplainJob(second)->queue_position(), 0);
  Finish(agent, first);
  EXPECT_TRUE(agent.Runs(second.name()));
}

TEST_F(CoordinatorQueueTest, AJobWhoseDependencyFailsOrIsCancelledFailsAndSaysWhichAndSoDoThoseBehindIt) {
  const JobId first = Submit();
  v1::JobSpec spec = Spec();
  spec.mutable_queue()->add_after(first.name());
  const JobId second = Submit(spec);
  spec.mutable_queue()->set_after(0, second.name());
  const JobId third = Submit(spec);
  EXPECT_EQ(ReasonOf(coordinator_->DeleteJob(first)), "JOB_NOT_FINAL");
  ASSERT_TRUE(coordinator_->CancelJob(first).ok());
  EXPECT_EQ(State(second), v1::JOB_STATE_FAILED);
  EXPECT_EQ(Get(second).failure(), first.name() + ", which it runs after, has CANCELLED");
  EXPECT_EQ(State(third), v1::JOB_STATE_FAILED);
  EXPECT_TRUE(coordinator_->DeleteJob(first).ok());
}

TEST_F(CoordinatorQueueTest, AHeldJobWaitsForItsUser) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  v1::JobSpec slow = Spec();
  slow.mutable_resources()->set_replicas(2);
  const JobId first = Submit(slow);
  v1::JobSpec spec = Spec();
  spec.mutable_queue()->add_after(first.name());
  spec.mutable_queue()->set_after_failure(v1::AFTER_FAILURE_KIND_HOLD);
  const JobId second = Submit(spec);
  ASSERT_TRUE(coordinator_->CancelJob(first).ok());
  EXPECT_EQ(State(second), v1::JOB_STATE_QUEUED);
  EXPECT_THAT(Get(second).state_reason(), HasSubstr("held: "));
  EXPECT_EQ(ReasonOf(coordinator_->DeleteJob(first)), "JOB_NEEDED");
  ASSERT_TRUE(coordinator_->ResumeJob(second).ok());
  Settle(agent);
  EXPECT_TRUE(agent.Runs(second.name()));
  EXPECT_TRUE(coordinator_->DeleteJob(first).ok());
}

TEST_F(CoordinatorQueueTest, DependenciesOutliveARestartOfTheCoordinator) {
  const JobId first = Submit();
  v1::JobSpec spec = Spec();
  spec.mutable_queue()->add_after(first.name());
  const JobId second = Submit(spec);
  Start();
  ASSERT_TRUE(coordinator_->CancelJob(first).ok());
  EXPECT_EQ(State(second), v1::JOB_STATE_FAILED);
}

TEST_F(CoordinatorQueueTest, OfAGroupNoMoreThanItsBoundRunAtATime) {
  FakeAgent agent("workers/a", 4);
  Join(agent);
  v1::JobSpec spec = Spec();
  spec.mutable_queue()->set_group("sweep");
  spec.mutable_queue()->set_max_parallel(2);
  std::vector<JobId> jobs;
  for (int i = 0; i < 4; ++i) jobs.push_back(Submit(spec));
  Settle(agent);
  EXPECT_EQ(agent.size(), 2);
  EXPECT_EQ(Get(jobs[2]).state_reason(), "waits for others of group sweep: at most 2 at a time");
  Finish(agent, jobs[0]);
  Settle(agent);
  EXPECT_TRUE(agent.Runs(jobs[2].name()));
  EXPECT_FALSE(agent.Runs(jobs[3].name()));
  ASSERT_TRUE(coordinator_->CancelJob(jobs[1]).ok());
  Settle(agent);
  EXPECT_TRUE(agent.Runs(jobs[3].name()));
}

// --- Queues.

TEST_F(CoordinatorQueueTest, AnUnknownQueueAndAPriorityAboveItsOwnAreRefusedWithWhatThereIs) {
  queues_ = *ParseQueues("queues: [{name: research, max_priority: 60, quota: {cpu: 1}}]");
  Start();
  v1::JobSpec spec = Spec(70);
  spec.mutable_queue()->set_name("reserch");
  const absl::Status unknown = Create(spec);
  EXPECT_THAT(Fields(unknown), ElementsAre("queue.name"));
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("there are: default, research"));
  spec.mutable_queue()->set_name("research");
  spec.mutable_queue()->add_after("jobs/nosuch");
  EXPECT_THAT(Fields(Create(spec)), ElementsAre("queue.priority", "queue.after[0]"));
}

TEST_F(CoordinatorQueueTest, AQueueUsesNoMoreThanItsQuota) {
  queues_ = *ParseQueues("queues: [{name: research, quota: {cpu: 1}}]");
  Start();
  FakeAgent agent("workers/a", 3);
  Join(agent);
  v1::JobSpec spec = Spec();
  spec.mutable_queue()->set_name("research");
  const JobId first = Submit(spec);
  const JobId second = Submit(spec);
  Settle(agent);
  EXPECT_TRUE(agent.Runs(first.name()));
  EXPECT_FALSE(agent.Runs(second.name()));
  EXPECT_THAT(coordinator_->ExplainJob(second)->reason(), HasSubstr("queue research may use 1 cpu slot and uses 1"));
  const v1::ListQueuesResponse queues = coordinator_->ListQueues();
  ASSERT_EQ(queues.queues_size(), 2);
  EXPECT_EQ(queues.queues(1).name(), "research");
  EXPECT_EQ(queues.queues(1).slots(0).in_use(), 1);
  EXPECT_EQ(queues.queues(1).slots(0).quota(), 1);
  EXPECT_EQ(queues.queues(1).waiting_jobs(), 1);
  EXPECT_EQ(queues.queues(1).running_jobs(), 1);
}

TEST_F(CoordinatorQueueTest, WhatAQueueHasUsedOutlivesARestartOfTheCoordinator) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  const JobId job = Running(agent);
  for (int i = 0; i < 100; ++i) {
    Advance(absl::Seconds(9));
    ASSERT_TRUE(Sync(agent).ok());
  }
  Finish(agent, job);
  const double before = coordinator_->ListQueues().queues(0).slots(0).average_use();
  Start();
  const double after = coordinator_->ListQueues().queues(0).slots(0).average_use();
  EXPECT_GT(after, 0.005);
  // The minute that a start costs at once is not kept.
  EXPECT_NEAR(before, after, 60 * 0.7 / (24 * 3600));
}

TEST_F(CoordinatorQueueTest, UpdateChangesTheOrder) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  const JobId running = Running(agent);
  const JobId first = Submit();
  const JobId second = Submit();
  v1::UpdateJobRequest update;
  update.set_name(second.name());
  update.set_priority(101);
  EXPECT_THAT(Fields(coordinator_->UpdateJob(update).status()), ElementsAre("queue.priority"));
  update.set_priority(80);
  EXPECT_EQ(coordinator_->UpdateJob(update)->spec().queue().priority(), 80);
  EXPECT_EQ(coordinator_->ExplainJob(second)->queue_position(), 1);
  Finish(agent, running);
  EXPECT_TRUE(agent.Runs(second.name()));
  EXPECT_FALSE(agent.Runs(first.name()));
}

TEST_F(CoordinatorQueueTest, ExplainSaysWhoMustEndAndWhen) {
  FakeAgent agent("workers/a", 1);
  Join(agent);
  v1::JobSpec spec = Spec();
  spec.mutable_queue()->set_time_limit("10m");
  const JobId running = Running(agent, spec);
  const JobId job = Submit();
  const auto answer = coordinator_->ExplainJob(job);
  EXPECT_THAT(answer->must_end(), ElementsAre(running.name()));
  ASSERT_TRUE(answer->has_expected_start());
  EXPECT_EQ(answer->expected_start().seconds(), absl::ToUnixSeconds(clock_.Now() + absl::Minutes(10)));
}

// --- Workers.

TEST_F(CoordinatorQueueTest, ADrainedWorkerGetsNoNewWorkAlsoAfterRestartsOfBothSides) {
  FakeAgent agent("workers/a", 2);
  Join(agent);
  const JobId first = Running(agent);
  EXPECT_TRUE(coordinator_->DrainWorker(WorkerId("a"), true, false)->draining());
  const JobId second = Submit();
  Settle(agent);
  EXPECT_TRUE(agent.Runs(first.name()));
  EXPECT_FALSE(agent.Runs(second.name()));
  Start();
  agent.Restart();
  Settle(agent);
  EXPECT_FALSE(agent.Runs(second.name()));
  EXPECT_TRUE(coordinator_->ListWorkers()[0].draining());
  ASSERT_TRUE(coordinator_->DrainWorker(WorkerId("a"), false, false).ok());
  Settle(agent);
  EXPECT_TRUE(agent.Runs(second.name()));
  EXPECT_EQ(ReasonOf(coordinator_->DrainWorker(WorkerId("b"), true, false).status()), "WORKER_NOT_FOUND");
}

TEST_F(CoordinatorQueueTest, JobsOfADrainedWorkerGoOnElsewhereWhenAsked) {
  FakeAgent a("workers/a", 1);
  Join(a);
  const JobId job = Running(a);
  FakeAgent b("workers/b", 1);
  Join(b);
  ASSERT_TRUE(coordinator_->DrainWorker(WorkerId("a"), true, /*stop_jobs=*/true).ok());
  Settle(a);
  Leave(a, job, 5);
  Settle(b);
  EXPECT_EQ(b.Assignment(job.name()).resume_from().step(), 5);
}

TEST_F(CoordinatorQueueTest, AJobGoesToGpusThatHoldWhatItIsPredictedToTake) {
  FakeAgent small("workers/a", 1, "cuda"), large("workers/b", 1, "cuda");
  small.SetMemory(int64_t{4} << 30);
  large.SetMemory(int64_t{80} << 30);
  Join(small);
  v1::JobSpec spec = Spec();
  spec.mutable_model()->set_hidden_size(512);
  spec.mutable_task()->set_length(20000);
  spec.mutable_resources()->set_device(v1::DEVICE_KIND_CUDA);
  const JobId job = Submit(spec);
  Settle(small);
  EXPECT_EQ(State(job), v1::JOB_STATE_QUEUED);
  EXPECT_THAT(Get(job).state_reason(), HasSubstr("at least 8192 MiB"));
  Join(large);
  EXPECT_TRUE(large.Runs(job.name()));

  // Whoever knows better says so.
  spec.mutable_resources()->set_min_gpu_memory("1GiB");
  const JobId bold = Submit(spec);
  Settle(small);
  EXPECT_TRUE(small.Runs(bold.name()));
}

TEST_F(CoordinatorQueueTest, CpuJobsArePlacedByTheMemoryThatIsPredicted) {
  v1::JobSpec spec = Spec();
  spec.mutable_model()->set_hidden_size(512);
  spec.mutable_task()->set_length(5000);
  spec.mutable_resources()->set_device(v1::DEVICE_KIND_CPU);
  v1::JobSpec resolved = spec;
  spec::ResolveDefaults(&resolved);
  const int64_t need = spec::PlacedCpuBytes(resolved);
  FakeAgent small("workers/a", 2), large("workers/b", 2);
  small.SetMemory(need / 4);  // of each of two slots
  large.SetMemory(need / 2);
  Join(small);
  const JobId job = Submit(spec);
  Settle(small);
  EXPECT_EQ(State(job), v1::JOB_STATE_QUEUED);
  EXPECT_THAT(Get(job).state_reason(), HasSubstr("the largest worker has "));
  EXPECT_THAT(Get(job).state_reason(), HasSubstr("model.recompute"));
  Join(large);
  EXPECT_TRUE(large.Runs(job.name()));
}

TEST_F(CoordinatorQueueTest, MemoryIsHeldUntilItsProcessIsGone) {
  FakeAgent agent("workers/a", 2);
  agent.SetMemory(int64_t{1} << 30);
  Join(agent);
  v1::JobSpec spec = Spec();
  spec.mutable_resources()->set_memory("1536MiB");
  const JobId first = Submit(spec);
  Settle(agent);
  EXPECT_TRUE(agent.Runs(first.name()));
  spec.mutable_resources()->set_memory("1GiB");
  const JobId second = Submit(spec);
  EXPECT_THAT(Get(second).state_reason(), HasSubstr("waits for 1 cpu slot with 1 GiB more"));
  ASSERT_TRUE(coordinator_->CancelJob(first).ok());
  EXPECT_EQ(State(second), v1::JOB_STATE_QUEUED);
  Settle(agent);
  EXPECT_TRUE(agent.Runs(second.name()));
  // Nor does a coordinator that starts forget it.
  Start();
  Join(agent);
  spec.mutable_resources()->set_memory("1536MiB");
  const JobId large = Submit(spec);
  EXPECT_EQ(State(large), v1::JOB_STATE_QUEUED);
  ASSERT_TRUE(coordinator_->CancelJob(large).ok());
  spec.mutable_resources()->set_memory("1GiB");
  EXPECT_EQ(State(Submit(spec)), v1::JOB_STATE_STARTING);
}

TEST(QueueFileTest, ReadsQueuesAndRefusesWhatItDoesNotKnow) {
  const auto queues = ParseQueues("queues:\n  - {name: a, weight: 2.5, quota: {cuda: 4}}\n  - name: b\n");
  ASSERT_TRUE(queues.ok()) << queues.status();
  ASSERT_THAT(*queues, SizeIs(2));
  EXPECT_EQ((*queues)[0].weight, 2.5);
  EXPECT_EQ((*queues)[0].quota[1], 4);
  EXPECT_FALSE((*queues)[0].quota[0].has_value());
  EXPECT_EQ((*queues)[1].max_priority, 100);

  const auto bad = ParseQueues("queues:\n  - {name: a, wieght: 1}\n  - {name: a, weight: 0}\n  - {quota: {cpu: -1}}\n");
  ASSERT_FALSE(bad.ok());
  std::vector<std::string> found;
  for (const FieldViolation& violation : ViolationsOf(bad.status())) {
    found.push_back(absl::StrCat(violation.reason.substr(0, violation.reason.find(':')), " ", violation.field));
  }
  EXPECT_THAT(found, ElementsAre("line 2 queues[0].wieght", "line 3 queues[1].name", "line 3 queues[1].weight",
                                 "line 4 queues[2].name", "line 4 queues[2].quota.cpu"));
  for (const char* text : {"", "[]", "queues: 3", "queues: []\nmore: 1", "queues: [", "queues: [3]"}) {
    EXPECT_FALSE(ParseQueues(text).ok()) << text;
  }
}

}  // namespace
}  // namespace sab::server
