// The life of attempts: placing, running, failing, restarting, leases, fencing, adoption.
#include <gmock/gmock.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "server/coordinator/text.h"
#include "tests/server/coordinator_fixture.h"

namespace sab::server {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class CoordinatorAttemptsTest : public CoordinatorFixture {
 protected:
  CoordinatorAttemptsTest() : a_("workers/a", 1), b_("workers/b", 1) {}
  // Lets every restart's back-off pass while `a_` keeps calling.
  void WaitOutBackoff() {
    for (int i = 0; i < 20; ++i) {
      Advance(absl::Seconds(2));
      ASSERT_TRUE(Sync(a_).ok());
    }
    Background();
    Settle(a_);
  }
  FakeAgent a_;
  FakeAgent b_;
};

TEST_F(CoordinatorAttemptsTest, AJobIsStartingWhenPlacedRunningAtItsFirstStepAndSucceedsWithItsRanks) {
  Join(a_);
  const JobId id = Submit();
  EXPECT_EQ(State(id), v1::JOB_STATE_STARTING);
  Settle(a_);
  ASSERT_TRUE(a_.Runs(id.name()));
  EXPECT_EQ(State(id), v1::JOB_STATE_STARTING);
  Set(a_, id, v1::TRAINER_PHASE_TRAINING, 0);
  ASSERT_TRUE(Sync(a_).ok());
  EXPECT_EQ(State(id), v1::JOB_STATE_STARTING);
  Set(a_, id, v1::TRAINER_PHASE_TRAINING, 1);
  ASSERT_TRUE(Sync(a_).ok());
  EXPECT_EQ(State(id), v1::JOB_STATE_RUNNING);
  EXPECT_TRUE(Get(id).attempts(0).has_first_step_time());
  Set(a_, id, v1::TRAINER_PHASE_SUCCEEDED, 100);
  a_.Trainer(id.name()).set_stop_reason("stop_when: accuracy >= 0.9 at step 100");
  ASSERT_TRUE(Sync(a_).ok());
  const v1::Job job = Get(id);
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(job.stop_reason(), "stop_when: accuracy >= 0.9 at step 100");
  EXPECT_EQ(job.attempts(0).end_reason(), "finished");
  EXPECT_EQ(job.step(), 100);
  EXPECT_FALSE(a_.Runs(id.name()));
}

TEST_F(CoordinatorAttemptsTest, TheAttemptIsStoredBeforeAnyoneIsTold) {
  Join(a_);
  const JobId id = Submit();
  Start();
  EXPECT_EQ(Get(id).attempt_count(), 1);
  EXPECT_EQ(Get(id).attempts(0).placements(0).worker(), "workers/a");
}

TEST_F(CoordinatorAttemptsTest, AGangStartsOnAllRanksOrNone) {
  Join(a_);
  const JobId id = Submit(CopySpec(2));
  EXPECT_EQ(State(id), v1::JOB_STATE_QUEUED);
  Settle(a_);
  EXPECT_FALSE(a_.Runs(id.name()));
  Join(b_);
  EXPECT_EQ(State(id), v1::JOB_STATE_STARTING);
  Settle(a_);
  Settle(b_);
  EXPECT_EQ(a_.Assignment(id.name(), 0).world_size(), 2);
  EXPECT_EQ(b_.Assignment(id.name(), 1).worker_count(), 2);
}

TEST_F(CoordinatorAttemptsTest, TheRendezvousOfRankZeroReachesTheOthersAlone) {
  Join(a_);
  Join(b_);
  const JobId id = Submit(CopySpec(2));
  Settle(a_);
  Settle(b_);
  EXPECT_EQ(b_.Assignment(id.name(), 1).rendezvous(), "");
  a_.Trainer(id.name(), 0).set_rendezvous("localhost:1234");
  ASSERT_TRUE(Sync(a_).ok());
  Settle(b_);
  EXPECT_EQ(b_.Assignment(id.name(), 1).rendezvous(), "localhost:1234");
  EXPECT_EQ(a_.Assignment(id.name(), 0).rendezvous(), "");
}

TEST_F(CoordinatorAttemptsTest, AJobSucceedsOnlyWhenAllRanksHave) {
  Join(a_);
  Join(b_);
  const JobId id = Submit(CopySpec(2));
  Settle(a_);
  Settle(b_);
  Set(a_, id, v1::TRAINER_PHASE_SUCCEEDED, 100, 0);
  Settle(a_);
  EXPECT_NE(State(id), v1::JOB_STATE_SUCCEEDED);
  Set(b_, id, v1::TRAINER_PHASE_SUCCEEDED, 100, 1);
  Settle(b_);
  EXPECT_EQ(State(id), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(CoordinatorAttemptsTest, ARankThatSucceededIsRememberedOverARestart) {
  Join(a_);
  Join(b_);
  const JobId id = Submit(CopySpec(2));
  Settle(a_);
  Settle(b_);
  Set(b_, id, v1::TRAINER_PHASE_TRAINING, 99, 1);
  Settle(b_);
  Set(a_, id, v1::TRAINER_PHASE_SUCCEEDED, 100, 0);
  Settle(a_);
  Start();
  Settle(a_);
  EXPECT_EQ(Get(id).attempt_count(), 1);
  Set(b_, id, v1::TRAINER_PHASE_SUCCEEDED, 100, 1);
  Settle(b_);
  EXPECT_EQ(State(id), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(Get(id).attempt_count(), 1);
}

TEST_F(CoordinatorAttemptsTest, ARankThatSucceededIsNotStartedAgainByARestartedAgent) {
  Join(a_);
  Join(b_);
  const JobId id = Submit(CopySpec(2));
  Settle(a_);
  Settle(b_);
  Set(a_, id, v1::TRAINER_PHASE_SUCCEEDED, 100, 0);
  Settle(a_);
  a_.Restart();
  Settle(a_);
  EXPECT_FALSE(a_.Runs(id.name()));
  EXPECT_EQ(Get(id).attempt_count(), 1);
}

TEST_F(CoordinatorAttemptsTest, HigherPriorityIsPlacedFirst) {
  v1::JobSpec urgent = CopySpec();
  urgent.mutable_queue()->set_priority(90);
  const JobId early = Submit();
  const JobId late = Submit(urgent);
  Join(a_);
  EXPECT_EQ(State(late), v1::JOB_STATE_STARTING);
  EXPECT_EQ(State(early), v1::JOB_STATE_QUEUED);
  EXPECT_THAT(Get(early).state_reason(), HasSubstr("waits for 1 cpu slot more"));
}

TEST_F(CoordinatorAttemptsTest, AFailedRankEndsTheAttemptAndTheNextStartsFromTheNewestCheckpoint) {
  Join(a_);
  const JobId id = Running(a_);
  Record(a_, id, 5);
  const v1::Checkpoint newest = Record(a_, id, 10);
  Fail(a_, id);
  EXPECT_EQ(State(id), v1::JOB_STATE_RECOVERING);
  EXPECT_THAT(Get(id).attempts(0).end_reason(), HasSubstr("exit code 3: boom"));
  Background();
  Settle(a_);
  const v1::Job job = Get(id);
  EXPECT_EQ(job.state(), v1::JOB_STATE_STARTING);
  EXPECT_EQ(job.attempt_count(), 2);
  EXPECT_EQ(job.attempts(1).recovery_source(), newest.name());
  EXPECT_EQ(job.attempts(1).start_step(), 10);
  EXPECT_EQ(a_.Assignment(id.name()).resume_from().manifest_sha256(), newest.manifest_sha256());
  // Its start step is not a step of this attempt.
  Set(a_, id, v1::TRAINER_PHASE_TRAINING, 10);
  ASSERT_TRUE(Sync(a_).ok());
  EXPECT_EQ(State(id), v1::JOB_STATE_STARTING);
  Set(a_, id, v1::TRAINER_PHASE_TRAINING, 11);
  ASSERT_TRUE(Sync(a_).ok());
  EXPECT_EQ(State(id), v1::JOB_STATE_RUNNING);
}

TEST_F(CoordinatorAttemptsTest, ADamagedCheckpointIsPassedOverForAnOlderOne) {
  Join(a_);
  const JobId id = Running(a_);
  const v1::Checkpoint older = Record(a_, id, 5);
  const v1::Checkpoint newest = Record(a_, id, 10);
  std::filesystem::resize_file(
      coordinator_->FolderOf(*ParseCheckpointName(newest.name())) + "/" + std::string(kModelFile), 10);
  Fail(a_, id);
  Background();
  EXPECT_EQ(Get(id).attempts(1).recovery_source(), older.name());
  EXPECT_THAT(*coordinator_->ListCheckpoints(id), SizeIs(1));
}

TEST_F(CoordinatorAttemptsTest, WithoutACheckpointTheNextAttemptStartsFromTheBeginning) {
  Join(a_);
  const JobId id = Running(a_);
  Fail(a_, id);
  Settle(a_);
  EXPECT_EQ(Get(id).attempt_count(), 2);
  EXPECT_EQ(Get(id).attempts(1).recovery_source(), "");
  EXPECT_FALSE(a_.Assignment(id.name()).has_resume_from());
}

TEST_F(CoordinatorAttemptsTest, TheFirstRestartIsAtOnceAndLaterOnesWait) {
  Join(a_);
  const JobId id = Running(a_);
  Fail(a_, id);
  EXPECT_EQ(Get(id).attempt_count(), 2);
  Settle(a_);
  Fail(a_, id);
  Settle(a_);
  EXPECT_EQ(Get(id).attempt_count(), 2);
  EXPECT_THAT(Get(id).state_reason(), HasSubstr("restart 2 of 3 in 1s"));
  Advance(absl::Milliseconds(999));
  EXPECT_EQ(Get(id).attempt_count(), 2);
  Advance(absl::Milliseconds(1));
  EXPECT_EQ(Get(id).attempt_count(), 3);
}

TEST_F(CoordinatorAttemptsTest, AJobFailsWhenItsRestartsAreUsedUp) {
  Join(a_);
  v1::JobSpec spec = CopySpec();
  spec.mutable_queue()->set_max_restarts(2);
  const JobId id = Running(a_, spec);
  for (int restart = 0; restart < 3; ++restart) {
    ASSERT_TRUE(a_.Runs(id.name())) << restart;
    Fail(a_, id);
    WaitOutBackoff();
  }
  EXPECT_EQ(State(id), v1::JOB_STATE_FAILED);
  EXPECT_EQ(Get(id).attempt_count(), 3);
  EXPECT_THAT(Get(id).failure(), HasSubstr("rank 0 on workers/a: exit code 3: boom"));
}

TEST_F(CoordinatorAttemptsTest, APermanentFailureIsNotRestarted) {
  Join(a_);
  const JobId id = Running(a_);
  Fail(a_, id, /*permanent=*/true);
  EXPECT_EQ(State(id), v1::JOB_STATE_FAILED);
  EXPECT_EQ(Get(id).attempt_count(), 1);
}

TEST_F(CoordinatorAttemptsTest, AFailedRankStopsTheSurvivorsAtOnceAndTheirSlotsFollow) {
  Join(a_);
  Join(b_);
  const JobId id = Submit(CopySpec(2));
  Settle(a_);
  Settle(b_);
  Fail(a_, id, false, 0);
  // b has not confirmed the end of its trainer: no second one is started beside it.
  EXPECT_EQ(Get(id).attempt_count(), 1);
  const v1::SynchronizeRequest unaware = b_.Request();
  ASSERT_TRUE(coordinator_->Report(unaware).ok());
  EXPECT_EQ(Get(id).attempt_count(), 1);
  ASSERT_TRUE(Sync(b_).ok());
  EXPECT_FALSE(b_.Runs(id.name()));
  ASSERT_TRUE(Sync(b_).ok());
  EXPECT_EQ(Get(id).attempt_count(), 2);
}

TEST_F(CoordinatorAttemptsTest, AReportThatCrossedTheEndOfAnAttemptDoesNotFreeItsSlot) {
  Join(a_);
  const JobId id = Submit();
  // The agent is told, but its next report was written before it heard of the trainer.
  const v1::SynchronizeRequest before = a_.Request();
  auto told = coordinator_->Desired(before, true);
  ASSERT_TRUE(told.ok());
  ASSERT_TRUE(coordinator_->CancelJob(id).ok());
  const JobId next = Submit();
  v1::SynchronizeRequest crossed = a_.Request();
  ASSERT_TRUE(coordinator_->Report(crossed).ok());
  EXPECT_EQ(State(next), v1::JOB_STATE_QUEUED);
  a_.Apply(**told);
  Settle(a_);
  EXPECT_EQ(State(next), v1::JOB_STATE_STARTING);
}

TEST_F(CoordinatorAttemptsTest, AWorkerIsUnreachableAtHalfItsLeaseAndLostExactlyAtItsEnd) {
  Join(a_);
  const JobId id = Running(a_);
  Advance(kLease / 2 - absl::Nanoseconds(1));
  EXPECT_EQ(State(id), v1::JOB_STATE_RUNNING);
  Advance(absl::Nanoseconds(1));
  EXPECT_EQ(State(id), v1::JOB_STATE_UNREACHABLE);
  Advance(kLease / 2 - absl::Nanoseconds(1));
  EXPECT_EQ(State(id), v1::JOB_STATE_UNREACHABLE);
  Advance(absl::Nanoseconds(1));
  EXPECT_EQ(State(id), v1::JOB_STATE_RECOVERING);
  EXPECT_EQ(coordinator_->ListWorkers()[0].state(), v1::WORKER_STATE_LOST);
}

TEST_F(CoordinatorAttemptsTest, TimeInWhichTheCoordinatorWasHeldUpIsNoWorkersSilence) {
  Join(a_);
  const JobId id = Running(a_);
  clock_.Advance(3 * kLease);
  coordinator_->Tick(/*late=*/2.75 * kLease);
  EXPECT_EQ(State(id), v1::JOB_STATE_RUNNING);
  Advance(kLease / 4);
  EXPECT_EQ(State(id), v1::JOB_STATE_UNREACHABLE);
  Advance(kLease / 2);
  EXPECT_EQ(State(id), v1::JOB_STATE_RECOVERING);
}

TEST_F(CoordinatorAttemptsTest, AWorkerThatComesBackInTimeKeepsItsJob) {
  Join(a_);
  const JobId id = Running(a_);
  Advance(kLease * 0.9);
  EXPECT_EQ(State(id), v1::JOB_STATE_UNREACHABLE);
  ASSERT_TRUE(Sync(a_).ok());
  EXPECT_EQ(State(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Get(id).attempt_count(), 1);
}

TEST_F(CoordinatorAttemptsTest, AJobOfALostWorkerGoesOnElsewhereAndTheReturnedTrainerIsStopped) {
  Join(a_);
  const JobId id = Running(a_);
  Join(b_);
  for (int i = 0; i < 4; ++i) {
    Advance(kLease / 4);
    ASSERT_TRUE(Sync(b_).ok());
  }
  Settle(b_);
  EXPECT_TRUE(b_.Runs(id.name()));
  EXPECT_EQ(Get(id).attempt_count(), 2);
  EXPECT_TRUE(a_.Runs(id.name()));
  ASSERT_TRUE(Sync(a_).ok());
  EXPECT_FALSE(a_.Runs(id.name()));
}

TEST_F(CoordinatorAttemptsTest, AStaleIncarnationIsAborted) {
  Join(a_);
  v1::SynchronizeRequest old = a_.Request();
  a_.Restart();
  Join(a_);
  const absl::Status status = coordinator_->Report(old);
  EXPECT_TRUE(absl::IsAborted(status));
  EXPECT_EQ(ReasonOf(status), "STALE_INCARNATION");
  EXPECT_EQ(ReasonOf(coordinator_->Desired(old, true).status()), "STALE_INCARNATION");
}

TEST_F(CoordinatorAttemptsTest, ARestartedAgentEndsTheAttemptsOfItsTrainers) {
  Join(a_);
  const JobId id = Running(a_);
  a_.Restart();
  ASSERT_TRUE(Sync(a_).ok());
  EXPECT_THAT(Get(id).attempts(0).end_reason(), HasSubstr("agent was restarted"));
  Settle(a_);
  EXPECT_EQ(Get(id).attempt_count(), 2);
  EXPECT_TRUE(a_.Runs(id.name()));
}

TEST_F(CoordinatorAttemptsTest, ATrainerThatItsAgentNoLongerReportsEndsTheAttempt) {
  Join(a_);
  const JobId id = Running(a_);
  v1::SynchronizeRequest without = a_.Request();
  without.clear_trainers();
  ASSERT_TRUE(coordinator_->Report(without).ok());
  EXPECT_THAT(Get(id).attempts(0).end_reason(), HasSubstr("no longer reported"));
}

TEST_F(CoordinatorAttemptsTest, AReportThatWasOvertakenChangesNothing) {
  Join(a_);
  const JobId id = Running(a_);
  v1::SynchronizeRequest old = a_.Request();
  old.mutable_trainers(0)->set_phase(v1::TRAINER_PHASE_FAILED);
  ASSERT_TRUE(Sync(a_).ok());
  ASSERT_TRUE(coordinator_->Report(old).ok());
  EXPECT_EQ(State(id), v1::JOB_STATE_RUNNING);
}

TEST_F(CoordinatorAttemptsTest, AStaleAttemptIsAborted) {
  Join(a_);
  const JobId id = Running(a_);
  v1::RecordCheckpointRequest checkpoint = Checkpoint(a_, id, 5);
  v1::ReportMetricsRequest metrics;
  metrics.set_worker("workers/a");
  *metrics.mutable_id() = checkpoint.id();
  metrics.set_batch_id(1);
  EXPECT_TRUE(coordinator_->ReportMetrics(metrics).ok());
  metrics.set_worker("workers/b");
  EXPECT_EQ(ReasonOf(coordinator_->ReportMetrics(metrics)), "STALE_ATTEMPT");
  metrics.set_worker("workers/a");
  Fail(a_, id);
  metrics.set_batch_id(2);
  EXPECT_EQ(ReasonOf(coordinator_->ReportMetrics(metrics)), "STALE_ATTEMPT");
  EXPECT_TRUE(absl::IsAborted(coordinator_->RecordCheckpoint(checkpoint).status()));
  metrics.mutable_id()->set_job("jobs/gone");
  EXPECT_EQ(ReasonOf(coordinator_->ReportMetrics(metrics)), "JOB_NOT_FOUND");
}

TEST_F(CoordinatorAttemptsTest, ARestartedCoordinatorAdoptsTrainersThatStillRun) {
  Join(a_);
  const JobId id = Running(a_);
  Start();
  EXPECT_EQ(State(id), v1::JOB_STATE_UNREACHABLE);
  Set(a_, id, v1::TRAINER_PHASE_TRAINING, 7);
  ASSERT_TRUE(Sync(a_).ok());
  EXPECT_EQ(State(id), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Get(id).attempt_count(), 1);
  EXPECT_EQ(Get(id).step(), 7);
  EXPECT_TRUE(a_.Runs(id.name()));
}

TEST_F(CoordinatorAttemptsTest, ARestartedCoordinatorWaitsOneLeaseForAWorker) {
  Join(a_);
  const JobId id = Running(a_);
  Start();
  Advance(kLease - absl::Nanoseconds(1));
  EXPECT_EQ(State(id), v1::JOB_STATE_UNREACHABLE);
  Advance(absl::Nanoseconds(1));
  EXPECT_EQ(State(id), v1::JOB_STATE_RECOVERING);
}

TEST_F(CoordinatorAttemptsTest, AnAgentThatWasNotToldBeforeARestartIsToldAfterIt) {
  Join(a_);
  const JobId id = Submit();
  Start();
  Settle(a_);
  EXPECT_EQ(State(id), v1::JOB_STATE_STARTING);
  EXPECT_EQ(Get(id).attempt_count(), 1);
  EXPECT_TRUE(a_.Runs(id.name()));
}

TEST_F(CoordinatorAttemptsTest, AnAttemptThatNobodyRunsAfterARestartIsReplacedWithoutCost) {
  Join(a_);
  v1::JobSpec spec = CopySpec();
  spec.mutable_queue()->set_max_restarts(0);
  const JobId id = Submit(spec);
  Start();
  a_.Restart();
  Settle(a_);
  EXPECT_EQ(State(id), v1::JOB_STATE_STARTING);
  EXPECT_EQ(Get(id).attempt_count(), 2);
}

// The wall clock set back between two runs of the coordinator: what the earlier one gave out stands higher.
TEST_F(CoordinatorAttemptsTest, AVersionOfARunWhoseClockStoodLaterConfirmsNothing) {
  Join(a_);
  const JobId id = Running(a_);
  clock_.StepWall(-absl::Hours(3));
  Start();
  ASSERT_TRUE(coordinator_->CancelJob(id).ok());
  const JobId next = Submit();
  // It has not heard of this run yet, and may be starting anything that the earlier one has told it.
  v1::SynchronizeRequest early = a_.Request();
  early.clear_trainers();
  ASSERT_TRUE(coordinator_->Report(early).ok());
  EXPECT_EQ(State(next), v1::JOB_STATE_QUEUED);
  Settle(a_);
  EXPECT_EQ(State(next), v1::JOB_STATE_STARTING);
}

TEST_F(CoordinatorAttemptsTest, AWallClockThatIsSetMovesNoLease) {
  Join(a_);
  const JobId id = Running(a_);
  clock_.StepWall(absl::Hours(5));
  Advance(kLease / 2 - absl::Microseconds(1));
  EXPECT_EQ(State(id), v1::JOB_STATE_RUNNING);
  ASSERT_TRUE(Sync(a_).ok());
  clock_.StepWall(-absl::Hours(10));
  Advance(kLease / 2);
  EXPECT_EQ(State(id), v1::JOB_STATE_UNREACHABLE);
  Advance(kLease / 2);
  EXPECT_EQ(State(id), v1::JOB_STATE_RECOVERING);
  const v1::Attempt ended = Get(id).attempts(0);
  EXPECT_EQ(FromProto(ended.end_time()) - FromProto(ended.start_time()), kLease * 3 / 2 - absl::Microseconds(1));
}

TEST_F(CoordinatorAttemptsTest, JobsKeepTheirOrderWhenTheWallClockIsSetBack) {
  const JobId first = Submit();
  clock_.StepWall(-absl::Hours(5));
  const JobId second = Submit();
  Start();
  const auto listed = coordinator_->ListJobs({});
  ASSERT_TRUE(listed.ok());
  EXPECT_EQ(listed->jobs(0).name(), second.name());
  EXPECT_EQ(listed->jobs(1).name(), first.name());
  Join(a_);
  EXPECT_EQ(State(first), v1::JOB_STATE_STARTING);
  EXPECT_EQ(State(second), v1::JOB_STATE_QUEUED);
}

TEST_F(CoordinatorAttemptsTest, ATrainerThatEndedWhileTheCoordinatorWasAwayIsSeen) {
  Join(a_);
  const JobId id = Running(a_);
  Start();
  Set(a_, id, v1::TRAINER_PHASE_SUCCEEDED, 100);
  ASSERT_TRUE(Sync(a_).ok());
  EXPECT_EQ(State(id), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(CoordinatorAttemptsTest, ATrainerOfAnEndedAttemptHoldsItsSlotAfterARestartOfTheCoordinator) {
  Join(a_);
  const JobId id = Running(a_);
  ASSERT_TRUE(coordinator_->CancelJob(id).ok());
  Start();
  const JobId next = Submit();
  v1::SynchronizeRequest still = a_.Request();
  ASSERT_TRUE(coordinator_->Report(still).ok());
  EXPECT_EQ(State(next), v1::JOB_STATE_QUEUED);
  Settle(a_);
  EXPECT_EQ(State(next), v1::JOB_STATE_STARTING);
  EXPECT_FALSE(a_.Runs(id.name()));
}

TEST_F(CoordinatorAttemptsTest, RetentionKeepsTheLatestTheBestAndTheOneResumedFrom) {
  Join(a_);
  v1::JobSpec spec = CopySpec();
  spec.mutable_checkpoint()->set_keep_latest(1);
  spec.mutable_checkpoint()->set_keep_best(1);
  const JobId id = Running(a_, spec);
  Record(a_, id, 5, 0.1);
  const v1::Checkpoint dropped = Record(a_, id, 10, 0.9);
  const v1::Checkpoint resumed = Record(a_, id, 15, 0.8);
  Fail(a_, id);
  Background();
  Settle(a_);
  EXPECT_FALSE(std::filesystem::exists(coordinator_->FolderOf(*ParseCheckpointName(dropped.name()))));
  Record(a_, id, 20, 0.7);
  Record(a_, id, 25, 0.6);
  std::vector<int64_t> steps;
  const auto kept = coordinator_->ListCheckpoints(id);
  for (const auto& checkpoint : *kept) steps.push_back(checkpoint.step());
  EXPECT_THAT(steps, ::testing::ElementsAre(25, 15, 5));
}

TEST_F(CoordinatorAttemptsTest, ADamagedCheckpointIsNotRecorded) {
  Join(a_);
  const JobId id = Running(a_);
  v1::RecordCheckpointRequest request = Checkpoint(a_, id, 5);
  std::filesystem::resize_file(
      coordinator_->FolderOf(*ParseCheckpointName(request.checkpoint().name())) + "/" + std::string(kModelFile), 10);
  const auto refused = coordinator_->RecordCheckpoint(request);
  EXPECT_TRUE(absl::IsDataLoss(refused.status())) << refused.status();
  EXPECT_THAT(*coordinator_->ListCheckpoints(id), SizeIs(0));
}

// The rank's own report of the step may come later, or never.
TEST_F(CoordinatorAttemptsTest, ACheckpointIsProgressThatARestartedCoordinatorRemembers) {
  Join(a_);
  const JobId id = Running(a_);
  Record(a_, id, 50);
  EXPECT_EQ(Get(id).step(), 50);
  Start();
  EXPECT_EQ(Get(id).step(), 50);
  EXPECT_EQ(Get(id).attempts(0).last_step(), 50);
}

TEST_F(CoordinatorAttemptsTest, RecordingACheckpointAgainIsHarmless) {
  Join(a_);
  const JobId id = Running(a_);
  const v1::RecordCheckpointRequest request = Checkpoint(a_, id, 5);
  ASSERT_TRUE(coordinator_->RecordCheckpoint(request).ok());
  ASSERT_TRUE(coordinator_->RecordCheckpoint(request).ok());
  EXPECT_THAT(*coordinator_->ListCheckpoints(id), SizeIs(1));
}

TEST_F(CoordinatorAttemptsTest, SkippedStepsAddUpOverAttempts) {
  Join(a_);
  const JobId id = Running(a_);
  a_.Trainer(id.name()).set_skipped_steps(2);
  ASSERT_TRUE(Sync(a_).ok());
  Fail(a_, id);
  Settle(a_);
  a_.Trainer(id.name()).set_skipped_steps(1);
  ASSERT_TRUE(Sync(a_).ok());
  EXPECT_EQ(Get(id).skipped_steps(), 3);
}

}  // namespace
}  // namespace sab::server
