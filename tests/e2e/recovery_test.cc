// Ranks and agents killed or stopped in the middle of a job: what is found, what it costs, what is lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class RecoveryTest : public ::testing::Test {
 protected:
  // Two ranks, without a checkpoint: what is not in memory is lost.
  static JobId Submit(Cluster& cluster) { return cluster.Submit(CopyJob(2, kEndless, 0)); }
};

TEST_F(RecoveryTest, AJobGoesOnFromThePeersMemoryWhicheverRankIsKilled) {
  Cluster cluster;
  const JobId job = Submit(cluster);
  for (const int victim : {1, 0}) {
    const int64_t attempt = victim == 1 ? 1 : 2;
    cluster.AwaitTraining(job, attempt);
    const std::vector<pid_t> before = cluster.AwaitTrainers(job, 2);
    ASSERT_EQ(kill(before[victim], SIGKILL), 0);
    const v1::Job after = cluster.AwaitTraining(job, attempt + 1);
    const v1::Attempt& recovered = *after.attempts().rbegin();
    EXPECT_EQ(recovered.recovery_source(), absl::StrCat("memory of rank ", 1 - victim));
    EXPECT_GT(recovered.start_step(), 0);
    EXPECT_LE(recovered.recovery().lost_steps(), 1);
    EXPECT_EQ(recovered.recovery().cause(), "failed");
    EXPECT_TRUE(recovered.recovery().has_first_step());
    // The survivor is the same process.
    EXPECT_EQ(cluster.AwaitTrainers(job, 2)[1 - victim], before[1 - victim]);
    EXPECT_THAT(after.attempts(static_cast<int>(attempt) - 1).end_reason(), HasSubstr("signal 9"));
  }
  ExpectNoBitLost(cluster, job, 2);
  EXPECT_THAT(cluster.Sabctl({"get", job.name()}).out, HasSubstr("FIRST STEP"));
}

TEST_F(RecoveryTest, AStoppedRankIsFoundAndNamed) {
  Cluster cluster;
  const JobId job = Submit(cluster);
  cluster.AwaitTraining(job, 1);
  ASSERT_EQ(kill(cluster.AwaitTrainers(job, 2)[1], SIGSTOP), 0);
  const v1::Job after = cluster.AwaitTraining(job, 2);
  EXPECT_THAT(after.attempts(0).end_reason(), StartsWith("rank 1 on workers/"));
  EXPECT_THAT(after.attempts(0).end_reason(), HasSubstr("hung: the trainer is stopped by a signal"));
  EXPECT_EQ(after.attempts(1).recovery().cause(), "hung");
  EXPECT_EQ(after.attempts(1).recovery_source(), "memory of rank 0");
  ExpectNoBitLost(cluster, job, 2);
}

TEST_F(RecoveryTest, AnAgentThatIsKilledAndStartedAgainGetsItsRankBackFromThePeersMemory) {
  Cluster cluster({.workers = 2, .lease = "30s"});
  const JobId job = Submit(cluster);
  const v1::Job before = cluster.AwaitTraining(job, 1);
  cluster.KillWorker(1);
  cluster.StartWorker(1);
  const v1::Job after = cluster.AwaitTraining(job, 2);
  EXPECT_THAT(after.attempts(1).recovery_source(), StartsWith("memory of rank "));
  EXPECT_GE(after.attempts(1).start_step(), before.step());
  ExpectNoBitLost(cluster, job, 2);
}

TEST_F(RecoveryTest, AKillInTheMiddleOfARecoveryCostsAnotherOneAndNothingElse) {
  Cluster cluster;
  const JobId job = Submit(cluster);
  cluster.AwaitTraining(job, 1);
  ASSERT_EQ(kill(cluster.AwaitTrainers(job, 2)[0], SIGKILL), 0);
  cluster.Await(job, [](const v1::Job& seen) { return seen.attempt_count() == 2; });
  ASSERT_EQ(kill(cluster.AwaitTrainers(job, 2)[0], SIGKILL), 0);
  const v1::Job after = cluster.AwaitTraining(job, 3);
  EXPECT_EQ(after.attempts(2).recovery_source(), "memory of rank 1");
  ExpectNoBitLost(cluster, job, 2);
}

TEST_F(RecoveryTest, WithNoMemoryLeftItGoesOnFromTheDiskAndPaysForOneRestart) {
  Cluster cluster;
  const JobId job = cluster.Submit(CopyJob(2, kEndless, 40), {"--set", "queue.max_restarts=1"});
  cluster.AwaitCheckpoints(job, 2);
  for (const pid_t trainer : cluster.AwaitTrainers(job, 2)) ASSERT_EQ(kill(trainer, SIGKILL), 0);
  const v1::Job after = cluster.Await(job, [](const v1::Job& seen) {
    if (seen.attempts().empty()) return false;
    const v1::Attempt& last = *seen.attempts().rbegin();
    return absl::StrContains(last.recovery_source(), "/checkpoints/") && last.start_step() > 0 &&
           seen.state() == v1::JOB_STATE_RUNNING && seen.step() > last.start_step() + 50;
  });
  EXPECT_FALSE(client::IsFinal(after.state())) << after.failure();
  ExpectNoBitLost(cluster, job, 2);
}

// Evaluations a thousand times as long as a step, and as checkpoints: nobody takes them for a fault.
TEST_F(RecoveryTest, LongEvaluationsAreNotMisjudged) {
  Cluster cluster;
  const JobId job = cluster.Submit(
      "name: long-evaluations\n"
      "model: {kind: sab, hidden_size: 32}\n"
      "task: {kind: copy, length: 5, one_hot: true}\n"
      "train: {batch_size: 4, steps: 60, seed: 7}\n"
      "eval: {every: 30, sequences: 256, lengths: [5, 1500]}\n"
      "checkpoint: {every: 10}\n"
      "resources: {replicas: 2, device: cpu}\n");
  const v1::Job final = cluster.AwaitFinal(job);
  EXPECT_EQ(final.state(), v1::JOB_STATE_SUCCEEDED) << final.failure();
  EXPECT_EQ(final.attempt_count(), 1);
}

}  // namespace
}  // namespace sab::e2e
