// Jobs that may run with fewer replicas: what becomes of them when ranks are lost, and when slots come free.
#include <gmock/gmock.h>

#include "server/scheduling/queue_file.h"
#include "tests/server/coordinator_fixture.h"

namespace sab::server {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class CoordinatorElasticTest : public CoordinatorFixture {
 protected:
  static v1::JobSpec Elastic(int64_t least, int64_t most) {
    v1::JobSpec spec = CopySpec(static_cast<int>(most));
    spec.mutable_resources()->set_min_replicas(least);
    return spec;
  }
  // The rank trains at `step` and holds the state.
  void Train(FakeAgent& agent, const JobId& job, int32_t rank, int64_t step) {
    Set(agent, job, v1::TRAINER_PHASE_TRAINING, step, rank);
    v1::TrainerPulse& pulse = *agent.Trainer(job.name(), rank).mutable_pulse();
    pulse.set_activity(v1::TRAINER_ACTIVITY_STEP);
    pulse.set_holds_state(true);
    ASSERT_TRUE(Sync(agent).ok());
  }
  // Submitted with `a_` and `b_` there, running on both.
  JobId RunOnBoth() {
    Join(a_);
    Join(b_);
    const JobId job = Submit(Elastic(1, 2));
    Settle(a_);
    Settle(b_);
    Train(a_, job, 0, 10);
    Train(b_, job, 1, 10);
    EXPECT_EQ(State(job), v1::JOB_STATE_RUNNING);
    return job;
  }
  // `survivor` goes on calling, the other one does not, until its lease is over.
  void LoseTheOther(FakeAgent& survivor) {
    for (int i = 0; i < 3; ++i) {
      Advance(absl::Seconds(4));
      ASSERT_TRUE(Sync(survivor).ok());
    }
  }

  FakeAgent a_{"workers/a", 1};
  FakeAgent b_{"workers/b", 1};
};

TEST_F(CoordinatorElasticTest, StartsWithTheSlotsThereAre) {
  Join(a_);
  const JobId job = Submit(Elastic(1, 2));
  EXPECT_EQ(State(job), v1::JOB_STATE_STARTING);
  EXPECT_EQ(Get(job).attempts(0).placements_size(), 1);
  Settle(a_);
  EXPECT_EQ(a_.Assignment(job.name(), 0).world_size(), 1);
  Train(a_, job, 0, 1);
  EXPECT_EQ(Get(job).state_reason(), "runs with 1 of 2 replicas: no free slot");
  EXPECT_THAT(coordinator_->ExplainJob(job)->reason(), HasSubstr("runs with 1 of 2 replicas: no free slot"));
  const JobId fixed = Submit(CopySpec(2));
  EXPECT_EQ(State(fixed), v1::JOB_STATE_QUEUED);
}

TEST_F(CoordinatorElasticTest, GoesOnWithTheSurvivorWhenAWorkerIsLost) {
  const JobId job = RunOnBoth();
  LoseTheOther(a_);
  const v1::Job now = Get(job);
  EXPECT_EQ(now.state(), v1::JOB_STATE_STARTING);
  ASSERT_EQ(now.attempt_count(), 2);
  ASSERT_EQ(now.attempts(1).placements_size(), 1);
  EXPECT_EQ(now.attempts(1).placements(0).worker(), "workers/a");
  EXPECT_EQ(now.attempts(1).recovery_source(), "memory");
  EXPECT_EQ(a_.Assignment(job.name(), 0).world_size(), 1);
  EXPECT_TRUE(a_.Assignment(job.name(), 0).from_memory());
  Train(a_, job, 0, 11);
  EXPECT_EQ(Get(job).state_reason(), "runs with 1 of 2 replicas: no free slot");
}

TEST_F(CoordinatorElasticTest, TheSurvivorMayBeTheSecondRankAndBecomesTheFirst) {
  const JobId job = RunOnBoth();
  LoseTheOther(b_);
  ASSERT_EQ(Get(job).attempt_count(), 2);
  EXPECT_EQ(b_.Assignment(job.name(), 0).id().attempt(), 2);
  EXPECT_EQ(b_.Assignment(job.name(), 0).world_size(), 1);
  EXPECT_TRUE(b_.Assignment(job.name(), 0).from_memory());
}

TEST_F(CoordinatorElasticTest, ARankWhoseSlotIsThereIsReplacedAndNotGivenUp) {
  const JobId job = RunOnBoth();
  Fail(b_, job, false, 1);
  EXPECT_EQ(Get(job).attempts(1).placements_size(), 2);
}

TEST_F(CoordinatorElasticTest, AJobThatIsNotElasticWaitsForItsRanks) {
  Join(a_);
  Join(b_);
  const JobId job = Submit(CopySpec(2));
  Settle(a_);
  Settle(b_);
  Train(a_, job, 0, 10);
  Train(b_, job, 1, 10);
  LoseTheOther(a_);
  EXPECT_EQ(State(job), v1::JOB_STATE_RECOVERING);
  EXPECT_EQ(Get(job).attempt_count(), 1);
}

TEST_F(CoordinatorElasticTest, GrowsWhenTheWorkerIsBackAndTheAttemptHasSettled) {
  const JobId job = RunOnBoth();
  LoseTheOther(a_);
  Train(a_, job, 0, 20);
  b_.Restart();
  Join(b_);
  EXPECT_EQ(Get(job).state_reason(), "runs with 1 of 2 replicas: grows soon");
  for (int i = 0; i < 2; ++i) {
    Advance(absl::Seconds(4));
    ASSERT_TRUE(Sync(a_).ok());
    ASSERT_TRUE(Sync(b_).ok());
  }
  EXPECT_EQ(Get(job).attempt_count(), 2);
  Advance(absl::Seconds(3));
  const v1::Job now = Get(job);
  ASSERT_EQ(now.attempt_count(), 3);
  EXPECT_EQ(now.attempts(1).end_reason(), "grows from 1 to 2 replicas");
  EXPECT_EQ(now.attempts(2).placements_size(), 2);
  EXPECT_EQ(now.attempts(2).placements(0).worker(), "workers/a");
  EXPECT_EQ(now.attempts(2).recovery_source(), "memory");
  EXPECT_EQ(now.attempts(2).recovery().cause(), "resized");
  EXPECT_EQ(now.attempts(2).start_step(), 20);
  ASSERT_TRUE(Sync(a_).ok());
  ASSERT_TRUE(Sync(b_).ok());
  EXPECT_EQ(b_.Assignment(job.name(), 1).world_size(), 2);
  EXPECT_TRUE(b_.Assignment(job.name(), 1).from_memory());
  Train(a_, job, 0, 21);
  Train(b_, job, 1, 21);
  EXPECT_EQ(State(job), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Get(job).state_reason(), "");
}

TEST_F(CoordinatorElasticTest, GrowingCostsNoRestart) {
  v1::JobSpec spec = Elastic(1, 2);
  spec.mutable_queue()->set_max_restarts(0);
  Join(a_);
  const JobId job = Submit(spec);
  Settle(a_);
  Train(a_, job, 0, 1);
  clock_.Advance(absl::Seconds(4));
  ASSERT_TRUE(Sync(a_).ok());
  Join(b_);
  Advance(absl::Seconds(4));
  ASSERT_TRUE(Sync(a_).ok());
  ASSERT_TRUE(Sync(b_).ok());
  Advance(absl::Seconds(3));
  EXPECT_EQ(State(job), v1::JOB_STATE_STARTING);
  EXPECT_EQ(Get(job).attempt_count(), 2);
}

TEST_F(CoordinatorElasticTest, AJobThatWaitsGetsTheSlotFirst) {
  Join(a_);
  const JobId job = Submit(Elastic(1, 2));
  Settle(a_);
  Train(a_, job, 0, 1);
  const JobId waiting = Submit(CopySpec(1));
  clock_.Advance(absl::Seconds(9));
  ASSERT_TRUE(Sync(a_).ok());
  Advance(absl::Seconds(9));
  ASSERT_TRUE(Sync(a_).ok());
  Join(b_);
  EXPECT_EQ(State(waiting), v1::JOB_STATE_STARTING);
  EXPECT_EQ(Get(job).attempt_count(), 1);
  EXPECT_EQ(Get(job).state_reason(), "runs with 1 of 2 replicas: no free slot");
}

TEST_F(CoordinatorElasticTest, GivesARankBackToAJobThatWaitsAndLosesNothing) {
  const JobId job = RunOnBoth();
  const JobId waiting = Submit(CopySpec(1));
  EXPECT_EQ(State(waiting), v1::JOB_STATE_QUEUED);
  for (int i = 0; i < 3; ++i) {
    Advance(absl::Seconds(4));
    ASSERT_TRUE(Sync(a_).ok());
    ASSERT_TRUE(Sync(b_).ok());
  }
  const v1::Job now = Get(job);
  ASSERT_EQ(now.attempt_count(), 2);
  EXPECT_EQ(now.attempts(0).end_reason(), absl::StrCat("shrinks from 2 to 1 replicas for ", waiting.name()));
  ASSERT_EQ(now.attempts(1).placements_size(), 1);
  EXPECT_EQ(now.attempts(1).placements(0).worker(), "workers/a");
  EXPECT_EQ(now.attempts(1).recovery_source(), "memory");
  EXPECT_EQ(now.attempts(1).recovery().cause(), "resized");
  EXPECT_EQ(now.attempts(1).start_step(), 10);
  EXPECT_EQ(a_.Assignment(job.name(), 0).world_size(), 1);
  // The rank that is given up ends, and its slot goes to the one that waited.
  Settle(b_);
  EXPECT_EQ(State(waiting), v1::JOB_STATE_STARTING);
  EXPECT_EQ(Get(waiting).attempts(0).placements(0).worker(), "workers/b");
  Train(a_, job, 0, 11);
  EXPECT_EQ(State(job), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Get(job).state_reason(), "runs with 1 of 2 replicas: no free slot");
}

TEST_F(CoordinatorElasticTest, GivesItsPartOfTheQuotaToAJobOfItsQueueThatWaits) {
  queues_ = *ParseQueues("queues: [{name: default, quota: {cpu: 2}}]");
  Start();
  FakeAgent c("workers/c", 1);
  const JobId job = RunOnBoth();
  Join(c);
  const JobId waiting = Submit(CopySpec(1));
  EXPECT_THAT(coordinator_->ExplainJob(waiting)->reason(), HasSubstr("waits for the quota"));
  for (int i = 0; i < 3; ++i) {
    Advance(absl::Seconds(4));
    for (FakeAgent* agent : {&a_, &b_, &c}) ASSERT_TRUE(Sync(*agent).ok());
  }
  EXPECT_EQ(Get(job).attempts(0).end_reason(), absl::StrCat("shrinks from 2 to 1 replicas for ", waiting.name()));
  EXPECT_EQ(State(waiting), v1::JOB_STATE_STARTING);
  Settle(b_);
  Train(a_, job, 0, 11);
  EXPECT_EQ(State(job), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(Get(job).state_reason(), "runs with 1 of 2 replicas: queue default uses its quota of 2");
}

TEST_F(CoordinatorElasticTest, ARestartedCoordinatorKnowsHowManyRanksItHas) {
  Join(a_);
  const JobId job = Submit(Elastic(1, 2));
  Settle(a_);
  Train(a_, job, 0, 1);
  Start();
  Settle(a_);
  EXPECT_EQ(State(job), v1::JOB_STATE_RUNNING);
  Train(a_, job, 0, 2);
  EXPECT_THAT(Get(job).state_reason(), StartsWith("runs with 1 of 2 replicas"));
}

}  // namespace
}  // namespace sab::server
