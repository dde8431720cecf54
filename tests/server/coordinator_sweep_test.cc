// Sweeps with successive halving: waiting at a rung, going on, leaving; restarts in between.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "tests/server/coordinator_fixture.h"

namespace sab::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CoordinatorSweepTest : public CoordinatorFixture {
 protected:
  CoordinatorSweepTest() : agent_("workers/a", 8) { Join(agent_); }

  static v1::JobSpec Trial(int64_t trials) {
    v1::JobSpec spec = CopySpec();
    spec.mutable_queue()->set_group("sweep-x");
    v1::HalvingSpec& halving = *spec.mutable_halving();
    halving.set_trials(trials);
    halving.set_metric("accuracy");
    halving.set_factor(2);
    halving.add_rungs(10);
    halving.add_rungs(20);
    return spec;
  }
  std::vector<JobId> SubmitAll(int64_t trials) {
    std::vector<JobId> jobs;
    for (int64_t i = 0; i < trials; ++i) jobs.push_back(Submit(Trial(trials)));
    Settle(agent_);
    return jobs;
  }
  void RecordAt(const JobId& job, int64_t step, double figure) {
    v1::RecordCheckpointRequest request = Checkpoint(agent_, job, step);
    request.mutable_checkpoint()->set_ranked_figure(figure);
    const auto recorded = coordinator_->RecordCheckpoint(request);
    ASSERT_TRUE(recorded.ok()) << recorded.status();
    EXPECT_EQ(recorded->ranked_figure(), figure);
  }
  void End(const JobId& job, int64_t step, const std::string& why) {
    Set(agent_, job, v1::TRAINER_PHASE_SUCCEEDED, step);
    agent_.Trainer(job.name()).set_stop_reason(why);
    Settle(agent_);
    Background();
    Settle(agent_);
  }
  // The trainer has reached its rung, as it does it.
  void Reach(const JobId& job, double figure) {
    const int64_t rung = agent_.Assignment(job.name()).rung();
    ASSERT_GT(rung, 0) << State(job);
    RecordAt(job, rung, figure);
    End(job, rung, "rung");
  }
  // Whose trainers are told to go as far as the second rung.
  std::vector<bool> GoOn(const std::vector<JobId>& jobs) {
    std::vector<bool> on;
    for (const JobId& job : jobs) on.push_back(agent_.Assignment(job.name()).rung() == 20);
    return on;
  }

  FakeAgent agent_;
};

TEST_F(CoordinatorSweepTest, TheBestGoOnFromTheirCheckpointsAndTheOthersEndAtTheRung) {
  const std::vector<JobId> jobs = SubmitAll(4);
  EXPECT_EQ(agent_.Assignment(jobs[0].name()).rung(), 10);
  Reach(jobs[2], 0.3);
  EXPECT_FALSE(agent_.Runs(jobs[2].name())) << "it holds no slot while it waits";
  EXPECT_EQ(State(jobs[2]), v1::JOB_STATE_QUEUED);
  EXPECT_THAT(Get(jobs[2]).state_reason(), HasSubstr("waits at step 10 of its sweep: 1 of 4 are there"));
  EXPECT_EQ(Get(jobs[2]).attempts(0).end_reason(), "reached a rung of its sweep");
  Reach(jobs[0], 0.2);
  Reach(jobs[3], 0.1);
  EXPECT_THAT(Get(jobs[0]).state_reason(), HasSubstr("3 of 4 are there; among those to come: " + jobs[1].name()));
  EXPECT_THAT(coordinator_->ExplainJob(jobs[0])->reason(), HasSubstr("QUEUED: waits at step 10 of its sweep"));
  Reach(jobs[1], 0.9);

  EXPECT_THAT(GoOn(jobs), ElementsAre(false, true, true, false));
  EXPECT_EQ(agent_.Assignment(jobs[1].name()).resume_from().step(), 10);
  const v1::Job left = Get(jobs[0]);
  EXPECT_EQ(left.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(left.state_reason(), "left its sweep at step 10: 3rd of 4 by accuracy (0.2)");
  EXPECT_EQ(left.stop_reason(), "halving: " + left.state_reason());
  EXPECT_TRUE(left.has_end_time());
  EXPECT_EQ(coordinator_->ListCheckpoints(jobs[0])->size(), 1);

  Reach(jobs[1], 0.4);
  Reach(jobs[2], 0.5);
  EXPECT_EQ(Get(jobs[1]).state_reason(), "left its sweep at step 20: 2nd of 2 by accuracy (0.4)");
  EXPECT_EQ(agent_.Assignment(jobs[2].name()).rung(), 0);
  End(jobs[2], 100, "steps");
  EXPECT_EQ(Get(jobs[2]).stop_reason(), "steps");
}

TEST_F(CoordinatorSweepTest, TheOrderOfArrivalAndRestartsChangeNothing) {
  const double figures[] = {0.5, 0.7, 0.5, 0.1, 0.7, 0.5};
  for (const uint64_t seed : {1, 2, 3, 4}) {
    SCOPED_TRACE(seed);
    std::vector<JobId> jobs;
    for (int i = 0; i < 6; ++i) {
      v1::JobSpec spec = Trial(6);
      spec.mutable_queue()->set_group(absl::StrCat("sweep-", seed));
      jobs.push_back(Submit(spec));
    }
    Settle(agent_);
    std::vector<size_t> order(jobs.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::mt19937_64 random(seed);
    std::shuffle(order.begin(), order.end(), random);
    for (const size_t i : order) {
      Reach(jobs[i], figures[i]);
      if (random() % 2 == 0) continue;
      Start();
      Settle(agent_);
      Background();
      Settle(agent_);
    }
    // Of three with 0.5 the earliest.
    EXPECT_THAT(GoOn(jobs), ElementsAre(true, true, false, false, true, false));
    for (const JobId& job : jobs) (void)coordinator_->CancelJob(job);
    Settle(agent_);
  }
}

TEST_F(CoordinatorSweepTest, OneThatFailsOrIsCancelledLeavesItsPlaceToTheNext) {
  const std::vector<JobId> jobs = SubmitAll(4);
  Reach(jobs[0], 0.1);
  Reach(jobs[1], 0.2);
  ASSERT_TRUE(coordinator_->CancelJob(jobs[2]).ok());
  Settle(agent_);
  EXPECT_THAT(Get(jobs[0]).state_reason(), HasSubstr("2 of 3 are there"));
  Fail(agent_, jobs[3], /*permanent=*/true);
  Settle(agent_);
  EXPECT_THAT(GoOn(jobs), ElementsAre(true, true, false, false));
}

TEST_F(CoordinatorSweepTest, OneThatIsCancelledAtTheRungIsOut) {
  const std::vector<JobId> jobs = SubmitAll(2);
  Reach(jobs[0], 0.9);
  ASSERT_TRUE(coordinator_->CancelJob(jobs[0]).ok());
  Reach(jobs[1], 0.1);
  EXPECT_THAT(GoOn(jobs), ElementsAre(false, true));
}

TEST_F(CoordinatorSweepTest, OneThatHasSucceededKeepsItsPlaceWithoutASlot) {
  const std::vector<JobId> jobs = SubmitAll(4);
  RecordAt(jobs[0], 7, 0.8);
  End(jobs[0], 7, "stop_when: accuracy >= 0.8 at step 7");
  Reach(jobs[1], 0.9);
  Reach(jobs[2], 0.5);
  Reach(jobs[3], 0.4);
  EXPECT_THAT(GoOn(jobs), ElementsAre(false, true, false, false));
  EXPECT_EQ(Get(jobs[0]).stop_reason(), "stop_when: accuracy >= 0.8 at step 7");
  EXPECT_THAT(Get(jobs[2]).state_reason(), HasSubstr("3rd of 4"));
  // At the next rung one goes on, and it is the one that has ended.
  Reach(jobs[1], 0.7);
  EXPECT_THAT(Get(jobs[1]).state_reason(), HasSubstr("left its sweep at step 20: 2nd of 2"));
}

TEST_F(CoordinatorSweepTest, AFigureThatIsNotFiniteIsTheWorst) {
  const std::vector<JobId> jobs = SubmitAll(2);
  v1::RecordCheckpointRequest request = Checkpoint(agent_, jobs[0], 10);
  request.mutable_checkpoint()->set_ranked_figure(std::nan(""));
  ASSERT_TRUE(coordinator_->RecordCheckpoint(request).ok());
  End(jobs[0], 10, "rung");
  Reach(jobs[1], 0);
  EXPECT_THAT(GoOn(jobs), ElementsAre(false, true));
}

TEST_F(CoordinatorSweepTest, NobodyGoesOnBeforeAllAreSubmittedAndTheReasonSaysHow) {
  const JobId first = Submit(Trial(3));
  const JobId second = Submit(Trial(3));
  Settle(agent_);
  Reach(first, 0.1);
  Reach(second, 0.2);
  EXPECT_EQ(Get(first).state_reason(),
            "waits at step 10 of its sweep: 2 of 3 trials are submitted; submit the rest with `sabctl submit FILE "
            "--sweep sweep-x`, or cancel these");
  const JobId third = Submit(Trial(3));
  Settle(agent_);
  EXPECT_THAT(Get(first).state_reason(), HasSubstr("2 of 3 are there"));
  Reach(third, 0.3);
  EXPECT_THAT(GoOn({first, second, third}), ElementsAre(false, true, true));
}

TEST_F(CoordinatorSweepTest, ATrialThatIsTooManyOrDiffersIsRefused) {
  SubmitAll(2);
  v1::CreateJobRequest request;
  *request.mutable_spec() = Trial(2);
  EXPECT_THAT(coordinator_->CreateJob(request).status().message(), HasSubstr("has all of its 2 trials"));
  request.mutable_spec()->mutable_halving()->set_factor(4);
  EXPECT_THAT(coordinator_->CreateJob(request).status().message(), HasSubstr("must be as in jobs/"));
  request.mutable_spec()->mutable_queue()->set_group("another");
  EXPECT_TRUE(coordinator_->CreateJob(request).ok());
}

TEST_F(CoordinatorSweepTest, TrialsAreDeletedTogetherAlone) {
  const std::vector<JobId> jobs = SubmitAll(2);
  Reach(jobs[0], 0.9);
  Reach(jobs[1], 0.1);
  ASSERT_EQ(State(jobs[1]), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(ReasonOf(coordinator_->DeleteJob(jobs[1])), "JOB_NEEDED");
  ASSERT_TRUE(coordinator_->CancelJob(jobs[0]).ok());
  EXPECT_TRUE(coordinator_->DeleteJob(jobs[1]).ok());
  EXPECT_TRUE(coordinator_->DeleteJob(jobs[0]).ok());
}

TEST_F(CoordinatorSweepTest, AFaultAfterTheRungIsStoredCostsNothing) {
  v1::JobSpec spec = Trial(2);
  spec.mutable_queue()->set_max_restarts(0);
  const JobId a = Submit(spec), b = Submit(spec);
  Settle(agent_);
  RecordAt(a, 10, 0.4);
  Fail(agent_, a);
  EXPECT_EQ(State(a), v1::JOB_STATE_QUEUED);
  EXPECT_THAT(Get(a).state_reason(), HasSubstr("waits at step 10 of its sweep: 1 of 2 are there"));
  Background();
  Settle(agent_);
  EXPECT_FALSE(agent_.Runs(a.name()));
  Reach(b, 0.3);
  EXPECT_THAT(GoOn({a, b}), ElementsAre(true, false));
}

TEST_F(CoordinatorSweepTest, ACoordinatorThatIsKilledBetweenTheCheckpointAndTheEndHearsOfTheEnd) {
  const std::vector<JobId> jobs = SubmitAll(2);
  Reach(jobs[1], 0.3);
  RecordAt(jobs[0], 10, 0.4);
  Set(agent_, jobs[0], v1::TRAINER_PHASE_SUCCEEDED, 10);
  agent_.Trainer(jobs[0].name()).set_stop_reason("rung");
  Start();
  EXPECT_EQ(State(jobs[0]), v1::JOB_STATE_UNREACHABLE);
  Settle(agent_);
  Background();
  Settle(agent_);
  EXPECT_THAT(GoOn(jobs), ElementsAre(true, false));
}

TEST_F(CoordinatorSweepTest, ARungWithoutItsFigureIsAFault) {
  const std::vector<JobId> jobs = SubmitAll(2);
  Record(agent_, jobs[0], 10);
  End(jobs[0], 10, "rung");
  EXPECT_THAT(Get(jobs[0]).attempts(0).end_reason(), HasSubstr("without a figure"));
  EXPECT_EQ(agent_.Assignment(jobs[0].name()).rung(), 10);
}

TEST_F(CoordinatorSweepTest, OneThatIsPausedAtTheRungIsRankedAndGoesOnWhenItIsResumed) {
  const std::vector<JobId> jobs = SubmitAll(2);
  Reach(jobs[0], 0.9);
  EXPECT_EQ(coordinator_->PauseJob(jobs[0])->state(), v1::JOB_STATE_PAUSED);
  Reach(jobs[1], 0.1);
  EXPECT_EQ(State(jobs[1]), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(State(jobs[0]), v1::JOB_STATE_PAUSED);
  ASSERT_TRUE(coordinator_->ResumeJob(jobs[0]).ok());
  Background();
  Settle(agent_);
  EXPECT_THAT(GoOn(jobs), ElementsAre(true, false));
}

TEST_F(CoordinatorSweepTest, OneThatIsAskedToLeaveAtItsRungWaitsThere) {
  const std::vector<JobId> jobs = SubmitAll(2);
  Set(agent_, jobs[0], v1::TRAINER_PHASE_TRAINING, 9);
  ASSERT_TRUE(Sync(agent_).ok());
  ASSERT_TRUE(coordinator_->DrainWorker(*ParseWorkerName("workers/a"), true, true).ok());
  RecordAt(jobs[0], 10, 0.5);
  End(jobs[0], 10, "leave");
  EXPECT_EQ(State(jobs[0]), v1::JOB_STATE_QUEUED);
  EXPECT_THAT(Get(jobs[0]).state_reason(), HasSubstr("waits at step 10 of its sweep"));
}

TEST_F(CoordinatorSweepTest, OneThatWaitsAtTheRungMakesRoomInItsGroup) {
  std::vector<JobId> jobs;
  for (int i = 0; i < 3; ++i) {
    v1::JobSpec spec = Trial(3);
    spec.mutable_queue()->set_max_parallel(1);
    jobs.push_back(Submit(spec));
  }
  Settle(agent_);
  EXPECT_FALSE(agent_.Runs(jobs[1].name()));
  Reach(jobs[0], 0.1);
  EXPECT_TRUE(agent_.Runs(jobs[1].name()));
  Reach(jobs[1], 0.2);
  Reach(jobs[2], 0.3);
  // Two go on, one at a time.
  EXPECT_THAT(GoOn(jobs), ElementsAre(false, true, false));
  Reach(jobs[1], 0.2);
  EXPECT_THAT(GoOn(jobs), ElementsAre(false, false, true));
}

TEST_F(CoordinatorSweepTest, WhatIsDecidedOutlivesARestart) {
  const std::vector<JobId> jobs = SubmitAll(2);
  Reach(jobs[0], 0.9);
  Reach(jobs[1], 0.1);
  Start();
  EXPECT_EQ(Get(jobs[0]).halving().passed(), 1);
  EXPECT_EQ(Get(jobs[1]).halving().passed(), 0);
  EXPECT_EQ(Get(jobs[1]).state_reason(), "left its sweep at step 10: 2nd of 2 by accuracy (0.1)");
}

}  // namespace
}  // namespace sab::server
