// A job that may run with fewer replicas, with the real programs: a worker is killed and comes back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/checkpoint.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class ElasticTest : public ::testing::Test {
 protected:
  JobId Submit(int64_t steps, const char* replicas) {
    return cluster_.Submit(CopyJob(1, 1, 0),
                           {"--set", absl::StrCat("train.steps=", steps), "--set", "train.deterministic=true", "--set",
                            absl::StrCat("resources.replicas=", replicas), "--set", "model.hidden_size=49"});
  }
  // Waits until attempt `number` has trained a little.
  v1::Job AwaitTraining(const JobId& job, int64_t number) {
    return cluster_.Await(job, [&](const v1::Job& seen) {
      return seen.attempt_count() == number && seen.state() == v1::JOB_STATE_RUNNING &&
             seen.step() > seen.attempts().rbegin()->start_step() + 50;
    });
  }

  Cluster cluster_{{.workers = 2, .lease = "2s"}};
};

TEST_F(ElasticTest, AJobShrinksWhenAWorkerIsKilledAndGrowsWhenItIsBackWithoutLosingAStepOrABit) {
  const JobId job = Submit(100'000'000, "{min: 1, max: 2}");
  const v1::Job both = AwaitTraining(job, 1);
  ASSERT_EQ(both.attempts(0).placements_size(), 2);

  cluster_.KillWorker(1);
  const v1::Job one = AwaitTraining(job, 2);
  ASSERT_EQ(one.attempts(1).placements_size(), 1);
  EXPECT_THAT(one.attempts(1).recovery_source(), StartsWith("memory of rank "));
  EXPECT_LE(one.attempts(1).recovery().lost_steps(), 1);  // reported by the lost rank alone
  EXPECT_GE(one.attempts(1).start_step(), both.step() - 1);
  cluster_.Await(job,
                 [](const v1::Job& seen) { return seen.state_reason() == "runs with 1 of 2 replicas: no free slot"; });
  EXPECT_THAT(cluster_.Sabctl({"explain", job.value()}).out, HasSubstr("runs with 1 of 2 replicas: no free slot"));

  cluster_.StartWorker(1);
  const v1::Job again = AwaitTraining(job, 3);
  ASSERT_EQ(again.attempts(2).placements_size(), 2);
  EXPECT_EQ(again.attempts(1).end_reason(), "grows from 1 to 2 replicas");
  EXPECT_EQ(again.attempts(2).recovery().cause(), "resized");
  EXPECT_EQ(again.attempts(2).recovery().lost_steps(), 0);
  EXPECT_GE(again.attempts(2).start_step(), again.attempts(1).last_step());
  EXPECT_EQ(again.state_reason(), "");

  // What it has by now is what a job has that was never disturbed.
  EXPECT_EQ(cluster_.Sabctl({"pause", job.value()}).code, 0);
  const v1::Job paused = cluster_.Await(job, [](const v1::Job& seen) { return seen.state() == v1::JOB_STATE_PAUSED; });
  const JobId undisturbed = Submit(paused.step(), "1");
  ASSERT_EQ(cluster_.AwaitFinal(undisturbed).state(), v1::JOB_STATE_SUCCEEDED);
  const v1::Checkpoint disturbed_end = cluster_.AwaitCheckpoints(job, 1).front();
  const v1::Checkpoint undisturbed_end = cluster_.AwaitCheckpoints(undisturbed, 1).front();
  EXPECT_EQ(disturbed_end.step(), paused.step());
  EXPECT_EQ(undisturbed_end.step(), paused.step());
  for (const auto& file : {kModelFile, kOptimizerFile}) {
    EXPECT_EQ(DigestOf(disturbed_end, file), DigestOf(undisturbed_end, file)) << file;
  }
}

TEST_F(ElasticTest, AJobStartsWithOneSlotAndTakesTheSecondWhenTheJobThatHeldItEnds) {
  const JobId other = Submit(100'000'000, "1");
  AwaitTraining(other, 1);
  const JobId job = Submit(100'000'000, "{min: 1, max: 2}");
  EXPECT_EQ(AwaitTraining(job, 1).attempts(0).placements_size(), 1);
  EXPECT_EQ(cluster_.Sabctl({"cancel", other.value()}).code, 0);
  const v1::Job grown = AwaitTraining(job, 2);
  EXPECT_EQ(grown.attempts(1).placements_size(), 2);
  EXPECT_EQ(grown.attempts(1).recovery().lost_steps(), 0);
}

}  // namespace
}  // namespace sab::e2e
