// Programs killed and checkpoints damaged in the middle of a job.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/checkpoint.h"
#include "tests/e2e/harness.h"
#include "tests/e2e/specs.h"

namespace sab::e2e {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class FaultsTest : public ::testing::Test {
 protected:
  // A job that trains until it is ended, when it has so many checkpoints.
  static JobId SubmitAndAwaitCheckpoints(Cluster& cluster, int replicas, size_t checkpoints) {
    const JobId job = cluster.Submit(CopyJob(replicas, kEndless, 40));
    cluster.AwaitCheckpoints(job, checkpoints);
    return job;
  }
};

TEST_F(FaultsTest, AKilledTrainerCostsAnAttemptAndNotABit) {
  for (const int victim : {1, 0}) {
    Cluster cluster;
    const JobId job = SubmitAndAwaitCheckpoints(cluster, 2, 2);
    ASSERT_EQ(kill(cluster.AwaitTrainers(job, 2)[victim], SIGKILL), 0);
    const v1::Job after = cluster.AwaitTraining(job, 2);
    EXPECT_THAT(after.attempts(0).end_reason(), HasSubstr("signal 9"));
    EXPECT_EQ(after.attempts(1).recovery_source(), absl::StrCat("memory of rank ", 1 - victim));
    EXPECT_GT(after.attempts(1).start_step(), 0);
    ExpectNoBitLost(cluster, job, 2);
  }
}

TEST_F(FaultsTest, TrainersThatAreKilledTooOftenFailTheJob) {
  Cluster cluster({.workers = 1});
  const JobId job = cluster.Submit(CopyJob(1, kEndless, 1000), {"--set", "queue.max_restarts=1"});
  for (int attempt = 1; attempt <= 2; ++attempt) {
    cluster.Await(job, [&](const v1::Job& seen) {
      return seen.attempt_count() == attempt && seen.state() == v1::JOB_STATE_RUNNING;
    });
    ASSERT_EQ(kill(cluster.AwaitTrainers(job, 1)[0], SIGKILL), 0);
  }
  const v1::Job final = cluster.AwaitFinal(job);
  EXPECT_EQ(final.state(), v1::JOB_STATE_FAILED);
  EXPECT_THAT(final.failure(), HasSubstr("signal 9"));
  EXPECT_EQ(cluster.Sabctl({"wait", job.value()}).code, 1);
}

TEST_F(FaultsTest, TheJobOfAKilledWorkerGoesOnOnAnother) {
  Cluster cluster({.workers = 2, .lease = "2s"});
  const JobId job = SubmitAndAwaitCheckpoints(cluster, 1, 1);
  const v1::Job before = *cluster.client().GetJob(job);
  ASSERT_FALSE(before.attempts().empty());
  const std::string worker = before.attempts(0).placements(0).worker();
  // Workers are named by what they keep in their state folders; which process this one is shows in the trainer's
  // parent.
  const pid_t trainer = cluster.AwaitTrainers(job, 1)[0];
  std::ifstream stat(absl::StrCat("/proc/", trainer, "/stat"));
  std::string pid, name, state;
  pid_t parent = 0;
  stat >> pid >> name >> state >> parent;
  const int index = cluster.worker(0).pid() == parent ? 0 : 1;
  ASSERT_EQ(cluster.worker(index).pid(), parent);
  cluster.KillWorker(index);
  const v1::Job after = cluster.AwaitTraining(job, 2);
  EXPECT_NE(after.attempts(1).placements(0).worker(), worker);
  EXPECT_GT(after.attempts(1).start_step(), 0);
  // A killed agent leaves no trainer behind.
  EXPECT_NE(kill(trainer, 0), 0);
}

TEST_F(FaultsTest, AWorkerThatComesBackTakesUpItsJobAgain) {
  Cluster cluster({.workers = 1, .lease = "2s"});
  const JobId job = SubmitAndAwaitCheckpoints(cluster, 1, 1);
  cluster.KillWorker(0);
  cluster.StartWorker(0);
  EXPECT_GT(cluster.AwaitTraining(job, 2).attempts(1).start_step(), 0);
  ExpectNoBitLost(cluster, job, 1);
}

TEST_F(FaultsTest, ARestartedCoordinatorAdoptsTheRunningAttempt) {
  Cluster cluster;
  const JobId job = SubmitAndAwaitCheckpoints(cluster, 2, 1);
  const std::vector<pid_t> trainers = cluster.AwaitTrainers(job, 2);
  cluster.KillCoordinator();
  cluster.StartCoordinator();
  const int64_t seen = cluster.client().GetJob(job)->step();
  cluster.Await(job,
                [&](const v1::Job& now) { return now.state() == v1::JOB_STATE_RUNNING && now.step() > seen + 50; });
  EXPECT_EQ(cluster.AwaitTrainers(job, 2), trainers);
  EXPECT_EQ(cluster.client().GetJob(job)->attempt_count(), 1);
  ExpectNoBitLost(cluster, job, 2);
}

TEST_F(FaultsTest, AWatchGoesOnOverARestartOfTheCoordinator) {
  Cluster cluster;
  const JobId job = SubmitAndAwaitCheckpoints(cluster, 2, 1);
  auto watch = ChildProcess::Start({.command = {BinDir() + "/sabctl", "--address", cluster.address(),
                                                "--connect-timeout", "60s", "watch", job.name()},
                                    .output = cluster.dir() + "/watch.out"});
  ASSERT_TRUE(watch.ok());
  ASSERT_TRUE(Eventually(
      [&] { return ReadFile(cluster.dir() + "/watch.out").value_or("").find("RUNNING") != std::string::npos; }));
  cluster.KillCoordinator();
  cluster.StartCoordinator();
  EXPECT_EQ(cluster.Sabctl({"cancel", job.value()}).code, 0);
  watch->Wait();
  EXPECT_EQ(watch->exit_code(), 3) << *ReadFile(cluster.dir() + "/watch.out");
  EXPECT_THAT(*ReadFile(cluster.dir() + "/watch.out"), HasSubstr("CANCELLED"));
}

TEST_F(FaultsTest, FinishedJobsFiguresAndCheckpointsOutliveTheCoordinator) {
  Cluster cluster({.workers = 1});
  const JobId job = cluster.Submit(CopyJob(1, 20, 10));
  EXPECT_EQ(cluster.AwaitFinal(job).state(), v1::JOB_STATE_SUCCEEDED);
  const Ran before = cluster.Sabctl({"metrics", job.name(), "-o", "jsonl"});
  const Ran checkpoints = cluster.Sabctl({"checkpoint", "list", job.name(), "-o", "name"});
  cluster.KillCoordinator();
  cluster.StartCoordinator();
  EXPECT_FALSE(before.out.empty());
  EXPECT_EQ(cluster.Sabctl({"metrics", job.name(), "-o", "jsonl"}).out, before.out);
  EXPECT_EQ(cluster.Sabctl({"checkpoint", "list", job.name(), "-o", "name"}).out, checkpoints.out);
  EXPECT_EQ(cluster.client().GetJob(job)->state(), v1::JOB_STATE_SUCCEEDED);
}

// The newest checkpoint folder of a job on disk.
std::string NewestFolder(const Cluster& cluster, const JobId& job) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(CheckpointParent(cluster.checkpoint_dir(), job.name()))) {
    const std::string name = entry.path().filename();
    if (name[0] != '.') names.insert(entry.path());
  }
  return names.empty() ? "" : *names.rbegin();
}

void FlipABit(const std::string& path) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(-3, std::ios::end);
  const char byte = static_cast<char>(file.get() ^ 4);
  file.seekp(-3, std::ios::end);
  file.put(byte);
}

TEST_F(FaultsTest, ADamagedCheckpointIsNotResumedFrom) {
  Cluster cluster;
  const JobId job = SubmitAndAwaitCheckpoints(cluster, 2, 2);
  const std::vector<pid_t> trainers = cluster.AwaitTrainers(job, 2);
  // Stopped first, so that no newer checkpoint is written meanwhile.
  for (pid_t trainer : trainers) ASSERT_EQ(kill(trainer, SIGSTOP), 0);
  const std::string newest = NewestFolder(cluster, job);
  FlipABit(newest + "/model.safetensors");
  for (pid_t trainer : trainers) ASSERT_EQ(kill(trainer, SIGKILL), 0);
  // Perhaps with an attempt between that hoped for the memory of the rank whose end was heard of last.
  const v1::Job after = cluster.Await(job, [](const v1::Job& seen) {
    return seen.attempt_count() > 1 && seen.state() == v1::JOB_STATE_RUNNING &&
           seen.attempts().rbegin()->recovery().has_first_step();
  });
  EXPECT_LE(after.attempt_count(), 3);
  const v1::Attempt& last = *after.attempts().rbegin();
  EXPECT_THAT(last.recovery_source(), HasSubstr(job.name()));
  EXPECT_THAT(last.recovery_source(), Not(HasSubstr(fs::path(newest).filename().string())));
  EXPECT_GT(last.start_step(), 0);
  ExpectNoBitLost(cluster, job, 2);
}

TEST_F(FaultsTest, ADamagedCheckpointIsRefusedToTheUser) {
  Cluster cluster({.workers = 1});
  const JobId job = cluster.Submit(CopyJob(1, 20, 10));
  EXPECT_EQ(cluster.AwaitFinal(job).state(), v1::JOB_STATE_SUCCEEDED);
  const std::string newest = NewestFolder(cluster, job);
  const std::string out = cluster.dir() + "/out";

  FlipABit(newest + "/model.safetensors");
  Ran ran = cluster.Sabctl({"checkpoint", "download", job.name(), "--to", out});
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.err, HasSubstr("model.safetensors"));
  EXPECT_FALSE(fs::exists(out + "/manifest.json"));

  FlipABit(newest + "/model.safetensors");
  fs::resize_file(newest + "/optimizer.safetensors", 100);
  ran = cluster.Sabctl({"checkpoint", "download", job.name(), "--to", out});
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.err, HasSubstr("optimizer.safetensors"));
  EXPECT_FALSE(fs::exists(out + "/manifest.json"));

  // The one before is sound.
  EXPECT_EQ(
      cluster.Sabctl({"checkpoint", "download", job.name(), "--step", "10", "--to", cluster.dir() + "/out-10"}).code,
      0);
}

}  // namespace
}  // namespace sab::e2e
