#include "server/scheduling/scheduling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sab::server {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kNow = absl::Seconds(100);

WorkerView Worker(const std::string& id, int cpu, int cuda = 0, int busy = 0) {
  WorkerView worker{WorkerId(id), kNow + absl::Seconds(5), true, {}};
  for (int i = 0; i < cpu + cuda; ++i) worker.slots.push_back({i, i >= cpu, i >= busy});
  return worker;
}

QueueEntry Entry(const std::string& id, int64_t replicas, int64_t priority = 50, int64_t created = 0) {
  return {JobId(id), priority, created, {replicas, v1::DEVICE_KIND_AUTO}};
}

TEST(DecideGangTest, PlacesAllRanksOrNone) {
  EXPECT_THAT(DecideGang({.replicas = 3}, {Worker("a", 1), Worker("b", 1)}, kNow).placements, IsEmpty());
  EXPECT_THAT(DecideGang({.replicas = 2}, {Worker("a", 1), Worker("b", 1)}, kNow).placements, SizeIs(2));
}

TEST(DecideGangTest, PrefersTheWorkerThatHoldsTheWholeGangWithTheFewestFreeSlots) {
  const GangDecision decision = DecideGang({.replicas = 2}, {Worker("a", 4), Worker("b", 2), Worker("c", 1)}, kNow);
  ASSERT_THAT(decision.placements, SizeIs(2));
  EXPECT_EQ(decision.placements[0].worker, WorkerId("b"));
  EXPECT_EQ(decision.placements[1].worker, WorkerId("b"));
}

TEST(DecideGangTest, TakesFewWorkersWhenNoneHoldsTheGang) {
  const GangDecision decision = DecideGang({.replicas = 4}, {Worker("a", 1), Worker("b", 3), Worker("c", 2)}, kNow);
  ASSERT_THAT(decision.placements, SizeIs(4));
  EXPECT_EQ(decision.placements[2].worker, WorkerId("b"));
  EXPECT_EQ(decision.placements[3].worker, WorkerId("c"));
}

TEST(DecideGangTest, TiesGoToTheLowerWorkerId) {
  EXPECT_EQ(DecideGang({.replicas = 1}, {Worker("b", 1), Worker("a", 1)}, kNow).placements[0].worker, WorkerId("a"));
}

TEST(DecideGangTest, NothingIsPlacedFromTheEndOfALeaseOn) {
  EXPECT_THAT(DecideGang({.replicas = 1}, {Worker("a", 1)}, kNow + absl::Seconds(5)).placements, IsEmpty());
  EXPECT_THAT(DecideGang({.replicas = 1}, {Worker("a", 1)}, kNow + absl::Seconds(5) - absl::Nanoseconds(1)).placements,
              SizeIs(1));
}

TEST(DecideGangTest, NothingIsPlacedOnAWorkerThatAcceptsNothing) {
  WorkerView worker = Worker("a", 1);
  worker.accepts = false;
  const GangDecision decision = DecideGang({.replicas = 1}, {worker}, kNow);
  EXPECT_THAT(decision.placements, IsEmpty());
  EXPECT_TRUE(decision.fits);
}

TEST(DecideGangTest, AutoMeansGpusWhenThereAreEnoughEvenIfBusy) {
  EXPECT_TRUE(DecideGang({.replicas = 2}, {Worker("a", 2, 2)}, kNow).cuda);
  EXPECT_FALSE(DecideGang({.replicas = 3}, {Worker("a", 3, 2)}, kNow).cuda);
  const GangDecision waits = DecideGang({.replicas = 2}, {Worker("a", 0, 2, 1), Worker("b", 2)}, kNow);
  EXPECT_THAT(waits.placements, IsEmpty());
  EXPECT_THAT(waits.reason, HasSubstr("1 cuda slot more"));
}

TEST(DecideGangTest, SaysWhatIsMissing) {
  EXPECT_THAT(DecideGang({.replicas = 1}, {}, kNow).reason, HasSubstr("no worker is connected"));
  EXPECT_THAT(DecideGang({.replicas = 8}, {Worker("a", 2)}, kNow).reason,
              HasSubstr("needs 8 cpu slots; the connected workers have 2"));
  EXPECT_THAT(DecideGang({2, v1::DEVICE_KIND_CUDA}, {Worker("a", 4)}, kNow).reason, HasSubstr("cuda"));
}

TEST(DecideQueueTest, HigherPriorityThenEarlierRunsFirst) {
  const auto decisions = DecideQueue({Entry("late", 1, 50, 2), Entry("early", 1, 50, 1), Entry("urgent", 1, 90, 3)},
                                     {Worker("a", 2)}, kNow);
  ASSERT_THAT(decisions, SizeIs(3));
  EXPECT_EQ(decisions[0].job, JobId("urgent"));
  EXPECT_EQ(decisions[1].job, JobId("early"));
  EXPECT_THAT(decisions[1].gang.placements, SizeIs(1));
  EXPECT_THAT(decisions[2].gang.placements, IsEmpty());
}

TEST(DecideQueueTest, NoSlotIsGivenTwice) {
  const auto decisions = DecideQueue({Entry("a", 1), Entry("b", 1)}, {Worker("w", 2)}, kNow);
  EXPECT_NE(decisions[0].gang.placements[0].slot, decisions[1].gang.placements[0].slot);
}

TEST(DecideQueueTest, ALargeGangIsNotOvertakenBySmallJobs) {
  const auto decisions = DecideQueue({Entry("big", 2, 50, 1), Entry("small", 1, 50, 2)}, {Worker("a", 2, 0, 1)}, kNow);
  EXPECT_THAT(decisions[1].gang.placements, IsEmpty());
  EXPECT_THAT(decisions[1].gang.reason, HasSubstr("behind jobs/big"));
}

TEST(DecideQueueTest, AJobThatCannotFitBlocksNobody) {
  const auto decisions = DecideQueue({Entry("huge", 9, 90), Entry("small", 1)}, {Worker("a", 2)}, kNow);
  EXPECT_THAT(decisions[0].gang.placements, IsEmpty());
  EXPECT_THAT(decisions[1].gang.placements, SizeIs(1));
}

TEST(DecideQueueTest, AJobThatWaitsForGpusLeavesCpusToOthers) {
  QueueEntry gpu{JobId("gpu"), 90, 0, {1, v1::DEVICE_KIND_CUDA}};
  QueueEntry cpu{JobId("cpu"), 10, 0, {1, v1::DEVICE_KIND_CPU}};
  const auto decisions = DecideQueue({gpu, cpu}, {Worker("a", 0, 1, 1), Worker("b", 1)}, kNow);
  EXPECT_THAT(decisions[0].gang.placements, IsEmpty());
  EXPECT_THAT(decisions[1].gang.placements, SizeIs(1));
}

}  // namespace
}  // namespace sab::server
