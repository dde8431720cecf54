// Leaving slots and coming back, with the real programs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

using ::testing::HasSubstr;

TEST(QueueTest, APausedJobOfTwoRanksGoesOnWithoutLosingAStepOrABit) {
  Cluster cluster;
  const JobId job = cluster.Submit(CopyJob(2, kEndless, 0));
  cluster.AwaitTraining(job, 1);
  const v1::Checkpoint left = cluster.Pause(job);
  EXPECT_EQ(cluster.client().GetJob(job)->attempts(0).end_reason(), "left with a checkpoint");
  EXPECT_EQ(cluster.Sabctl({"resume", job.value()}).code, 0);
  EXPECT_EQ(cluster.AwaitTraining(job, 2).attempts(1).start_step(), left.step());
  ExpectNoBitLost(cluster, job, 2);
}

TEST(QueueTest, SlotsOfAWorkerShareItsMemory) {
  Cluster cluster({.workers = 1, .slots = 2, .memory = "1GiB"});
  const std::vector<std::string> large = {"--set", "resources.memory=768MiB"};
  // With a limit it is known when its memory comes free, and so that the small one is in nobody's way.
  const JobId first =
      cluster.Submit(CopyJob(1, kEndless, 0), {"--set", "resources.memory=768MiB", "--set", "queue.time_limit=1h"});
  cluster.Await(first, [](const v1::Job& now) { return now.state() == v1::JOB_STATE_RUNNING; });
  const JobId second = cluster.Submit(CopyJob(1, 20, 0), large);
  const JobId huge = cluster.Submit(CopyJob(1, 20, 0), {"--set", "resources.memory=2GiB"});
  // One that asks for what is predicted of it fits beside the first.
  EXPECT_EQ(cluster.AwaitFinal(cluster.Submit(CopyJob(1, 20, 0))).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(cluster.Sabctl({"explain", second.value()}).out, HasSubstr("waits for 1 cpu slot with 768 MiB more"));
  EXPECT_THAT(cluster.Sabctl({"explain", huge.value()}).out, HasSubstr("the largest worker has 1 GiB"));
  EXPECT_EQ(cluster.Sabctl({"cancel", first.value()}).code, 0);
  EXPECT_EQ(cluster.AwaitFinal(second).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(cluster.Sabctl({"cancel", huge.value()}).code, 0);
}

TEST(QueueTest, AJobOverItsTimeLimitFailsAndKeepsItsCheckpoint) {
  Cluster cluster({.workers = 1});
  const JobId job = cluster.Submit(CopyJob(1, kEndless, 0), {"--set", "queue.time_limit=3s"});
  const v1::Job final = cluster.AwaitFinal(job);
  EXPECT_EQ(final.state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(final.failure(), HasSubstr("queue.time_limit 3s is over"));
  EXPECT_EQ(final.attempt_count(), 1);
}

}  // namespace
}  // namespace sab::e2e
