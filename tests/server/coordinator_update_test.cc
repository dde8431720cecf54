// Settings that are changed while a job trains.
#include <gmock/gmock.h>

#include "common/base/status.h"
#include "common/spec/spec_file.h"
#include "common/spec/update.h"
#include "tests/server/coordinator_fixture.h"

namespace sab::server {
namespace {

using ::testing::HasSubstr;

class CoordinatorUpdateTest : public CoordinatorFixture {
 protected:
  CoordinatorUpdateTest() { Join(agent_); }

  absl::Status Update(const JobId& job, const std::string& assignment) {
    Advance(absl::Seconds(1));
    EXPECT_TRUE(Sync(agent_).ok());
    v1::UpdateJobRequest request;
    request.set_name(job.name());
    EXPECT_TRUE(spec::ApplyOverride(assignment, request.mutable_spec()).ok());
    request.mutable_update_mask()->add_paths(assignment.substr(0, assignment.find('=')));
    return coordinator_->UpdateJob(request).status();
  }
  // At `step`, with the state in memory.
  void Train(const JobId& job, int64_t step) {
    Set(agent_, job, v1::TRAINER_PHASE_TRAINING, step);
    agent_.Trainer(job.name()).mutable_pulse()->set_holds_state(true);
    ASSERT_TRUE(Sync(agent_).ok());
  }
  // The process goes on as the next attempt's trainer, whose ranks have agreed on `step`.
  void GoOn(const JobId& job, int64_t step) {
    Settle(agent_);
    v1::TrainerStatus& trainer = agent_.Trainer(job.name());
    trainer.set_phase(v1::TRAINER_PHASE_TRAINING);
    trainer.mutable_restored()->set_step(step);
    trainer.mutable_restored()->set_replaces_after(step);
    trainer.mutable_restored()->set_source_rank(0);
    ASSERT_TRUE(Sync(agent_).ok());
  }

  FakeAgent agent_{"workers/w1", 2};
};

TEST_F(CoordinatorUpdateTest, ARunningJobGoesOnFromItsMemoryAndTheStepIsStored) {
  const JobId job = Running(agent_);
  Train(job, 57);
  ASSERT_TRUE(Update(job, "train.learning_rate=0.5").ok());
  // Durable before it was answered.
  EXPECT_EQ(Get(job).spec().train().learning_rate(), 0.5);
  EXPECT_EQ(Get(job).attempt_count(), 2);
  EXPECT_EQ(Get(job).attempts(0).end_reason(), "settings changed: train.learning_rate");
  ASSERT_EQ(Get(job).changes_size(), 1);
  EXPECT_FALSE(Get(job).changes(0).has_after_step());
  Settle(agent_);
  const v1::TrainerAssignment assignment = agent_.Assignment(job.name());
  EXPECT_TRUE(assignment.from_memory());
  EXPECT_EQ(assignment.spec().train().learning_rate(), 0.5);
  ASSERT_EQ(assignment.changes_size(), 1);
  EXPECT_EQ(assignment.changes(0).before().train().learning_rate(), 1e-3);
  GoOn(job, 58);
  EXPECT_EQ(Get(job).changes(0).after_step(), 58);
  EXPECT_EQ(Get(job).attempts(1).recovery().lost_steps(), 0);
  Start();
  EXPECT_EQ(Get(job).changes(0).after_step(), 58);
  // Whoever starts from an older checkpoint is told when it began.
  Join(agent_);
  EXPECT_EQ(agent_.Assignment(job.name()).changes(0).after_step(), 58);
}

TEST_F(CoordinatorUpdateTest, ARestartFromAnOlderCheckpointIsToldWhenTheChangeBegan) {
  const JobId job = Running(agent_);
  Record(agent_, job, 50);
  Train(job, 80);
  ASSERT_TRUE(Update(job, "model.k_top=9").ok());
  GoOn(job, 81);
  Fail(agent_, job);
  Background();
  Settle(agent_);
  Settle(agent_);
  const v1::TrainerAssignment assignment = agent_.Assignment(job.name());
  EXPECT_EQ(assignment.resume_from().step(), 50);
  EXPECT_EQ(assignment.changes(0).after_step(), 81);
  EXPECT_EQ(assignment.changes(0).before().model().k_top(), 5);
}

TEST_F(CoordinatorUpdateTest, AJobThatWaitsTakesTheChangeWhereItStarts) {
  v1::JobSpec large = CopySpec(3);
  const JobId job = Submit(large);
  ASSERT_TRUE(Update(job, "task.length=7").ok());
  EXPECT_EQ(Get(job).attempt_count(), 0);
  FakeAgent more("workers/w2", 2);
  Join(more);
  Settle(agent_);
  EXPECT_EQ(State(job), v1::JOB_STATE_STARTING);
  EXPECT_EQ(Get(job).changes(0).after_step(), 0);
}

TEST_F(CoordinatorUpdateTest, WhatTheCoordinatorAloneReadsDisturbsNoAttempt) {
  const JobId job = Running(agent_);
  ASSERT_TRUE(Update(job, "checkpoint.keep_latest=7").ok());
  ASSERT_TRUE(Update(job, "train.learning_rate=0.001").ok());  // as it is
  EXPECT_EQ(Get(job).attempt_count(), 1);
  EXPECT_EQ(Get(job).changes_size(), 0);
  EXPECT_EQ(Get(job).spec().checkpoint().keep_latest(), 7);
}

TEST_F(CoordinatorUpdateTest, AJobThatCannotBeReachedIsRenewedWhenItsWorkersAreBack) {
  const JobId job = Running(agent_);
  Train(job, 20);
  Advance(kLease * 0.6);
  ASSERT_EQ(State(job), v1::JOB_STATE_UNREACHABLE);
  v1::UpdateJobRequest request;
  request.set_name(job.name());
  request.mutable_spec()->mutable_train()->set_learning_rate(0.5);
  request.mutable_update_mask()->add_paths("train.learning_rate");
  ASSERT_TRUE(coordinator_->UpdateJob(request).ok());
  EXPECT_EQ(Get(job).attempt_count(), 1);
  // Meanwhile nobody of the attempt hears of it: ranks that ask later get what the others have.
  const auto desired = coordinator_->Desired(agent_.Request(), /*force=*/true);
  EXPECT_EQ((*desired)->desired(0).spec().train().learning_rate(), 1e-3);
  EXPECT_EQ((*desired)->desired(0).changes_size(), 0);
  ASSERT_TRUE(Sync(agent_).ok());
  EXPECT_EQ(Get(job).attempt_count(), 2);
  GoOn(job, 20);
  EXPECT_EQ(Get(job).changes(0).after_step(), 20);
}

// Which changes an attempt knows does not depend on what the wall clock says of either.
TEST_F(CoordinatorUpdateTest, AClockSetBackBeforeAChangeDoesNotMakeItKnown) {
  const JobId job = Running(agent_);
  Train(job, 20);
  Advance(kLease * 0.6);
  ASSERT_EQ(State(job), v1::JOB_STATE_UNREACHABLE);
  clock_.StepWall(-absl::Hours(1));
  v1::UpdateJobRequest request;
  request.set_name(job.name());
  request.mutable_spec()->mutable_train()->set_learning_rate(0.5);
  request.mutable_update_mask()->add_paths("train.learning_rate");
  ASSERT_TRUE(coordinator_->UpdateJob(request).ok());
  const auto desired = coordinator_->Desired(agent_.Request(), /*force=*/true);
  EXPECT_EQ((*desired)->desired(0).spec().train().learning_rate(), 1e-3);
  EXPECT_EQ((*desired)->desired(0).changes_size(), 0);
  ASSERT_TRUE(Sync(agent_).ok());
  EXPECT_EQ(Get(job).attempt_count(), 2);
}

TEST_F(CoordinatorUpdateTest, AClockSetBackAfterAChangeDoesNotHideIt) {
  FakeAgent more("workers/w2", 2);
  const JobId job = Submit(CopySpec(3));
  ASSERT_TRUE(Update(job, "train.learning_rate=0.5").ok());
  clock_.StepWall(-absl::Hours(1));
  Join(more);
  Settle(agent_);
  EXPECT_EQ(agent_.Assignment(job.name(), 0).spec().train().learning_rate(), 0.5);
  EXPECT_EQ(agent_.Assignment(job.name(), 0).changes_size(), 1);
  Settle(more);
  EXPECT_EQ(Get(job).attempt_count(), 1);
}

TEST_F(CoordinatorUpdateTest, WhatCannotBeChangedIsRefusedWithTheReason) {
  const JobId job = Running(agent_);
  Train(job, 30);
  EXPECT_THAT(std::string(Update(job, "model.hidden_size=16").message()), HasSubstr("changes the shapes"));
  EXPECT_THAT(std::string(Update(job, "train.seed=2").message()), HasSubstr("is fixed"));
  EXPECT_THAT(std::string(Update(job, "train.steps=30").message()), HasSubstr("must be above 30"));
  EXPECT_THAT(std::string(Update(job, "train.learning_rate=-1").message()), HasSubstr("must be above 0"));
  EXPECT_EQ(Get(job).attempt_count(), 1);
  ASSERT_TRUE(coordinator_->CancelJob(job).ok());
  EXPECT_EQ(ReasonOf(Update(job, "train.learning_rate=0.1")), "JOB_FINAL");
}

}  // namespace
}  // namespace sab::server
