// From submission to the checkpoint in hand, with the real programs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/safetensors.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

class TrainingTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { cluster_ = new Cluster(); }
  static void TearDownTestSuite() {
    delete cluster_;
    cluster_ = nullptr;
  }
  static std::vector<v1::MetricPoint> Metrics(const JobId& job, const std::string& split, const std::string& name) {
    v1::ListMetricsRequest request;
    request.set_job(job.name());
    request.set_split(split);
    request.set_metric(name);
    const auto page = cluster_->client().ListMetrics(request);
    EXPECT_TRUE(page.ok()) << page.status();
    return {page->points().begin(), page->points().end()};
  }

  static Cluster* cluster_;
};
Cluster* TrainingTest::cluster_ = nullptr;

TEST_F(TrainingTest, FromSubmissionToAVerifiedCheckpointThroughTheCommandLine) {
  const JobId job = cluster_->Submit(CopyJob(1, 40, 20));
  const Ran watched = cluster_->Sabctl({"watch", job.value()});
  EXPECT_EQ(watched.code, 0) << watched.out << watched.err;
  EXPECT_THAT(watched.out, HasSubstr("SUCCEEDED (steps): 40 of 40 steps"));

  const std::string out = cluster_->dir() + "/out";
  const Ran downloaded = cluster_->Sabctl({"checkpoint", "download", job.name(), "--to", out});
  EXPECT_EQ(downloaded.code, 0) << downloaded.err;
  EXPECT_EQ(cluster_->Sabctl({"checkpoint", "verify", out}).code, 0);
  const auto model = SafetensorsFile::Open(out + "/model.safetensors");
  ASSERT_TRUE(model.ok()) << model.status();
  std::set<std::string> names;
  for (const TensorView& tensor : (*model)->tensors()) names.insert(tensor.name);
  EXPECT_THAT(names,
              IsSupersetOf({"cell.weight_ih", "cell.weight_hh", "attention.memory.weight", "attention.query.weight",
                            "attention.score.weight", "output.weight", "output.bias"}));
}

TEST_F(TrainingTest, CheckpointsOfChosenStepsAreKeptAndFetched) {
  const JobId job = cluster_->Submit(CopyJob(1, 30, 10), {"--set", "checkpoint.initial=true"});
  EXPECT_EQ(cluster_->AwaitFinal(job).state(), v1::JOB_STATE_SUCCEEDED);
  std::set<int64_t> steps;
  for (const v1::Checkpoint& checkpoint : cluster_->AwaitCheckpoints(job, 4)) steps.insert(checkpoint.step());
  EXPECT_EQ(steps, (std::set<int64_t>{0, 10, 20, 30}));
  const std::string out = cluster_->dir() + "/out-10";
  EXPECT_EQ(cluster_->Sabctl({"checkpoint", "download", job.value(), "--step", "10", "--to", out}).code, 0);
  const auto verified = VerifyCheckpoint(out);
  ASSERT_TRUE(verified.ok());
  EXPECT_EQ(verified->step(), 10);
}

TEST_F(TrainingTest, TwoRanksAgreeWithOneOnTheLossOfEveryStep) {
  const JobId one = cluster_->Submit(CopyJob(1, 10, 0));
  const JobId two = cluster_->Submit(CopyJob(2, 10, 0));
  EXPECT_EQ(cluster_->AwaitFinal(one).state(), v1::JOB_STATE_SUCCEEDED);
  const v1::Job job = cluster_->AwaitFinal(two);
  EXPECT_EQ(job.state(), v1::JOB_STATE_SUCCEEDED) << job.failure();
  EXPECT_EQ(job.attempts(0).placements_size(), 2);
  EXPECT_NE(job.attempts(0).placements(0).worker(), job.attempts(0).placements(1).worker());
  const auto alone = Metrics(one, "train", "loss"), together = Metrics(two, "train", "loss");
  ASSERT_FALSE(alone.empty());
  ASSERT_EQ(alone.size(), together.size());
  for (size_t i = 0; i < alone.size(); ++i) {
    EXPECT_EQ(alone[i].step(), together[i].step());
    EXPECT_NEAR(alone[i].value(), together[i].value(), 1e-4 * std::abs(alone[i].value()) + 1e-6)
        << "step " << alone[i].step();
  }
}

TEST_F(TrainingTest, TheSameSpecTrainsTheSameBits) {
  const JobId first = cluster_->Submit(CopyJob(2, 15, 0));
  const JobId second = cluster_->Submit(CopyJob(2, 15, 0));
  EXPECT_EQ(cluster_->AwaitFinal(first).state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(cluster_->AwaitFinal(second).state(), v1::JOB_STATE_SUCCEEDED);
  const std::string digest = DigestOf(cluster_->AwaitCheckpoints(first, 1).front(), kModelFile);
  EXPECT_FALSE(digest.empty());
  EXPECT_EQ(digest, DigestOf(cluster_->AwaitCheckpoints(second, 1).front(), kModelFile));
}

TEST_F(TrainingTest, AStopConditionEndsTheJobWithItsReason) {
  const JobId job =
      cluster_->Submit(CopyJob(1, 100000, 0), {"--set", "eval.every=5", "--set", "eval.stop_when=accuracy >= 0"});
  const v1::Job final = cluster_->AwaitFinal(job);
  EXPECT_EQ(final.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(final.stop_reason(), HasSubstr("accuracy >= 0"));
  EXPECT_EQ(final.step(), 5);
}

TEST_F(TrainingTest, CompareLaysTwoJobsSideBySide) {
  const std::vector<std::string> options = {"--set", "eval.lengths=[10,20]"};
  const JobId first = cluster_->Submit(CopyJob(1, 5, 0), options);
  const JobId second = cluster_->Submit(CopyJob(1, 5, 0), options);
  cluster_->AwaitFinal(first);
  cluster_->AwaitFinal(second);
  const Ran compared = cluster_->Sabctl({"compare", first.name(), second.name()});
  EXPECT_EQ(compared.code, 0) << compared.err;
  EXPECT_THAT(compared.out, HasSubstr("accuracy@10  accuracy@20"));
  EXPECT_THAT(compared.out, HasSubstr(second.name()));
}

struct Kind {
  const char* name;
  const char* model;
};
class EveryKindTest : public TrainingTest, public ::testing::WithParamInterface<std::tuple<Kind, const char*>> {};

TEST_P(EveryKindTest, TrainsInTwoRanks) {
  const auto& [kind, task] = GetParam();
  const JobId job =
      cluster_->Submit(absl::StrCat("name: kinds\nmodel: {", kind.model, ", hidden_size: 8}\ntask: {kind: ", task,
                                    ", length: 12}\ntrain: {batch_size: 6, steps: 3}\neval: {sequences: 8}\n"
                                    "resources: {replicas: 2, device: cpu}\n"));
  const v1::Job final = cluster_->AwaitFinal(job);
  EXPECT_EQ(final.state(), v1::JOB_STATE_SUCCEEDED) << final.failure();
  EXPECT_EQ(final.step(), 3);
  EXPECT_FALSE(Metrics(job, "eval", "loss").empty());
}

INSTANTIATE_TEST_SUITE_P(Models, EveryKindTest,
                         ::testing::Combine(::testing::Values(Kind{"Sab", "kind: sab"}, Kind{"Lstm", "kind: lstm"},
                                                              Kind{"TruncatedLstm", "kind: lstm, k_trunc: 5"},
                                                              Kind{"Attention", "kind: attention"}),
                                            ::testing::Values("copy", "adding")),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param).name, "On", std::get<1>(info.param));
                         });

}  // namespace
}  // namespace sab::e2e
