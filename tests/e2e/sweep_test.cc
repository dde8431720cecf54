// A sweep with successive halving, with the real programs: the coordinator is killed in the middle of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/checkpoint/checkpoint.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr int kSteps = 240;
constexpr int64_t kFirst = 70, kSecond = 140;
// The last ones train worse, and all differently.
constexpr const char* kRates[] = {"1.0e-3", "2.0e-3", "4.0e-3", "1.0e-5", "1.0e-4", "1.0e-6"};

// Neither rung is a step that is evaluated or saved anyhow.
std::string SweepFile() {
  return absl::StrCat(CopyJob(1, kSteps, 90), "sweep:\n  grid: {train.learning_rate: [", absl::StrJoin(kRates, ", "),
                      "]}\n  halving: {metric: loss, factor: 2, first: ", kFirst, "}\n");
}

std::vector<JobId> SubmitSweep(Cluster& cluster) {
  const std::string file = cluster.dir() + "/sweep.yaml";
  std::ofstream(file) << SweepFile();
  const Ran ran = cluster.Sabctl({"submit", file, "--sweep", "rates", "-o", "name"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  std::vector<JobId> jobs;
  for (const auto line : absl::StrSplit(ran.out, '\n', absl::SkipEmpty()))
    jobs.push_back(*ParseJobName(std::string(line)));
  return jobs;
}

// The figure that the job was evaluated with at this step; absent: it was not.
std::optional<double> LossAt(Cluster& cluster, const JobId& job, int64_t step) {
  v1::ListMetricsRequest request;
  request.set_job(job.name());
  request.set_split("eval");
  request.set_metric("loss");
  std::optional<double> loss;
  EXPECT_TRUE(cluster.client()
                  .ForEachPoint(request,
                                [&](const v1::MetricPoint& point) {
                                  if (point.step() == step) loss = point.value();
                                })
                  .ok());
  return loss;
}

// The jobs with the lowest loss at `step`.
std::vector<JobId> Best(Cluster& cluster, const std::vector<JobId>& jobs, int64_t step, size_t count) {
  std::vector<std::pair<double, JobId>> ranked;
  for (const JobId& job : jobs) {
    const std::optional<double> loss = LossAt(cluster, job, step);
    EXPECT_TRUE(loss.has_value()) << job.name() << " has no evaluation at step " << step;
    ranked.emplace_back(loss.value_or(0), job);
  }
  std::sort(ranked.begin(), ranked.end());
  std::vector<JobId> best;
  for (size_t i = 0; i < count && i < ranked.size(); ++i) best.push_back(ranked[i].second);
  return best;
}

bool Contains(const std::vector<JobId>& jobs, const JobId& job) {
  return std::find(jobs.begin(), jobs.end(), job) != jobs.end();
}

TEST(SweepTest, TheBestGoOnThroughKillsOfTheCoordinatorAndTheOthersEndAtTheirRung) {
  Cluster cluster;
  const std::vector<JobId> jobs = SubmitSweep(cluster);
  ASSERT_THAT(jobs, SizeIs(std::size(kRates)));
  // Killed when the first trials wait at the rung, and others have not begun.
  const v1::Job waiting = cluster.Await(
      jobs[0], [](const v1::Job& seen) { return absl::StrContains(seen.state_reason(), "of its sweep"); });
  EXPECT_EQ(waiting.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(waiting.step(), kFirst);
  cluster.KillCoordinator();
  cluster.StartCoordinator();
  EXPECT_EQ(SubmitSweep(cluster), jobs) << "the same sweep, submitted again, is the same jobs";
  // And when some are past it.
  Eventually([&] {
    return std::any_of(jobs.begin(), jobs.end(), [&](const JobId& job) {
      const auto seen = cluster.client().GetJob(job);
      return seen.ok() && seen->halving().passed() == 1;
    });
  });
  cluster.KillCoordinator();
  cluster.StartCoordinator();

  std::map<JobId, v1::Job> ends;
  for (const JobId& job : jobs) {
    ends[job] = cluster.AwaitFinal(job);
    EXPECT_EQ(ends[job].state(), v1::JOB_STATE_SUCCEEDED) << ends[job].failure();
  }
  const std::vector<JobId> three = Best(cluster, jobs, kFirst, 3);
  const std::vector<JobId> two = Best(cluster, three, kSecond, 2);
  for (const JobId& job : jobs) {
    const int64_t reached = Contains(two, job) ? kSteps : Contains(three, job) ? kSecond : kFirst;
    SCOPED_TRACE(ends[job].stop_reason());
    EXPECT_EQ(ends[job].step(), reached);
    EXPECT_EQ(cluster.AwaitCheckpoints(job, 1).front().step(), reached);
    if (reached == kSteps) {
      EXPECT_EQ(ends[job].stop_reason(), "steps");
      continue;
    }
    EXPECT_THAT(ends[job].stop_reason(), HasSubstr(absl::StrCat("halving: left its sweep at step ", reached)));
    EXPECT_FALSE(LossAt(cluster, job, reached + 1).has_value());
  }

  // The winner has the bits of the same job without a sweep.
  const size_t winner = static_cast<size_t>(std::find(jobs.begin(), jobs.end(), two[0]) - jobs.begin());
  const JobId alone =
      cluster.Submit(CopyJob(1, kSteps, 90), {"--set", absl::StrCat("train.learning_rate=", kRates[winner])});
  ASSERT_EQ(cluster.AwaitFinal(alone).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(DigestOf(cluster.AwaitCheckpoints(two[0], 1).front(), kModelFile),
            DigestOf(cluster.AwaitCheckpoints(alone, 1).front(), kModelFile));
}

}  // namespace
}  // namespace sab::e2e
