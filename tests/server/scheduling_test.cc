#include "server/scheduling/scheduling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace sab::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr absl::Duration kNow = absl::Seconds(10'000);
constexpr int64_t kGiB = int64_t{1} << 30;

WorkerView Worker(const std::string& id, int cpu, int cuda = 0, int busy = 0, int64_t memory = 80 * kGiB) {
  WorkerView worker{.id = WorkerId(id), .slots = {}};
  for (int i = 0; i < cpu + cuda; ++i) worker.slots.push_back({i, i >= cpu, i >= busy, i >= cpu ? memory : 0});
  return worker;
}

class SchedulingTest : public ::testing::Test {
 protected:
  void Add(const WorkerView& worker) { cluster_.PutWorker(worker); }

  WaitingJob& Entry(const std::string& id, int64_t replicas, int64_t priority = 50, int64_t created = 0) {
    return jobs_.emplace_back(
        WaitingJob{.job = JobId(id), .priority = priority, .create_time = created, .request = {.replicas = replicas}});
  }
  void Queue(const WaitingJob& job) { cluster_.PutWaiting(job, kNow); }

  // Runs on the slots 0 to `replicas` - 1 of the worker, which shall be busy.
  RunningJob Running(const std::string& id, const std::string& worker, int replicas,
                     absl::Duration end = absl::InfiniteDuration(), int first = 0) {
    RunningJob job{.job = JobId(id), .start = kNow - absl::Hours(1), .expected_end = end, .placements = {}};
    for (int i = 0; i < replicas; ++i) job.placements.push_back({WorkerId(worker), first + i});
    return job;
  }

  Decision Round() { return Decide(&cluster_, kNow, options_); }
  std::vector<std::string> Started() {
    std::vector<std::string> names;
    for (const Placed& placed : Round().starts) names.push_back(placed.job.value());
    return names;
  }
  std::string Reason(const std::string& id) { return Describe(Explain(&cluster_, JobId(id), kNow, options_).wait); }
  std::vector<RankPlacement> Places(const std::string& id) {
    for (const Placed& placed : Round().starts) {
      if (placed.job == JobId(id)) return placed.placements;
    }
    return {};
  }

  Cluster cluster_{Cluster::Options()};
  SchedulingOptions options_;
  std::vector<WaitingJob> jobs_;
};

// --- One gang.

TEST_F(SchedulingTest, PlacesAllRanksOrNone) {
  Add(Worker("a", 1));
  Add(Worker("b", 1));
  Queue(Entry("three", 3, 60));
  EXPECT_THAT(Places("three"), IsEmpty());
  Queue(Entry("two", 2));
  EXPECT_THAT(Places("two"), SizeIs(2));
}

TEST_F(SchedulingTest, PrefersTheWorkerThatHoldsTheWholeGangWithTheFewestFreeSlots) {
  for (const WorkerView& worker : {Worker("a", 4), Worker("b", 2), Worker("c", 1)}) Add(worker);
  Queue(Entry("j", 2));
  ASSERT_THAT(Places("j"), SizeIs(2));
  EXPECT_EQ(Places("j")[0].worker, WorkerId("b"));
  EXPECT_EQ(Places("j")[1].worker, WorkerId("b"));
}

TEST_F(SchedulingTest, TakesFewWorkersWhenNoneHoldsTheGang) {
  for (const WorkerView& worker : {Worker("a", 1), Worker("b", 3), Worker("c", 2)}) Add(worker);
  Queue(Entry("j", 4));
  ASSERT_THAT(Places("j"), SizeIs(4));
  EXPECT_EQ(Places("j")[2].worker, WorkerId("b"));
  EXPECT_EQ(Places("j")[3].worker, WorkerId("c"));
}

TEST_F(SchedulingTest, TiesGoToTheLowerWorkerId) {
  Add(Worker("b", 1));
  Add(Worker("a", 1));
  Queue(Entry("j", 1));
  EXPECT_EQ(Places("j")[0].worker, WorkerId("a"));
}

TEST_F(SchedulingTest, NothingIsPlacedOnAWorkerThatAcceptsNothingButItIsWaitedFor) {
  WorkerView worker = Worker("a", 1);
  worker.accepts = false;
  Add(worker);
  Queue(Entry("j", 1));
  EXPECT_THAT(Started(), IsEmpty());
  EXPECT_THAT(Reason("j"), HasSubstr("0 of 1 are free"));
  worker.accepts = true;
  Add(worker);
  EXPECT_THAT(Started(), ElementsAre("j"));
}

TEST_F(SchedulingTest, NothingIsPlacedOnADrainingWorkerAndItIsNotWaitedFor) {
  WorkerView worker = Worker("a", 2);
  worker.draining = true;
  Add(worker);
  Add(Worker("b", 1));
  Queue(Entry("j", 2));
  EXPECT_THAT(Started(), IsEmpty());
  EXPECT_THAT(Reason("j"), HasSubstr("the connected workers have 1"));
}

TEST_F(SchedulingTest, NothingIsPlacedOnAWorkerThatIsGone) {
  Add(Worker("a", 1));
  cluster_.RemoveWorker(WorkerId("a"));
  Queue(Entry("j", 1));
  EXPECT_THAT(Started(), IsEmpty());
  EXPECT_THAT(Reason("j"), HasSubstr("no worker is connected"));
}

TEST_F(SchedulingTest, AutoMeansGpusWhenThereAreEnoughEvenIfBusy) {
  Add(Worker("a", 3, 2, 5));
  Add(Worker("b", 3));
  Queue(Entry("two", 2));
  EXPECT_THAT(Reason("two"), HasSubstr("2 cuda slots more"));
  Queue(Entry("three", 3, 40));
  EXPECT_EQ(Places("three")[0].worker, WorkerId("b"));
}

TEST_F(SchedulingTest, GpusWithTooLittleMemoryAreNotTakenAndSmallOnesAreTakenFirst) {
  Add(Worker("large", 0, 1, 0, 80 * kGiB));
  Add(Worker("small", 0, 1, 0, 24 * kGiB));
  Queue(Entry("any", 1, 60));
  WaitingJob& large = Entry("large", 1);
  large.request.min_gpu_memory = 40 * kGiB;
  Queue(large);
  EXPECT_EQ(Places("any")[0].worker, WorkerId("small"));
  EXPECT_EQ(Places("large")[0].worker, WorkerId("large"));
  cluster_.RemoveWorker(WorkerId("large"));
  EXPECT_THAT(Reason("large"), HasSubstr("needs 1 cpu slot; the connected workers have 0"));
}

TEST_F(SchedulingTest, SaysWhatIsMissing) {
  Add(Worker("a", 2));
  Queue(Entry("eight", 8));
  EXPECT_THAT(Reason("eight"), HasSubstr("needs 8 cpu slots; the connected workers have 2"));
  WaitingJob& gpu = Entry("gpu", 2);
  gpu.request.device = v1::DEVICE_KIND_CUDA;
  Queue(gpu);
  EXPECT_THAT(Reason("gpu"), HasSubstr("or resources.device auto"));
}

// --- The order.

TEST_F(SchedulingTest, HigherPriorityThenEarlierStartsFirst) {
  Add(Worker("a", 2));
  Queue(Entry("late", 1, 50, 2));
  Queue(Entry("early", 1, 50, 1));
  Queue(Entry("urgent", 1, 90, 3));
  EXPECT_THAT(Started(), ElementsAre("urgent", "early"));
}

TEST_F(SchedulingTest, NoSlotIsGivenTwice) {
  Add(Worker("w", 2));
  Queue(Entry("a", 1));
  Queue(Entry("b", 1));
  EXPECT_NE(Places("a")[0].slot, Places("b")[0].slot);
}

TEST_F(SchedulingTest, TheQueueThatHasUsedLessOfItsShareGoesFirst) {
  Add(Worker("a", 1));
  cluster_.PutQueue({.name = "heavy", .weight = 4}, kNow);
  cluster_.PutQueue({.name = "light", .weight = 1}, kNow);
  cluster_.AddUse("heavy", {.slots = 36, .from = kNow - absl::Seconds(100), .until = kNow}, kNow);
  cluster_.AddUse("light", {.slots = 10, .from = kNow - absl::Seconds(100), .until = kNow}, kNow);
  WaitingJob& light = Entry("light", 1, 50, 1);
  light.queue = "light";
  Queue(light);
  WaitingJob& heavy = Entry("heavy", 1, 50, 2);
  heavy.queue = "heavy";
  Queue(heavy);
  EXPECT_THAT(Started(), ElementsAre("heavy"));  // 36 / 4 is less than 10
}

TEST_F(SchedulingTest, UsageDecaysByHalfInAHalfLife) {
  Add(Worker("a", 1));
  cluster_.AddUse("q", {.slots = 1, .from = kNow - absl::Seconds(1000), .until = kNow}, kNow);
  const ClusterQueue& queue = cluster_.queues().at("q");
  const double before = cluster_.AverageUse(queue, false, kNow);
  EXPECT_NEAR(cluster_.AverageUse(queue, false, kNow + absl::Hours(24)), before / 2, 1e-12);
}

TEST_F(SchedulingTest, AJobThatRunsForLongRaisesItsQueuesUseToItsSlots) {
  Add(Worker("a", 4, 0, 4));
  RunningJob job = Running("j", "a", 3);
  job.queue = "q";
  cluster_.PutRunning(job, kNow);
  EXPECT_NEAR(cluster_.AverageUse(cluster_.queues().at("q"), false, kNow + absl::Hours(24 * 60)), 3, 1e-6);
}

TEST_F(SchedulingTest, PastUseCountsAsIfTheQueueHadBeenWatched) {
  Add(Worker("a", 4, 0, 4));
  RunningJob job = Running("j", "a", 3);
  job.queue = "watched";
  job.start = kNow;
  cluster_.PutRunning(job, kNow);
  const absl::Duration later = kNow + absl::Hours(30);
  cluster_.AddUse("told", {.slots = 3, .from = kNow, .until = later}, later);
  const auto average = [&](const char* queue) {
    return cluster_.AverageUse(cluster_.queues().at(queue), false, later);
  };
  // A start costs a minute at once.
  EXPECT_NEAR(average("watched"), average("told"), 3.0 * 60 * 0.7 / (24 * 3600));
  EXPECT_GT(average("told"), 1.5);
}

TEST_F(SchedulingTest, StartsOfOneRoundAreSharedBetweenQueues) {
  Add(Worker("a", 4));
  for (int i = 0; i < 4; ++i) {
    for (const char* name : {"x", "y"}) {
      WaitingJob& job = Entry(absl::StrCat(name, i), 1, 50, *name == 'x' ? i : 10 + i);
      job.queue = name;
      Queue(job);
    }
  }
  EXPECT_THAT(Started(), ElementsAre("x0", "y0", "x1", "y1"));
}

// --- Quotas.

TEST_F(SchedulingTest, AQueueUsesNoMoreThanItsQuotaAndItsJobsKeepTheirOrder) {
  Add(Worker("a", 8));
  cluster_.PutQueue({.name = "q", .quota = {3, std::nullopt}}, kNow);
  for (int i = 0; i < 3; ++i) {
    WaitingJob& job = Entry(absl::StrCat("q", i), i == 1 ? 2 : 1, 50, i);
    if (i == 0) job.request.replicas = 2;
    job.queue = "q";
    Queue(job);
  }
  Queue(Entry("other", 5, 10));
  EXPECT_THAT(Started(), ElementsAre("q0", "other"));
  EXPECT_THAT(Reason("q1"), HasSubstr("queue q may use 3 cpu slots and uses 2"));
  EXPECT_THAT(Reason("q2"), HasSubstr("waits behind jobs/q1"));
}

TEST_F(SchedulingTest, AJobAboveItsQuotaBlocksNobody) {
  Add(Worker("a", 8));
  cluster_.PutQueue({.name = "default", .quota = {2, std::nullopt}}, kNow);
  Queue(Entry("huge", 3, 90));
  Queue(Entry("small", 1));
  EXPECT_THAT(Started(), ElementsAre("small"));
  EXPECT_THAT(Reason("huge"), HasSubstr("2 cpu slots at most"));
}

// --- Backfill.

TEST_F(SchedulingTest, ALargeGangIsNotOvertakenBySmallJobsWithoutALimit) {
  Add(Worker("a", 2, 0, 1));
  Queue(Entry("big", 2, 50, 1));
  Queue(Entry("small", 1, 50, 2));
  EXPECT_THAT(Started(), IsEmpty());
  EXPECT_THAT(Reason("small"), HasSubstr("behind jobs/big"));
}

TEST_F(SchedulingTest, AJobThatEndsBeforeTheLargeOneCanStartPassesIt) {
  Add(Worker("a", 2, 0, 1));
  cluster_.PutRunning(Running("r", "a", 1, kNow + absl::Minutes(30)), kNow);
  Queue(Entry("big", 2, 50, 1));
  WaitingJob& small = Entry("small", 1, 50, 2);
  small.limit = absl::Minutes(31);
  Queue(small);
  EXPECT_THAT(Started(), IsEmpty());
  small.limit = absl::Minutes(30);
  Queue(small);
  EXPECT_THAT(Started(), ElementsAre("small"));
}

TEST_F(SchedulingTest, AJobOnSlotsThatTheLargeOneWillNotNeedPassesIt) {
  Add(Worker("a", 4, 0, 2));
  cluster_.PutRunning(Running("r", "a", 2, kNow + absl::Minutes(30)), kNow);
  Queue(Entry("big", 3, 50, 1));
  Queue(Entry("first", 1, 50, 2));
  Queue(Entry("second", 1, 50, 3));
  EXPECT_THAT(Started(), ElementsAre("first"));  // 4 slots, 3 kept
}

TEST_F(SchedulingTest, WhileTheEndIsUnknownOnlyShortJobsPass) {
  Add(Worker("a", 2, 0, 1));
  cluster_.PutRunning(Running("r", "a", 1), kNow);
  Queue(Entry("big", 2, 50, 1));
  WaitingJob& small = Entry("small", 1, 50, 2);
  small.limit = options_.blind_backfill + absl::Seconds(1);
  Queue(small);
  EXPECT_THAT(Started(), IsEmpty());
  small.limit = options_.blind_backfill;
  Queue(small);
  EXPECT_THAT(Started(), ElementsAre("small"));
}

TEST_F(SchedulingTest, AJobThatCannotFitBlocksNobody) {
  Add(Worker("a", 2));
  Queue(Entry("huge", 9, 90));
  Queue(Entry("small", 1));
  EXPECT_THAT(Started(), ElementsAre("small"));
}

TEST_F(SchedulingTest, AJobThatWaitsForGpusLeavesCpusToOthers) {
  Add(Worker("a", 0, 1, 1));
  Add(Worker("b", 1));
  WaitingJob& gpu = Entry("gpu", 1, 90);
  gpu.request.device = v1::DEVICE_KIND_CUDA;
  Queue(gpu);
  WaitingJob& cpu = Entry("cpu", 1, 10);
  cpu.request.device = v1::DEVICE_KIND_CPU;
  Queue(cpu);
  EXPECT_THAT(Started(), ElementsAre("cpu"));
}

TEST_F(SchedulingTest, ALargeJobForAnyGpuHasItsTurnBesideOneForLargeGpus) {
  Add(Worker("large", 0, 1, 1, 80 * kGiB));
  Add(Worker("small", 0, 2, 1, 24 * kGiB));
  WaitingJob& picky = Entry("picky", 1, 90);
  picky.request.min_gpu_memory = 40 * kGiB;
  Queue(picky);
  Queue(Entry("big", 3, 50, 1));
  Queue(Entry("small", 1, 50, 2));
  EXPECT_THAT(Started(), IsEmpty());
  EXPECT_THAT(Reason("small"), HasSubstr("behind jobs/big"));
}

TEST_F(SchedulingTest, NobodyOfItsQueueUsesUpTheQuotaOfTheJobThatHasItsTurn) {
  Add(Worker("a", 4, 0, 2));
  cluster_.PutQueue({.name = "q", .quota = {4, std::nullopt}}, kNow);
  cluster_.PutRunning(Running("r", "a", 2, kNow + absl::Minutes(30)), kNow);
  WaitingJob& big = Entry("big", 3, 50, 1);
  big.queue = "q";
  Queue(big);
  WaitingJob& small = Entry("small", 2, 50, 2);
  small.queue = "q";
  small.limit = absl::Minutes(5);
  Queue(small);
  EXPECT_THAT(Started(), IsEmpty());
  EXPECT_THAT(Reason("small"), HasSubstr("waits for the quota"));
}

// --- Preemption.

class PreemptionTest : public SchedulingTest {
 protected:
  RunningJob Victim(const std::string& id, int64_t priority, int first, absl::Duration age = absl::Hours(1)) {
    RunningJob job = Running(id, "a", 1, absl::InfiniteDuration(), first);
    job.priority = priority;
    job.preemptible = true;
    job.start = kNow - age;
    return job;
  }
  std::vector<std::string> Preempted() {
    std::vector<std::string> names;
    for (const Preemption& preemption : Round().preemptions) names.push_back(preemption.victim.value());
    return names;
  }
};

TEST_F(PreemptionTest, TheLowestPriorityAndTheLatestStartLeaveFirst) {
  Add(Worker("a", 4, 0, 4));
  cluster_.PutRunning(Victim("low-old", 10, 0, absl::Hours(2)), kNow);
  cluster_.PutRunning(Victim("low-new", 10, 1, absl::Hours(1)), kNow);
  cluster_.PutRunning(Victim("mid", 20, 2), kNow);
  cluster_.PutRunning(Victim("high", 60, 3), kNow);
  Queue(Entry("j", 1));
  EXPECT_THAT(Preempted(), ElementsAre("low-new"));
  Queue(Entry("j", 2));
  EXPECT_THAT(Preempted(), ElementsAre("low-old", "low-new"));
}

TEST_F(PreemptionTest, NobodyLeavesInVain) {
  Add(Worker("a", 3, 0, 3));
  cluster_.PutRunning(Victim("low", 10, 0), kNow);
  cluster_.PutRunning(Running("other", "a", 2, absl::InfiniteDuration(), 1), kNow);
  Queue(Entry("j", 2));
  EXPECT_THAT(Preempted(), IsEmpty());
}

TEST_F(PreemptionTest, NobodyLeavesBeforeItsMinimumRunTimeOrWithoutBeingPreemptible) {
  Add(Worker("a", 2, 0, 2));
  cluster_.PutRunning(Victim("young", 10, 0, options_.min_run_time - absl::Seconds(1)), kNow);
  RunningJob firm = Victim("firm", 10, 1);
  firm.preemptible = false;
  cluster_.PutRunning(firm, kNow);
  Queue(Entry("j", 1));
  EXPECT_THAT(Preempted(), IsEmpty());
}

TEST_F(PreemptionTest, NoMoreLeaveWhileThoseThatWereAskedAreOnTheirWay) {
  Add(Worker("a", 2, 0, 2));
  RunningJob leaving = Victim("leaving", 10, 0);
  leaving.stopping = true;
  leaving.expected_end = kNow;
  cluster_.PutRunning(leaving, kNow);
  cluster_.PutRunning(Victim("other", 10, 1), kNow);
  Queue(Entry("j", 1));
  EXPECT_THAT(Preempted(), IsEmpty());
  EXPECT_THAT(Reason("j"), HasSubstr("waits for 1 cpu slot more"));
}

// --- Explaining.

TEST_F(SchedulingTest, ExplainsThePlaceWhoMustEndAndTheExpectedStart) {
  Add(Worker("a", 2, 0, 2));
  cluster_.PutRunning(Running("soon", "a", 1, kNow + absl::Minutes(10), 0), kNow);
  cluster_.PutRunning(Running("late", "a", 1, kNow + absl::Minutes(30), 1), kNow);
  WaitingJob& big = Entry("big", 2, 50, 1);
  big.limit = absl::Hours(1);
  Queue(big);
  WaitingJob& small = Entry("small", 1, 50, 2);
  small.limit = absl::Minutes(20);
  Queue(small);
  Queue(Entry("last", 1, 50, 3));

  const Explanation first = Explain(&cluster_, JobId("big"), kNow, options_);
  EXPECT_EQ(first.position, 1);
  EXPECT_THAT(first.must_end, ElementsAre(JobId("soon"), JobId("late")));
  EXPECT_EQ(first.expected_start, kNow + absl::Minutes(30));
  // It ends just when the large one starts.
  EXPECT_EQ(Explain(&cluster_, JobId("small"), kNow, options_).expected_start, kNow + absl::Minutes(10));
  const Explanation third = Explain(&cluster_, JobId("last"), kNow, options_);
  EXPECT_EQ(third.position, 3);
  EXPECT_EQ(third.expected_start, kNow + absl::Minutes(90));
}

TEST_F(SchedulingTest, ExplainsAJobFarBehindOthersThatWait) {
  Add(Worker("a", 1, 0, 1));
  cluster_.PutRunning(Running("r", "a", 1), kNow);
  for (int i = 0; i < 300; ++i) Queue(Entry(absl::StrCat("j", i), 1, 50, i));
  EXPECT_EQ(Explain(&cluster_, JobId("j299"), kNow, options_).position, 300);
}

TEST_F(SchedulingTest, SaysWhyTheStartIsUnknown) {
  Add(Worker("a", 1, 0, 1));
  cluster_.PutRunning(Running("r", "a", 1), kNow);
  Queue(Entry("j", 1));
  const Explanation answer = Explain(&cluster_, JobId("j"), kNow, options_);
  EXPECT_EQ(answer.expected_start, absl::InfiniteDuration());
  EXPECT_THAT(answer.unknown, HasSubstr("time_limit"));
}

TEST_F(SchedulingTest, ARoundLeavesTheClusterAsItWas) {
  Add(Worker("a", 2));
  Queue(Entry("j", 2));
  EXPECT_THAT(Started(), ElementsAre("j"));
  EXPECT_EQ(cluster_.Free(false), 2);
  EXPECT_THAT(Started(), ElementsAre("j"));
}

}  // namespace
}  // namespace sab::server
