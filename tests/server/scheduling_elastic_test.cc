// Jobs that are content with fewer ranks than they ask for: how many they start with, and when they grow.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/scheduling/scheduling.h"

namespace sab::server {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kNow = absl::Seconds(10'000);

class ElasticTest : public ::testing::Test {
 protected:
  // A worker with so many CPU slots, of which the first `busy` are taken.
  void Add(const std::string& id, int slots, int busy) {
    WorkerView worker{.id = WorkerId(id), .slots = {}};
    for (int i = 0; i < slots; ++i) worker.slots.push_back({i, false, i >= busy, 0});
    cluster_.PutWorker(worker);
  }
  WaitingJob Waiting(const std::string& id, GangRequest request, int64_t priority = 50) {
    request.device = v1::DEVICE_KIND_CPU;
    return {.job = JobId(id), .priority = priority, .create_time = ++created_, .request = request};
  }
  void Queue(const WaitingJob& job) { cluster_.PutWaiting(job, kNow); }
  // Runs with one rank on slot `slot` of the worker, and could have `replicas`.
  RunningJob Short(const std::string& id, const std::string& worker, int slot, int64_t replicas) {
    return {.job = JobId(id),
            .start = kNow - absl::Hours(1),
            .placements = {{WorkerId(worker), slot}},
            .request = {.replicas = replicas, .device = v1::DEVICE_KIND_CPU, .min_replicas = 1},
            .may_resize = kNow};
  }
  // Runs on these slots, and would do with `least` of them.
  RunningJob Wide(const std::string& id, const std::string& worker, const std::vector<int>& slots, int64_t least) {
    RunningJob job = Short(id, worker, slots[0], static_cast<int64_t>(slots.size()));
    job.request.min_replicas = least;
    job.placements.clear();
    for (const int slot : slots) job.placements.push_back({WorkerId(worker), slot});
    return job;
  }
  void Run(const RunningJob& job) { cluster_.PutRunning(job, kNow); }

  Decision Round() { return Decide(&cluster_, kNow, options_); }
  size_t RanksOf(const std::string& id) {
    for (const Placed& placed : Round().starts) {
      if (placed.job == JobId(id)) return placed.placements.size();
    }
    return 0;
  }
  Growth GrowthOf(const std::string& id) {
    for (Growth& growth : Round().growths) {
      if (growth.job == JobId(id)) return growth;
    }
    ADD_FAILURE() << id << " is not short";
    return {};
  }

  Cluster cluster_{Cluster::Options()};
  SchedulingOptions options_;
  int64_t created_ = 0;
};

TEST(GangRequestTest, TheMostOfSomeSlotsIsANumberThatTheJobMayHave) {
  const GangRequest fixed{.replicas = 3};
  EXPECT_EQ(fixed.MostOf(2), 0);
  EXPECT_EQ(fixed.MostOf(5), 3);
  const GangRequest range{.replicas = 6, .min_replicas = 2};
  EXPECT_EQ(range.MostOf(1), 0);
  EXPECT_EQ(range.MostOf(5), 5);
  EXPECT_EQ(range.MostOf(9), 6);
  const GangRequest doubling{.replicas = 8, .min_replicas = 2, .powers_of_two = true};
  EXPECT_EQ(doubling.MostOf(1), 0);
  EXPECT_EQ(doubling.MostOf(3), 2);
  EXPECT_EQ(doubling.MostOf(7), 4);
  EXPECT_EQ(doubling.MostOf(-1), 0);
}

// --- Starting.

TEST_F(ElasticTest, StartsWithWhatIsFreeBetweenItsBounds) {
  Add("a", 3, 0);
  Queue(Waiting("j", {.replicas = 4, .min_replicas = 1}));
  EXPECT_EQ(RanksOf("j"), 3u);
  Add("b", 4, 0);
  EXPECT_EQ(RanksOf("j"), 4u);
  Queue(Waiting("j", {.replicas = 16, .min_replicas = 8}));
  EXPECT_EQ(RanksOf("j"), 0u);
  EXPECT_THAT(Describe(Round().waits.at(0)), HasSubstr("needs at least 8 cpu slots"));
}

TEST_F(ElasticTest, StartsWithAPowerOfTwoWhereOthersWillNotDo) {
  Add("a", 3, 0);
  Queue(Waiting("j", {.replicas = 4, .min_replicas = 1, .powers_of_two = true}));
  EXPECT_EQ(RanksOf("j"), 2u);
}

TEST_F(ElasticTest, TakesNoMoreThanTheQuotaLeaves) {
  cluster_.PutQueue({.name = "default", .quota = {2, {}}}, kNow);
  Add("a", 4, 0);
  Queue(Waiting("j", {.replicas = 4, .min_replicas = 1}));
  EXPECT_EQ(RanksOf("j"), 2u);
}

TEST_F(ElasticTest, WaitsForItsFewestOnlyAndHoldsUpNobodyForMore) {
  Add("a", 4, 2);
  Queue(Waiting("elastic", {.replicas = 4, .min_replicas = 2}));
  Queue(Waiting("later", {.replicas = 1}));
  EXPECT_EQ(RanksOf("elastic"), 2u);
  EXPECT_THAT(Round().waits, SizeIs(1));  // the later one, for the slots that are left: none
}

TEST_F(ElasticTest, BackfillsWithAsFewRanksAsAreToSpare) {
  Add("a", 8, 4);
  RunningJob big{.job = JobId("big"), .start = kNow, .expected_end = kNow + absl::Hours(1), .placements = {}};
  for (int i = 0; i < 4; ++i) big.placements.push_back({WorkerId("a"), i});
  Run(big);
  Queue(Waiting("turn", {.replicas = 7}, 90));  // in an hour all eight slots are free: one is to spare
  Queue(Waiting("elastic", {.replicas = 4, .min_replicas = 1}));
  EXPECT_EQ(RanksOf("elastic"), 1u);
}

// --- Growing.

TEST_F(ElasticTest, GrowsIntoSlotsThatNobodyWaitsFor) {
  Add("a", 4, 1);
  Run(Short("j", "a", 0, 3));
  const Growth growth = GrowthOf("j");
  EXPECT_THAT(growth.added, SizeIs(2));
  EXPECT_EQ(growth.ranks, 1);
  EXPECT_EQ(growth.wanted, 3);
  EXPECT_EQ(cluster_.Free(false), 3);  // the round gave them back
}

TEST_F(ElasticTest, SaysWhyItDoesNotGrow) {
  Add("a", 1, 1);
  Run(Short("j", "a", 0, 2));
  EXPECT_EQ(GrowthOf("j").reason, "no free slot");
  Add("b", 1, 0);
  RunningJob young = Short("j", "a", 0, 2);
  young.may_resize = kNow + absl::Seconds(3);
  Run(young);
  EXPECT_EQ(GrowthOf("j").reason, "grows soon");
  EXPECT_THAT(GrowthOf("j").added, IsEmpty());
  young.may_resize = kNow;
  Run(young);
  EXPECT_THAT(GrowthOf("j").added, SizeIs(1));
}

TEST_F(ElasticTest, GrowsInDoublingStepsWhereOthersWillNotDo) {
  Add("a", 4, 2);
  RunningJob job = Short("j", "a", 0, 4);
  job.placements.push_back({WorkerId("a"), 1});
  job.request.powers_of_two = true;
  Run(job);
  EXPECT_THAT(GrowthOf("j").added, SizeIs(2));
  Add("a", 4, 3);
  EXPECT_THAT(GrowthOf("j").reason, HasSubstr("the next number that it may have is 4"));
}

// --- Giving back.

TEST_F(ElasticTest, GivesTheLastRanksBackToTheJobThatHasItsTurn) {
  Add("a", 4, 4);
  Run(Wide("wide", "a", {0, 1, 2, 3}, 1));
  Queue(Waiting("next", {.replicas = 2}));
  const Decision decision = Round();
  ASSERT_THAT(decision.shrinks, SizeIs(1));
  EXPECT_EQ(decision.shrinks[0].job, JobId("wide"));
  EXPECT_EQ(decision.shrinks[0].by, JobId("next"));
  ASSERT_THAT(decision.shrinks[0].given, SizeIs(2));
  EXPECT_EQ(decision.shrinks[0].given[0].slot, 3);
  EXPECT_EQ(decision.shrinks[0].given[1].slot, 2);
  ASSERT_THAT(decision.waits, SizeIs(1));
  EXPECT_EQ(decision.waits[0].kind, WaitKind::kShrinking);
  EXPECT_THAT(Describe(decision.waits[0]), HasSubstr("elastic jobs give slots back"));
  EXPECT_EQ(Explain(&cluster_, JobId("next"), kNow, options_).expected_start, kNow);
  // Done, and the slots are on their way: nobody gives more.
  Run(Wide("wide", "a", {0, 1}, 1));
  EXPECT_THAT(Round().shrinks, IsEmpty());
}

TEST_F(ElasticTest, GivesItsPartOfTheQuotaToTheFirstOfItsQueueThatWaitsForIt) {
  cluster_.PutQueue({.name = "default", .quota = {4, {}}}, kNow);
  Add("a", 8, 4);
  Run(Wide("wide", "a", {0, 1, 2, 3}, 1));
  Queue(Waiting("next", {.replicas = 2}));
  const Decision decision = Round();
  ASSERT_THAT(decision.shrinks, SizeIs(1));
  EXPECT_EQ(decision.shrinks[0].by, JobId("next"));
  EXPECT_THAT(decision.shrinks[0].given, SizeIs(2));
  EXPECT_EQ(decision.waits.at(0).kind, WaitKind::kQuotaGiven);
  EXPECT_THAT(Describe(decision.waits[0]),
              HasSubstr("uses 4; needs 2 cpu slots; elastic jobs of the queue give ranks"));
  EXPECT_EQ(Explain(&cluster_, JobId("next"), kNow, options_).expected_start, kNow);
  Run(Wide("wide", "a", {0, 1}, 1));
  EXPECT_EQ(RanksOf("next"), 2u);
}

TEST_F(ElasticTest, GivesNoPartOfTheQuotaThatIsAnotherQueuesOrWouldNotDo) {
  cluster_.PutQueue({.name = "default", .quota = {4, {}}}, kNow);
  Add("a", 8, 7);
  RunningJob other = Wide("other", "a", {0, 1}, 1);
  other.queue = "other";
  Run(other);
  Run(Wide("wide", "a", {2, 3, 4, 5}, 3));
  Queue(Waiting("next", {.replicas = 2}));
  EXPECT_THAT(Round().shrinks, IsEmpty());  // 3 and 2 are above the quota
  Run(Wide("wide", "a", {2, 3, 4, 5}, 1));
  Queue(Waiting("next", {.replicas = 4}));
  EXPECT_THAT(Round().shrinks, IsEmpty());
  EXPECT_EQ(Round().waits.at(0).kind, WaitKind::kQuota);
  Queue(Waiting("next", {.replicas = 3}));
  EXPECT_THAT(Round().shrinks, SizeIs(1));
  // The slots of others are not to be had: it could not start.
  Add("a", 6, 6);
  RunningJob large = Wide("other", "a", {0, 1, 4, 5}, 1);
  large.queue = "other";
  Run(large);
  Run(Wide("wide", "a", {2, 3}, 1));
  cluster_.PutQueue({.name = "default", .quota = {3, {}}}, kNow);
  Queue(Waiting("next", {.replicas = 2}));
  EXPECT_THAT(Round().shrinks, IsEmpty());
  EXPECT_EQ(Round().waits.at(0).kind, WaitKind::kQuota);
}

TEST_F(ElasticTest, KeepsWhatItNeedsAndWhatWouldNotDo) {
  Add("a", 4, 4);
  Run(Wide("wide", "a", {0, 1, 2, 3}, 3));
  Queue(Waiting("next", {.replicas = 2}));
  EXPECT_THAT(Round().shrinks, IsEmpty());
}

TEST_F(ElasticTest, GivesNothingToALowerPriorityNorBeforeItHasSettled) {
  Add("a", 2, 2);
  RunningJob wide = Wide("wide", "a", {0, 1}, 1);
  Run(wide);
  Queue(Waiting("lower", {.replicas = 1}, 49));
  EXPECT_THAT(Round().shrinks, IsEmpty());
  Queue(Waiting("equal", {.replicas = 1}, 50));
  EXPECT_THAT(Round().shrinks, SizeIs(1));
  wide.may_resize = kNow + absl::Seconds(1);
  Run(wide);
  EXPECT_THAT(Round().shrinks, IsEmpty());
}

TEST_F(ElasticTest, ShrinksByHalvesWhereOthersWillNotDo) {
  Add("a", 4, 4);
  RunningJob wide = Wide("wide", "a", {0, 1, 2, 3}, 1);
  wide.request.powers_of_two = true;
  Run(wide);
  Queue(Waiting("next", {.replicas = 1}));
  ASSERT_THAT(Round().shrinks, SizeIs(1));
  EXPECT_THAT(Round().shrinks[0].given, SizeIs(2));
}

TEST_F(ElasticTest, TheLowerPriorityGivesFirstAndNoMoreJobsThanAreNeeded) {
  Add("a", 4, 4);
  RunningJob low = Wide("low", "a", {0, 1}, 1), high = Wide("high", "a", {2, 3}, 1);
  low.priority = 30;
  Run(low);
  Run(high);
  Queue(Waiting("next", {.replicas = 1}));
  ASSERT_THAT(Round().shrinks, SizeIs(1));
  EXPECT_EQ(Round().shrinks[0].job, JobId("low"));
}

TEST_F(ElasticTest, WhatElasticJobsCannotSpareIsTakenFromLowerPriorities) {
  Add("a", 4, 4);
  Run(Wide("wide", "a", {0, 1}, 1));
  RunningJob victim = Wide("victim", "a", {2, 3}, 2);
  victim.priority = 10;
  victim.preemptible = true;
  Run(victim);
  Queue(Waiting("next", {.replicas = 3}));
  const Decision decision = Round();
  ASSERT_THAT(decision.shrinks, SizeIs(1));
  EXPECT_EQ(decision.shrinks[0].job, JobId("wide"));
  ASSERT_THAT(decision.preemptions, SizeIs(1));
  EXPECT_EQ(decision.preemptions[0].victim, JobId("victim"));
  EXPECT_EQ(decision.waits[0].kind, WaitKind::kPreempting);
}

TEST_F(ElasticTest, AJobThatWaitsGetsSlotsBeforeAnyGrowth) {
  Add("a", 4, 1);
  RunningJob job = Short("j", "a", 0, 4);
  job.priority = 90;
  Run(job);
  // Of lower priority, and of another queue: it starts, and growth takes what is left.
  WaitingJob other = Waiting("other", {.replicas = 2}, 10);
  other.queue = "others";
  Queue(other);
  EXPECT_EQ(RanksOf("other"), 2u);
  EXPECT_THAT(GrowthOf("j").added, SizeIs(1));
  // It cannot start yet: what is free is kept.
  other.request.replicas = 4;
  Queue(other);
  EXPECT_EQ(RanksOf("other"), 0u);
  EXPECT_THAT(GrowthOf("j").added, IsEmpty());
  EXPECT_THAT(GrowthOf("j").reason, HasSubstr("for jobs/other, which waits"));
  // It can never start here: it holds up nobody.
  other.request.replicas = 5;
  Queue(other);
  EXPECT_THAT(GrowthOf("j").added, SizeIs(3));
}

TEST_F(ElasticTest, GrowthKeepsToTheQuotaAndLeavesItToThoseWhoWaitForIt) {
  cluster_.PutQueue({.name = "default", .quota = {2, {}}}, kNow);
  Add("a", 8, 1);
  Run(Short("j", "a", 0, 4));
  EXPECT_THAT(GrowthOf("j").added, SizeIs(1));
  Queue(Waiting("two", {.replicas = 2}));
  EXPECT_THAT(GrowthOf("j").reason, HasSubstr("the quota is for jobs/two"));
  cluster_.RemoveJob(JobId("two"), kNow);
  cluster_.PutQueue({.name = "default", .quota = {1, {}}}, kNow);
  EXPECT_THAT(GrowthOf("j").reason, HasSubstr("uses its quota of 1"));
}

TEST_F(ElasticTest, TheHigherPriorityGrowsFirst) {
  Add("a", 3, 2);
  RunningJob low = Short("low", "a", 0, 2);
  low.priority = 10;
  Run(low);
  Run(Short("high", "a", 1, 2));
  EXPECT_THAT(GrowthOf("high").added, SizeIs(1));
  EXPECT_EQ(GrowthOf("low").reason, "no free slot");
}

TEST_F(ElasticTest, OneThatIsAskedToLeaveDoesNotGrow) {
  Add("a", 2, 1);
  RunningJob job = Short("j", "a", 0, 2);
  job.stopping = true;
  Run(job);
  EXPECT_THAT(Round().growths, IsEmpty());
}

}  // namespace
}  // namespace sab::server
