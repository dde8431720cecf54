// CPU ranks share their worker's memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/memory_sizes.h"
#include "server/scheduling/scheduling.h"

namespace sab::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kNow = absl::Seconds(10'000);
constexpr int64_t kGiB = int64_t{1} << 30;

TEST(MemoryTest, SizesAreAtMostAFourthApartAndRoundingIsTight) {
  EXPECT_EQ(RoundUpMemory(5 * kGiB), 5 * kGiB);
  EXPECT_EQ(RoundUpMemory(5 * kGiB + 1), 6 * kGiB);
  EXPECT_EQ(RoundUpMemory(15 * kGiB), 16 * kGiB);
  EXPECT_EQ(RoundDownMemory(15 * kGiB), 14 * kGiB);
  for (int64_t bytes = 0; bytes < 5000; ++bytes) {
    EXPECT_LE(RoundDownMemory(bytes), bytes);
    EXPECT_GE(RoundUpMemory(bytes), bytes);
    EXPECT_LE(4 * RoundUpMemory(bytes), 5 * bytes + 4);
    EXPECT_EQ(RoundUpMemory(RoundUpMemory(bytes)), RoundUpMemory(bytes));
    EXPECT_EQ(RoundDownMemory(RoundUpMemory(bytes)), RoundUpMemory(bytes));
  }
}

class MemoryPlacementTest : public ::testing::Test {
 protected:
  // A worker of `slots` free CPU slots that share `gib`; 0: it does not say.
  void Add(const std::string& id, int slots, int64_t gib) {
    WorkerView& worker = workers_[id];
    worker = {.id = WorkerId(id), .slots = {}};
    for (int i = 0; i < slots; ++i) {
      worker.slots.push_back({.index = i, .free = true, .memory_bytes = gib * kGiB / slots});
    }
    cluster_.PutWorker(worker);
  }
  WaitingJob Job(const std::string& id, int64_t gib, int64_t replicas = 1) {
    return {.job = JobId(id),
            .create_time = ++created_,
            .request = {.replicas = replicas, .device = v1::DEVICE_KIND_CPU, .memory = gib * kGiB}};
  }
  void Queue(const WaitingJob& job) { cluster_.PutWaiting(job, kNow); }
  // A job of one rank on the slot, with so much memory.
  void Run(const std::string& id, const std::string& worker, int slot, int64_t gib, absl::Duration end,
           bool preemptible = false) {
    WorkerView& view = workers_[worker];
    view.slots[static_cast<size_t>(slot)].free = false;
    view.slots[static_cast<size_t>(slot)].held_bytes = gib * kGiB;
    cluster_.PutRunning({.job = JobId(id),
                         .priority = preemptible ? 10 : 50,
                         .preemptible = preemptible,
                         .memory = gib * kGiB,
                         .start = kNow - absl::Hours(1),
                         .expected_end = end,
                         .placements = {{WorkerId(worker), slot}}},
                        kNow);
    cluster_.PutWorker(view);
  }
  std::vector<std::string> Started() {
    std::vector<std::string> names;
    for (const Placed& placed : Decide(&cluster_, kNow, options_).starts) names.push_back(placed.job.value());
    return names;
  }
  std::string WorkerFor(const std::string& id) {
    for (const Placed& placed : Decide(&cluster_, kNow, options_).starts) {
      if (placed.job == JobId(id)) return placed.placements.front().worker.value();
    }
    return "";
  }
  std::string Reason(const std::string& id) { return Describe(Explain(&cluster_, JobId(id), kNow, options_).wait); }

  Cluster cluster_{Cluster::Options()};
  SchedulingOptions options_;
  std::map<std::string, WorkerView> workers_;
  int64_t created_ = 0;
};

TEST_F(MemoryPlacementTest, AWorkerTakesAsManyRanksAsItHasMemoryFor) {
  Add("a", 4, 16);
  for (const char* id : {"j1", "j2", "j3", "j4"}) Queue(Job(id, 5));
  EXPECT_THAT(Started(), ElementsAre("j1", "j2", "j3"));
  EXPECT_THAT(Reason("j4"), HasSubstr("waits for 1 cpu slot with 5 GiB more: needs 1, 0 of 3 are free"));
}

TEST_F(MemoryPlacementTest, OneRankMayHaveMoreThanItsSlotsPart) {
  Add("a", 4, 16);
  Queue(Job("large", 14));
  Queue(Job("small", 2));
  Queue(Job("other", 2));
  EXPECT_THAT(Started(), ElementsAre("large", "small"));
}

TEST_F(MemoryPlacementTest, AGangIsSpreadOverWorkersWithMemory) {
  Add("a", 4, 16);
  Add("b", 4, 8);
  Queue(Job("gang", 6, 3));
  const Decision decision = Decide(&cluster_, kNow, options_);
  ASSERT_THAT(decision.starts, SizeIs(1));
  std::map<std::string, int> ranks;
  for (const RankPlacement& place : decision.starts[0].placements) ++ranks[place.worker.value()];
  EXPECT_EQ(ranks["a"], 2);
  EXPECT_EQ(ranks["b"], 1);
}

TEST_F(MemoryPlacementTest, TheSmallestWorkerThatDoesIsTaken) {
  Add("a", 2, 32);
  Add("b", 2, 8);
  Queue(Job("small", 6));
  EXPECT_EQ(WorkerFor("small"), "b");
  Queue(Job("large", 12));
  EXPECT_EQ(WorkerFor("large"), "a");
}

TEST_F(MemoryPlacementTest, AWorkerThatDoesNotSayIsWithoutABound) {
  Add("a", 2, 0);
  Queue(Job("j1", 1024));
  Queue(Job("j2", 1024));
  EXPECT_THAT(Started(), ElementsAre("j1", "j2"));
}

TEST_F(MemoryPlacementTest, AJobThatSaysNothingTakesASlotAndNoMemory) {
  Add("a", 2, 16);
  Queue(Job("unknown", 0));
  Queue(Job("large", 16));
  EXPECT_THAT(Started(), ElementsAre("unknown", "large"));
}

TEST_F(MemoryPlacementTest, MemoryThatIsBeingGivenBackIsNotGivenAway) {
  Add("a", 4, 16);
  Run("r", "a", 0, 12, absl::InfiniteDuration());
  cluster_.RemoveJob(JobId("r"), kNow);  // its process still ends
  Queue(Job("j", 8));
  EXPECT_THAT(Started(), IsEmpty());
  workers_["a"].slots[0].free = true;
  workers_["a"].slots[0].held_bytes = 0;
  cluster_.PutWorker(workers_["a"]);
  EXPECT_THAT(Started(), ElementsAre("j"));
}

TEST_F(MemoryPlacementTest, WhatNoWorkerCouldHoldSaysWhatToChangeAndHoldsUpNobody) {
  Add("a", 4, 16);
  Queue(Job("huge", 40));
  Queue(Job("wide", 10, 2));
  Queue(Job("small", 2));
  EXPECT_THAT(Started(), ElementsAre("small"));
  EXPECT_THAT(Reason("huge"), HasSubstr("needs 1 cpu slot with 40 GiB; the largest worker has 16 GiB"));
  EXPECT_THAT(Reason("huge"), HasSubstr("model.recompute"));
  EXPECT_THAT(Reason("huge"), HasSubstr("resources.memory"));
  EXPECT_THAT(Reason("wide"), HasSubstr("have memory for 1 of them in all"));
}

TEST_F(MemoryPlacementTest, TheJobThatHasItsTurnKeepsTheMemoryThatComesFreeForIt) {
  Add("a", 4, 16);
  Run("r", "a", 0, 10, kNow + absl::Minutes(30));
  Queue(Job("large", 12));
  Queue(Job("endless", 6));  // would leave 10 GiB at that moment
  Queue(Job("beside", 4));   // fits beside both
  WaitingJob brief = Job("brief", 2);
  brief.limit = absl::Minutes(5);
  Queue(brief);
  EXPECT_THAT(Started(), ElementsAre("beside", "brief"));
  EXPECT_THAT(Reason("endless"), HasSubstr("behind jobs/large"));
  const Explanation answer = Explain(&cluster_, JobId("large"), kNow, options_);
  EXPECT_EQ(answer.expected_start, kNow + absl::Minutes(30));
  EXPECT_THAT(answer.must_end, ElementsAre(JobId("r")));
}

TEST_F(MemoryPlacementTest, WhoPassesTakesAnotherWorkerWhereItsFirstChoiceIsKept) {
  Add("a", 2, 16);
  Add("b", 2, 32);
  Run("r1", "a", 0, 10, kNow + absl::Minutes(30));
  Run("r2", "b", 0, 26, absl::InfiniteDuration());
  Queue(Job("large", 12));
  Queue(Job("other", 5));
  // The smaller worker is the first choice, but there it would be in the way.
  EXPECT_EQ(WorkerFor("other"), "b");
}

TEST_F(MemoryPlacementTest, SeveralLeaveTogetherWhenTheirMemoryIsNeededTogether) {
  Add("a", 4, 16);
  Add("b", 4, 8);
  Run("elsewhere", "b", 0, 8, absl::InfiniteDuration(), /*preemptible=*/true);
  Run("v1", "a", 0, 6, absl::InfiniteDuration(), /*preemptible=*/true);
  Run("v2", "a", 1, 6, absl::InfiniteDuration(), /*preemptible=*/true);
  Queue(Job("large", 14));
  std::vector<std::string> victims;
  for (const Preemption& leaves : Decide(&cluster_, kNow, options_).preemptions) {
    victims.push_back(leaves.victim.value());
  }
  EXPECT_THAT(victims, ::testing::UnorderedElementsAre("v1", "v2"));
}

TEST_F(MemoryPlacementTest, AnElasticJobGrowsAsFarAsThereIsMemory) {
  Add("a", 4, 16);
  WaitingJob job = Job("e", 6, 4);
  job.request.min_replicas = 1;
  Queue(job);
  Decision decision = Decide(&cluster_, kNow, options_);
  ASSERT_THAT(decision.starts, SizeIs(1));
  EXPECT_THAT(decision.starts[0].placements, SizeIs(2));

  Run("other", "a", 3, 10, absl::InfiniteDuration());
  RunningJob running{.job = JobId("e"), .memory = 6 * kGiB, .start = kNow, .placements = {{WorkerId("a"), 0}}};
  running.request = job.request;
  running.may_resize = kNow;
  cluster_.PutRunning(running, kNow);
  workers_["a"].slots[0].free = false;
  workers_["a"].slots[0].held_bytes = 6 * kGiB;
  cluster_.PutWorker(workers_["a"]);
  decision = Decide(&cluster_, kNow, options_);
  ASSERT_THAT(decision.growths, SizeIs(1));
  EXPECT_THAT(decision.growths[0].added, IsEmpty());
  EXPECT_EQ(decision.growths[0].reason, "no free slot with memory for it");
}

}  // namespace
}  // namespace sab::server
