// Ranks and agents killed or stopped in the middle of a job: what is found, what it costs, what is lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/checkpoint/checkpoint.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kSteps = 3000;

class RecoveryTest : public ::testing::Test {
 protected:
  // Without a checkpoint before the end: what is not in memory is lost.
  static std::string Spec() { return CopyJob(2, kSteps, 0); }

  static std::string UndisturbedDigest(Cluster& cluster) {
    static std::string digest;
    if (digest.empty()) digest = FinalDigest(cluster, cluster.Submit(Spec()));
    return digest;
  }
  static std::string FinalDigest(Cluster& cluster, const JobId& job) {
    const v1::Job final = cluster.AwaitFinal(job);
    EXPECT_EQ(final.state(), v1::JOB_STATE_SUCCEEDED) << final.failure();
    const v1::Checkpoint last = cluster.AwaitCheckpoints(job, 1).front();
    EXPECT_EQ(last.step(), kSteps);
    return DigestOf(last, kModelFile);
  }
  // Waits until attempt `number` has trained a little.
  static v1::Job AwaitTraining(Cluster& cluster, const JobId& job, int64_t number) {
    return cluster.Await(job, [&](const v1::Job& seen) {
      return seen.attempt_count() == number && seen.state() == v1::JOB_STATE_RUNNING &&
             seen.step() > seen.attempts().rbegin()->start_step() + 50;
    });
  }
};

TEST_F(RecoveryTest, AJobGoesOnFromThePeersMemoryWhicheverRankIsKilled) {
  Cluster cluster;
  const std::string undisturbed = UndisturbedDigest(cluster);
  const JobId job = cluster.Submit(Spec());
  for (const int victim : {1, 0}) {
    const int64_t attempt = victim == 1 ? 1 : 2;
    AwaitTraining(cluster, job, attempt);
    const std::vector<pid_t> before = cluster.AwaitTrainers(job, 2);
    ASSERT_EQ(kill(before[victim], SIGKILL), 0);
    const v1::Job after = AwaitTraining(cluster, job, attempt + 1);
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
  EXPECT_EQ(FinalDigest(cluster, job), undisturbed);
  EXPECT_THAT(cluster.Sabctl({"get", job.name()}).out, HasSubstr("FIRST STEP"));
}

TEST_F(RecoveryTest, AStoppedRankIsFoundAndNamed) {
  Cluster cluster;
  const std::string undisturbed = UndisturbedDigest(cluster);
  const JobId job = cluster.Submit(Spec());
  AwaitTraining(cluster, job, 1);
  ASSERT_EQ(kill(cluster.AwaitTrainers(job, 2)[1], SIGSTOP), 0);
  EXPECT_EQ(FinalDigest(cluster, job), undisturbed);
  const v1::Job final = *cluster.client().GetJob(job);
  ASSERT_EQ(final.attempt_count(), 2);
  EXPECT_THAT(final.attempts(0).end_reason(), StartsWith("rank 1 on workers/"));
  EXPECT_THAT(final.attempts(0).end_reason(), HasSubstr("hung: the trainer is stopped by a signal"));
  EXPECT_EQ(final.attempts(1).recovery().cause(), "hung");
  EXPECT_EQ(final.attempts(1).recovery_source(), "memory of rank 0");
}

TEST_F(RecoveryTest, AnAgentThatIsKilledAndStartedAgainGetsItsRankBackFromThePeersMemory) {
  Cluster cluster({.workers = 2, .lease = "30s"});
  const std::string undisturbed = UndisturbedDigest(cluster);
  const JobId job = cluster.Submit(Spec());
  const v1::Job before = AwaitTraining(cluster, job, 1);
  cluster.KillWorker(1);
  cluster.StartWorker(1);
  EXPECT_EQ(FinalDigest(cluster, job), undisturbed);
  const v1::Job final = *cluster.client().GetJob(job);
  EXPECT_EQ(final.attempt_count(), 2);
  EXPECT_THAT(final.attempts(1).recovery_source(), StartsWith("memory of rank "));
  EXPECT_GE(final.attempts(1).start_step(), before.step());
}

TEST_F(RecoveryTest, AKillInTheMiddleOfARecoveryCostsAnotherOneAndNothingElse) {
  Cluster cluster;
  const std::string undisturbed = UndisturbedDigest(cluster);
  const JobId job = cluster.Submit(Spec());
  AwaitTraining(cluster, job, 1);
  ASSERT_EQ(kill(cluster.AwaitTrainers(job, 2)[0], SIGKILL), 0);
  cluster.Await(job, [](const v1::Job& seen) { return seen.attempt_count() == 2; });
  ASSERT_EQ(kill(cluster.AwaitTrainers(job, 2)[0], SIGKILL), 0);
  EXPECT_EQ(FinalDigest(cluster, job), undisturbed);
  const v1::Job final = *cluster.client().GetJob(job);
  EXPECT_EQ(final.attempt_count(), 3);
  EXPECT_EQ(final.attempts(2).recovery_source(), "memory of rank 1");
}

TEST_F(RecoveryTest, WithNoMemoryLeftItGoesOnFromTheDiskAndPaysForOneRestart) {
  Cluster cluster;
  const JobId job = cluster.Submit(CopyJob(2, 3000, 40), {"--set", "queue.max_restarts=1"});
  cluster.AwaitCheckpoints(job, 2);
  for (const pid_t trainer : cluster.AwaitTrainers(job, 2)) ASSERT_EQ(kill(trainer, SIGKILL), 0);
  const v1::Job final = cluster.AwaitFinal(job);
  EXPECT_EQ(final.state(), v1::JOB_STATE_SUCCEEDED) << final.failure();
  EXPECT_THAT(final.attempts().rbegin()->recovery_source(), HasSubstr("/checkpoints/"));
  EXPECT_GT(final.attempts().rbegin()->start_step(), 0);
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
