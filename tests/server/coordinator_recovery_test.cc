// Recovery from the memory of the processes that survive, and what it reports of itself.
#include <gmock/gmock.h>

#include <filesystem>
#include <tuple>

#include "server/coordinator/text.h"
#include "tests/server/coordinator_fixture.h"

namespace sab::server {
namespace {

using ::testing::HasSubstr;

class CoordinatorRecoveryTest : public CoordinatorFixture {
 protected:
  CoordinatorRecoveryTest() {
    Join(a_);
    Join(b_);
    job_ = Submit(CopySpec(2));
    Settle(a_);
    Settle(b_);
    Train(a_, 0, 10);
    Train(b_, 1, 10);
    EXPECT_EQ(State(job_), v1::JOB_STATE_RUNNING);
  }
  void Train(FakeAgent& agent, int32_t rank, int64_t step, bool holds_state = true) {
    Set(agent, job_, v1::TRAINER_PHASE_TRAINING, step, rank);
    v1::TrainerPulse& pulse = *agent.Trainer(job_.name(), rank).mutable_pulse();
    pulse.set_activity(v1::TRAINER_ACTIVITY_COLLECTIVE);
    pulse.set_holds_state(holds_state);
    ASSERT_TRUE(Sync(agent).ok());
  }
  void Prepare(FakeAgent& agent, int32_t rank, bool holds_state) {
    Set(agent, job_, v1::TRAINER_PHASE_PREPARING, 0, rank);
    agent.Trainer(job_.name(), rank).mutable_pulse()->set_holds_state(holds_state);
    ASSERT_TRUE(Sync(agent).ok());
  }
  void Restore(FakeAgent& agent, int32_t rank, int64_t step, int32_t source) {
    v1::Restoration& restored = *agent.Trainer(job_.name(), rank).mutable_restored();
    restored.set_step(step);
    restored.set_replaces_after(step);
    restored.set_source_rank(source);
    ASSERT_TRUE(Sync(agent).ok());
  }
  static int64_t Milliseconds(const google::protobuf::Duration& duration) {
    return absl::ToInt64Milliseconds(FromProto(duration));
  }

  FakeAgent a_{"workers/a", 1};
  FakeAgent b_{"workers/b", 1};
  JobId job_;
};

TEST_F(CoordinatorRecoveryTest, TheNextAttemptStartsAtOnceAroundTheSurvivor) {
  Fail(b_, job_, false, 1);
  const v1::Job job = Get(job_);
  EXPECT_EQ(job.state(), v1::JOB_STATE_STARTING);
  ASSERT_EQ(job.attempt_count(), 2);
  EXPECT_EQ(job.attempts(1).recovery_source(), "memory");
  EXPECT_EQ(job.attempts(1).placements(0).worker(), "workers/a");
  EXPECT_EQ(job.attempts(1).placements(1).worker(), "workers/b");
  ASSERT_TRUE(Sync(a_).ok());
  EXPECT_TRUE(a_.Assignment(job_.name(), 0).from_memory());
  EXPECT_FALSE(a_.Assignment(job_.name(), 0).has_resume_from());
  EXPECT_EQ(a_.Assignment(job_.name(), 0).id().attempt(), 2);
}

TEST_F(CoordinatorRecoveryTest, EachPhaseIsMeasuredAndNoStepIsLostThatTheSurvivorHas) {
  b_.Trainer(job_.name(), 1).set_fault_age_seconds(0.25);
  Fail(b_, job_, false, 1);
  ASSERT_TRUE(Sync(a_).ok());
  ASSERT_TRUE(Sync(b_).ok());
  clock_.Advance(absl::Milliseconds(10));
  Prepare(a_, 0, true);
  clock_.Advance(absl::Milliseconds(20));
  Prepare(b_, 1, false);
  clock_.Advance(absl::Milliseconds(30));
  Restore(a_, 0, 9, 0);
  Restore(b_, 1, 9, 0);
  clock_.Advance(absl::Milliseconds(40));
  Train(a_, 0, 10);
  const v1::Job job = Get(job_);
  EXPECT_EQ(job.state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(job.step(), 10);
  const v1::Attempt& attempt = job.attempts(1);
  EXPECT_EQ(attempt.recovery_source(), "memory of rank 0");
  EXPECT_EQ(attempt.start_step(), 9);
  EXPECT_EQ(attempt.recovery().cause(), "failed");
  EXPECT_EQ(attempt.recovery().lost_steps(), 1);
  EXPECT_EQ(Milliseconds(attempt.recovery().detect()), 250);
  EXPECT_EQ(Milliseconds(attempt.recovery().stop()), 10);
  EXPECT_EQ(Milliseconds(attempt.recovery().start()), 20);
  EXPECT_EQ(Milliseconds(attempt.recovery().restore()), 30);
  EXPECT_EQ(Milliseconds(attempt.recovery().first_step()), 40);
}

TEST_F(CoordinatorRecoveryTest, AHungRankIsNamedAndCounted) {
  b_.Trainer(job_.name(), 1).set_hung(true);
  Fail(b_, job_, false, 1);
  EXPECT_THAT(Get(job_).attempts(0).end_reason(), HasSubstr("rank 1 on workers/b"));
  EXPECT_EQ(Get(job_).attempts(1).recovery().cause(), "hung");
}

TEST_F(CoordinatorRecoveryTest, AnAttemptFromMemoryThatFindsNoneLeftGoesToTheDiskAndCostsNoFurtherRestart) {
  Record(a_, job_, 5);
  Fail(b_, job_, false, 1);
  ASSERT_TRUE(Sync(a_).ok());
  ASSERT_TRUE(Sync(b_).ok());
  Prepare(a_, 0, false);
  Prepare(b_, 1, false);
  Fail(a_, job_, false, 0);
  EXPECT_EQ(State(job_), v1::JOB_STATE_RECOVERING);
  EXPECT_THAT(Get(job_).state_reason(), HasSubstr("costs no restart"));
  Background();
  Settle(a_);
  Settle(b_);
  Settle(a_);
  EXPECT_EQ(Get(job_).attempt_count(), 3);
  EXPECT_EQ(Get(job_).attempts(2).start_step(), 5);
  EXPECT_EQ(Get(job_).attempts(2).recovery().lost_steps(), 5);
}

TEST_F(CoordinatorRecoveryTest, ALostWorkersRankMovesToAFreeSlotAndTheSurvivorStays) {
  FakeAgent c("workers/c", 1);
  Join(c);
  for (int i = 0; i < 4; ++i) {
    Advance(kLease / 4);
    ASSERT_TRUE(Sync(a_).ok());
    ASSERT_TRUE(Sync(c).ok());
  }
  const v1::Job job = Get(job_);
  ASSERT_EQ(job.attempt_count(), 2) << job.state_reason();
  EXPECT_EQ(job.attempts(1).placements(0).worker(), "workers/a");
  EXPECT_EQ(job.attempts(1).placements(1).worker(), "workers/c");
  EXPECT_EQ(job.attempts(1).recovery_source(), "memory");
  EXPECT_EQ(job.attempts(1).recovery().cause(), "lost");
}

// Loses worker b while c has a free slot and a job of two ranks waits that needs more than that.
class CoordinatorContendedRecoveryTest : public CoordinatorRecoveryTest {
 protected:
  void LoseWorkerWhileAnotherWaits(int64_t priority) {
    Join(c_);
    v1::JobSpec spec = CopySpec(2);
    spec.mutable_queue()->set_priority(priority);
    waiting_ = Submit(spec);
    EXPECT_EQ(State(waiting_), v1::JOB_STATE_QUEUED);
    for (int i = 0; i < 4; ++i) {
      Advance(kLease / 4);
      ASSERT_TRUE(Sync(a_).ok());
      ASSERT_TRUE(Sync(c_).ok());
    }
  }
  FakeAgent c_{"workers/c", 1};
  JobId waiting_;
};

TEST_F(CoordinatorContendedRecoveryTest, AJobThatGoesAfterThisOneTakesNoMemoryFromIt) {
  LoseWorkerWhileAnotherWaits(Get(job_).spec().queue().priority());
  const v1::Job job = Get(job_);
  ASSERT_EQ(job.attempt_count(), 2) << job.state_reason();
  EXPECT_EQ(job.attempts(1).recovery_source(), "memory");
  EXPECT_EQ(job.attempts(1).placements(1).worker(), "workers/c");
  EXPECT_EQ(State(waiting_), v1::JOB_STATE_QUEUED);
}

TEST_F(CoordinatorContendedRecoveryTest, AJobThatGoesBeforeThisOneHasTheFreeSlot) {
  LoseWorkerWhileAnotherWaits(Get(job_).spec().queue().priority() + 10);
  Settle(a_);
  Settle(c_);
  EXPECT_EQ(Get(job_).attempt_count(), 1) << Get(job_).state_reason();
  EXPECT_EQ(State(job_), v1::JOB_STATE_RECOVERING);
  EXPECT_EQ(State(waiting_), v1::JOB_STATE_STARTING);
}

TEST_F(CoordinatorRecoveryTest, RanksThatLostEachOtherGoOnTogether) {
  for (auto [agent, rank] : {std::pair{&a_, 0}, std::pair{&b_, 1}}) {
    EXPECT_EQ(Get(job_).attempt_count(), 1);
    agent->Trainer(job_.name(), rank).mutable_pulse()->set_activity(v1::TRAINER_ACTIVITY_INTERRUPTED);
    ASSERT_TRUE(Sync(*agent).ok());
  }
  EXPECT_EQ(Get(job_).attempt_count(), 2);
  EXPECT_EQ(Get(job_).attempts(0).end_reason(), "all ranks lost the connections to their peers");
  EXPECT_EQ(Get(job_).attempts(1).recovery_source(), "memory");
}

TEST_F(CoordinatorRecoveryTest, ARankThatIsNeverStartedHasADeadline) {
  FakeAgent c("workers/c", 1);
  Join(c);
  const JobId other = Submit();
  // It is told, and goes on as if it had not been.
  v1::SynchronizeRequest deaf = c.Request();
  ASSERT_TRUE(coordinator_->Report(deaf).ok());
  ASSERT_TRUE(coordinator_->Desired(deaf, /*force=*/true).ok());
  for (int i = 0; i < 13; ++i) {
    EXPECT_EQ(Get(other).attempt_count(), 1);
    Advance(absl::Seconds(5));
    deaf.set_sequence(deaf.sequence() + 1);
    ASSERT_TRUE(coordinator_->Report(deaf).ok());
    ASSERT_TRUE(Sync(a_).ok());
    ASSERT_TRUE(Sync(b_).ok());
    if (Get(other).attempts(0).has_end_time()) break;
  }
  EXPECT_THAT(Get(other).attempts(0).end_reason(), HasSubstr("was assigned and not started within 1m"));
}

TEST_F(CoordinatorRecoveryTest, TheRankThatTheOthersWaitForIsShownAsAStraggler) {
  for (auto [agent, rank, compute] : {std::tuple{&a_, 0, 0.3}, std::tuple{&b_, 1, 0.1}}) {
    v1::TrainerPulse& pulse = *agent->Trainer(job_.name(), rank).mutable_pulse();
    pulse.set_compute_seconds(compute);
    pulse.set_wait_seconds(0.31 - compute);
    ASSERT_TRUE(Sync(*agent).ok());
  }
  const v1::Job job = Get(job_);
  ASSERT_EQ(job.ranks_size(), 2);
  EXPECT_TRUE(job.ranks(0).straggler());
  EXPECT_FALSE(job.ranks(1).straggler());
  EXPECT_EQ(job.ranks(1).activity(), "collective");
}

TEST_F(CoordinatorRecoveryTest, ATrainedAttemptResetsTheBackOff) {
  for (int64_t attempt = 1; attempt <= 3; ++attempt) {
    Fail(b_, job_, false, 1);
    EXPECT_EQ(Get(job_).attempt_count(), attempt + 1);
    ASSERT_TRUE(Sync(a_).ok());
    ASSERT_TRUE(Sync(b_).ok());
    Train(a_, 0, 10 + attempt);
    Train(b_, 1, 10 + attempt);
  }
}

TEST_F(CoordinatorRecoveryTest, LeftoversOfEndedAttemptsAreRemovedAndTheRestStays) {
  Record(a_, job_, 5);
  Checkpoint(a_, job_, 6);  // written, and never recorded
  const std::string parent = CheckpointParent(checkpoint_dir(), job_.name());
  std::filesystem::create_directory(parent + "/.000000000007-a1.tmp-99");
  Background();
  EXPECT_TRUE(std::filesystem::exists(parent + "/" + MakeCheckpointId(6, 1)));  // the attempt may still record it
  ASSERT_TRUE(coordinator_->CancelJob(job_).ok());
  Background();
  EXPECT_TRUE(std::filesystem::exists(parent + "/" + MakeCheckpointId(5, 1)));
  EXPECT_FALSE(std::filesystem::exists(parent + "/" + MakeCheckpointId(6, 1)));
  EXPECT_FALSE(std::filesystem::exists(parent + "/.000000000007-a1.tmp-99"));
}

}  // namespace
}  // namespace sab::server
