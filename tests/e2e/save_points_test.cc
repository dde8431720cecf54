// Updates that take many times as long as checkpoint.within_update, and trainers killed in the middle of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/checkpoint/checkpoint.h"
#include "tests/e2e/harness.h"

namespace sab::e2e {
namespace {

using ::testing::HasSubstr;

std::string Spec(const std::string& within_update) {
  return absl::StrCat(
      "name: long-updates\n"
      "model: {kind: sab, hidden_size: 32, score: separable}\n"
      "task: {kind: copy, length: 600000, one_hot: true}\n"
      "train: {batch_size: 16, steps: 2, seed: 3}\n"
      "eval: {every: 0, lengths: [20], sequences: 2}\n"
      "checkpoint: {every: 0, within_update: ",
      within_update,
      "}\n"
      "resources: {replicas: 2, device: cpu}\n");
}

std::string FinalDigest(Cluster& cluster, const JobId& job) {
  const v1::Job final = cluster.AwaitFinal(job);
  EXPECT_EQ(final.state(), v1::JOB_STATE_SUCCEEDED) << final.failure();
  const v1::Checkpoint last = cluster.AwaitCheckpoints(job, 1).front();
  EXPECT_EQ(last.step(), 2);
  return DigestOf(last, kModelFile);
}

// Records of save points of `step`.
int CountSaved(const std::string& folder, int step) {
  int count = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename();
    count += absl::StartsWith(name, absl::StrCat("00000000000", step)) && absl::EndsWith(name, ".json") &&
             !absl::StrContains(name, "sum");
  }
  return count;
}

TEST(SavePointsTest, AllTrainersAreKilledInTheMiddleOfAnUpdateAndGoOnThere) {
  Cluster cluster;
  const std::string undisturbed = FinalDigest(cluster, cluster.Submit(Spec("0")));
  const JobId job = cluster.Submit(Spec("1s"));
  const std::string folder = absl::StrCat(cluster.checkpoint_dir(), "/", job.name(), "/save_points");
  // The second update: it needs the checkpoint of the first, which nothing but its save points asks for.
  ASSERT_TRUE(Eventually([&] { return CountSaved(folder, 2) >= 2; }));
  cluster.AwaitCheckpoints(job, 1);
  for (const pid_t trainer : cluster.AwaitTrainers(job, 2)) ASSERT_EQ(kill(trainer, SIGKILL), 0);
  EXPECT_EQ(FinalDigest(cluster, job), undisturbed);
  const v1::Job final = *cluster.client().GetJob(job);
  EXPECT_GE(final.attempt_count(), 2);
  EXPECT_EQ(final.attempts().rbegin()->start_step(), 1);
  EXPECT_THAT(cluster.Sabctl({"logs", job.name()}).out, HasSubstr("update 2: goes on in the middle"));
  EXPECT_FALSE(std::filesystem::exists(folder));
}

}  // namespace
}  // namespace sab::e2e
