#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/util/scheduler_simulation.h"

namespace sab::testing_util {
namespace {

using ::testing::IsEmpty;

TEST(SchedulerSimulationTest, InvariantsHoldOverSeeds) {
  int64_t preemptions = 0, losses = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    const SimulationReport report = Simulate({.seed = seed});
    EXPECT_THAT(report.violations, IsEmpty());
    preemptions += report.preemptions;
    losses += report.worker_losses;
  }
  EXPECT_GT(preemptions, 100);
  EXPECT_GT(losses, 100);
}

TEST(SchedulerSimulationTest, InvariantsHoldWhenEveryJobIsElastic) {
  int64_t growths = 0, shrinks = 0, given_back = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    const SimulationReport report = Simulate({.seed = seed, .jobs = 60, .losses_per_hour = 12, .elastic_percent = 100});
    EXPECT_THAT(report.violations, IsEmpty());
    growths += report.growths;
    shrinks += report.shrinks;
    given_back += report.given_back;
  }
  EXPECT_GT(growths, 100);
  EXPECT_GT(shrinks, 100);
  EXPECT_GT(given_back, 100);
}

TEST(SchedulerSimulationTest, InvariantsHoldWhenAllJobsComeAtOnceAndWorkersComeAndGo) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    EXPECT_THAT(Simulate({.seed = seed, .jobs = 80, .arrivals = {}, .losses_per_hour = 12}).violations, IsEmpty());
  }
}

TEST(SchedulerSimulationTest, InvariantsHoldWithOneQueueAndOneKindOfSlot) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    EXPECT_THAT(Simulate({.seed = seed, .jobs = 80, .one_priority = true, .mixed_hardware = false}).violations,
                IsEmpty());
  }
}

TEST(SchedulerSimulationTest, TheSameSeedGivesTheSameDecisions) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    EXPECT_EQ(Simulate({.seed = seed}).digest, Simulate({.seed = seed}).digest);
  }
  EXPECT_NE(Simulate({.seed = 1}).digest, Simulate({.seed = 2}).digest);
}

}  // namespace
}  // namespace sab::testing_util
