#include "worker/agent/reconcile.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sab::agent {
namespace {

using State = ActualTrainer::State;

v1::TrainerAssignment Wanted(const std::string& job, int32_t slot, int64_t attempt = 1, int32_t rank = 0) {
  v1::TrainerAssignment assignment;
  *assignment.mutable_id() = TrainerKey{job, attempt, rank}.ToId();
  assignment.set_slot(slot);
  return assignment;
}

ActualTrainer Actual(const std::string& job, int32_t slot, State state, bool answered = false, int64_t attempt = 1) {
  return {{job, attempt, 0}, slot, state, answered};
}

TEST(ReconcileTest, WhatIsWantedAndUnknownStarts) {
  const Actions actions = Reconcile({Wanted("jobs/a", 0), Wanted("jobs/b", 1)}, {}, 2);
  ASSERT_EQ(actions.start.size(), 2);
  EXPECT_EQ(actions.start[1].id().job(), "jobs/b");
}

TEST(ReconcileTest, WhatRunsAndIsWantedIsLeftAlone) {
  const Actions actions = Reconcile({Wanted("jobs/a", 0)}, {Actual("jobs/a", 0, State::kRunning)}, 1);
  EXPECT_TRUE(actions.start.empty() && actions.stop.empty() && actions.forget.empty() && actions.refuse.empty());
}

TEST(ReconcileTest, WhatRunsAndIsNotWantedStopsOnce) {
  EXPECT_EQ(Reconcile({}, {Actual("jobs/a", 0, State::kRunning)}, 1).stop.size(), 1);
  EXPECT_TRUE(Reconcile({}, {Actual("jobs/a", 0, State::kStopping)}, 1).stop.empty());
}

TEST(ReconcileTest, ATakenSlotIsWaitedForUntilItsProcessIsGone) {
  EXPECT_TRUE(Reconcile({Wanted("jobs/b", 0)}, {Actual("jobs/a", 0, State::kRunning)}, 1).start.empty());
  EXPECT_TRUE(Reconcile({Wanted("jobs/b", 0)}, {Actual("jobs/a", 0, State::kStopping)}, 1).start.empty());
  EXPECT_EQ(Reconcile({Wanted("jobs/b", 0)}, {Actual("jobs/a", 0, State::kEnded)}, 1).start.size(), 1);
}

TEST(ReconcileTest, TwoThatWantOneSlotStartOneAfterTheOther) {
  const Actions actions = Reconcile({Wanted("jobs/a", 0), Wanted("jobs/b", 0)}, {}, 1);
  ASSERT_EQ(actions.start.size(), 1);
  EXPECT_EQ(actions.start[0].id().job(), "jobs/a");
}

TEST(ReconcileTest, ATrainerThatEndedNeverStartsAgain) {
  const Actions actions = Reconcile({Wanted("jobs/a", 0)}, {Actual("jobs/a", 0, State::kEnded, true)}, 1);
  EXPECT_TRUE(actions.start.empty());
  EXPECT_TRUE(actions.forget.empty());
}

TEST(ReconcileTest, ANewAttemptIsAnotherTrainer) {
  const Actions actions = Reconcile({Wanted("jobs/a", 0, 2)}, {Actual("jobs/a", 0, State::kEnded, true, 1)}, 1);
  EXPECT_EQ(actions.start.size(), 1);
  EXPECT_EQ(actions.forget.size(), 1);
}

TEST(ReconcileTest, AnEndIsForgottenOnlyWhenTheCoordinatorHasHeardOfIt) {
  EXPECT_TRUE(Reconcile({}, {Actual("jobs/a", 0, State::kEnded, false)}, 1).forget.empty());
  EXPECT_EQ(Reconcile({}, {Actual("jobs/a", 0, State::kEnded, true)}, 1).forget.size(), 1);
}

TEST(ReconcileTest, ASlotThatDoesNotExistIsRefused) {
  EXPECT_EQ(Reconcile({Wanted("jobs/a", 1)}, {}, 1).refuse.size(), 1);
  EXPECT_EQ(Reconcile({Wanted("jobs/a", -1)}, {}, 1).refuse.size(), 1);
}

TEST(ReconcileTest, ARunningTrainerIsHandedOverToItsOwnJobsNextAttemptInItsSlotAlone) {
  ActualTrainer able = Actual("jobs/a", 0, State::kRunning);
  able.can_go_on = true;
  const Actions actions = Reconcile({Wanted("jobs/a", 0, 2)}, {able}, 2);
  ASSERT_EQ(actions.hand_over.size(), 1);
  EXPECT_EQ(actions.hand_over[0].second.id().attempt(), 2);
  EXPECT_TRUE(actions.stop.empty() && actions.start.empty());
  EXPECT_EQ(Reconcile({Wanted("jobs/b", 0, 2)}, {able}, 2).stop.size(), 1);
  EXPECT_EQ(Reconcile({Wanted("jobs/a", 1, 2)}, {able}, 2).stop.size(), 1);
  EXPECT_EQ(Reconcile({Wanted("jobs/a", 0, 2)}, {Actual("jobs/a", 0, State::kRunning)}, 2).stop.size(), 1);
}

TEST(ReconcileTest, AnAssignmentListedTwiceStartsOnce) {
  EXPECT_EQ(Reconcile({Wanted("jobs/a", 0), Wanted("jobs/a", 0)}, {}, 2).start.size(), 1);
}

}  // namespace
}  // namespace sab::agent
