// train.deterministic with the real programs: one job on one, two and four ranks, paused and killed, and the same bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/checkpoint/checkpoint.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

constexpr int kEvalEvery = 250;

class DeterministicTest : public ::testing::Test {
 protected:
  JobId Submit(int replicas, int64_t steps) {
    return cluster_.Submit(CopyJob(replicas, static_cast<int>(steps), 0),
                           {"--set", "train.deterministic=true", "--set", "model.hidden_size=49", "--set",
                            absl::StrCat("eval.every=", kEvalEvery)});
  }
  void AwaitStep(const JobId& job, int64_t attempt, int64_t step) {
    cluster_.Await(job, [=](const v1::Job& seen) { return seen.attempt_count() == attempt && seen.step() >= step; });
  }

  // Digests of the parameters and optimiser in the job's last checkpoint, and every evaluation's figures with the
  // training loss before it.
  std::string Outcome(const JobId& job, const v1::Checkpoint& last) {
    std::string outcome = absl::StrCat(DigestOf(last, kModelFile), "\n", DigestOf(last, kOptimizerFile), "\n");
    int evaluations = 0;
    for (const char* split : {"eval", "train"}) {
      std::istringstream lines(
          cluster_.Sabctl({"metrics", job.value(), "--split", split, "--name", "loss", "-o", "jsonl"}).out);
      for (std::string line; std::getline(lines, line);) {
        int64_t step = 0;
        const size_t at = line.find("\"step\":");
        if (at != std::string::npos) step = std::atoll(line.c_str() + at + 7);
        if (step % kEvalEvery != 0) continue;  // which others there are depends on the clock
        absl::StrAppend(&outcome, line, "\n");
        ++evaluations;
      }
    }
    EXPECT_EQ(evaluations, 2 * (last.step() / kEvalEvery)) << outcome;
    return outcome;
  }

  Cluster cluster_{{.workers = 4}};
};

TEST_F(DeterministicTest, OneTwoAndFourRanksPausedAndKilledEndWithTheSameBits) {
  const auto expect_as_four = [&](const JobId& job) {
    const v1::Checkpoint left = cluster_.Pause(job);
    const std::string outcome = Outcome(job, left);
    const JobId four = Submit(4, left.step());
    const v1::Job final = cluster_.AwaitFinal(four);
    ASSERT_EQ(final.state(), v1::JOB_STATE_SUCCEEDED) << final.failure();
    EXPECT_EQ(outcome, Outcome(four, cluster_.AwaitCheckpoints(four, 1).front()));
    EXPECT_EQ(cluster_.client().GetJob(job)->attempt_count(), 2);
  };

  const JobId paused = Submit(1, kEndless);
  AwaitStep(paused, 1, 100);
  cluster_.Pause(paused);
  EXPECT_EQ(cluster_.Sabctl({"resume", paused.value()}).code, 0);
  AwaitStep(paused, 2, 3 * kEvalEvery);
  expect_as_four(paused);

  const JobId killed = Submit(2, kEndless);
  AwaitStep(killed, 1, 100);
  ASSERT_EQ(kill(cluster_.AwaitTrainers(killed, 2)[1], SIGKILL), 0);
  AwaitStep(killed, 2, 3 * kEvalEvery);
  expect_as_four(killed);
}

TEST_F(DeterministicTest, AnotherSeedGivesOtherBits) {
  const JobId one = cluster_.Submit(CopyJob(1, 20, 0), {"--set", "train.deterministic=true"});
  const JobId other =
      cluster_.Submit(CopyJob(1, 20, 0), {"--set", "train.deterministic=true", "--set", "train.seed=8"});
  cluster_.AwaitFinal(one);
  cluster_.AwaitFinal(other);
  EXPECT_NE(DigestOf(cluster_.AwaitCheckpoints(one, 1).front(), kModelFile),
            DigestOf(cluster_.AwaitCheckpoints(other, 1).front(), kModelFile));
}

TEST_F(DeterministicTest, ReplicasThatDoNotDivideTheShardsAreRefused) {
  const std::string yaml = CopyJob(3, 20, 0);
  std::ofstream(cluster_.dir() + "/job.yaml") << yaml;
  const Ran ran = cluster_.Sabctl({"submit", cluster_.dir() + "/job.yaml", "--set", "train.deterministic=true"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_THAT(ran.err, ::testing::HasSubstr("must divide train.shards = 4"));
}

}  // namespace
}  // namespace sab::e2e
