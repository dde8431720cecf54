// A job that may run with fewer replicas, with the real programs: a worker is killed and comes back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class ElasticTest : public ::testing::Test {
 protected:
  static std::vector<std::string> Settings(const char* replicas) {
    return {"--set", "train.deterministic=true", "--set", absl::StrCat("resources.replicas=", replicas),
            "--set", "model.hidden_size=49"};
  }
  JobId Submit(const char* replicas) { return cluster_.Submit(CopyJob(1, kEndless, 0), Settings(replicas)); }

  Cluster cluster_{{.workers = 2, .lease = "2s"}};
};

TEST_F(ElasticTest, AJobShrinksWhenAWorkerIsKilledAndGrowsWhenItIsBackWithoutLosingAStepOrABit) {
  const JobId job = Submit("{min: 1, max: 2}");
  const v1::Job both = cluster_.AwaitTraining(job, 1);
  ASSERT_EQ(both.attempts(0).placements_size(), 2);

  cluster_.KillWorker(1);
  const v1::Job one = cluster_.AwaitTraining(job, 2);
  ASSERT_EQ(one.attempts(1).placements_size(), 1);
  EXPECT_THAT(one.attempts(1).recovery_source(), StartsWith("memory of rank "));
  EXPECT_LE(one.attempts(1).recovery().lost_steps(), 1);  // reported by the lost rank alone
  EXPECT_GE(one.attempts(1).start_step(), both.step() - 1);
  cluster_.Await(job,
                 [](const v1::Job& seen) { return seen.state_reason() == "runs with 1 of 2 replicas: no free slot"; });
  EXPECT_THAT(cluster_.Sabctl({"explain", job.value()}).out, HasSubstr("runs with 1 of 2 replicas: no free slot"));

  cluster_.StartWorker(1);
  const v1::Job again = cluster_.AwaitTraining(job, 3);
  ASSERT_EQ(again.attempts(2).placements_size(), 2);
  EXPECT_EQ(again.attempts(1).end_reason(), "grows from 1 to 2 replicas");
  EXPECT_EQ(again.attempts(2).recovery().cause(), "resized");
  EXPECT_EQ(again.attempts(2).recovery().lost_steps(), 0);
  EXPECT_GE(again.attempts(2).start_step(), again.attempts(1).last_step());
  EXPECT_EQ(again.state_reason(), "");

  // What it has by now is what a job has that was never disturbed.
  ExpectNoBitLost(cluster_, job, 1, Settings("1"));
}

TEST_F(ElasticTest, AJobGivesASlotToOneThatWaitsWithoutLosingAStepOrABit) {
  const JobId job = Submit("{min: 1, max: 2}");
  ASSERT_EQ(cluster_.AwaitTraining(job, 1).attempts(0).placements_size(), 2);
  const JobId waiting = cluster_.Submit(CopyJob(1, 20, 0));
  EXPECT_EQ(cluster_.AwaitFinal(waiting).state(), v1::JOB_STATE_SUCCEEDED);
  const v1::Job now = *cluster_.client().GetJob(job);
  EXPECT_THAT(now.attempts(0).end_reason(), HasSubstr("shrinks from 2 to 1 replicas for " + waiting.name()));
  ASSERT_GE(now.attempt_count(), 2);
  EXPECT_EQ(now.attempts(1).recovery().cause(), "resized");
  EXPECT_EQ(now.attempts(1).recovery().lost_steps(), 0);
  EXPECT_GE(now.attempts(1).start_step(), now.attempts(0).last_step());
  ExpectNoBitLost(cluster_, job, 1, Settings("1"));
}

TEST_F(ElasticTest, AJobStartsWithOneSlotAndTakesTheSecondWhenTheJobThatHeldItEnds) {
  const JobId other = Submit("1");
  cluster_.AwaitTraining(other, 1);
  const JobId job = Submit("{min: 1, max: 2}");
  EXPECT_EQ(cluster_.AwaitTraining(job, 1).attempts(0).placements_size(), 1);
  EXPECT_EQ(cluster_.Sabctl({"cancel", other.value()}).code, 0);
  const v1::Job grown = cluster_.AwaitTraining(job, 2);
  EXPECT_EQ(grown.attempts(1).placements_size(), 2);
  EXPECT_EQ(grown.attempts(1).recovery().lost_steps(), 0);
}

}  // namespace
}  // namespace sab::e2e
