// The real sab-worker with fake trainers against a coordinator that the test plays.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/checkpoint/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/util/http_get.h"
#include "tests/util/temp_dir.h"
#include "tests/worker/agent/fake_coordinator.h"

namespace sab::agent {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

class WorkerTest : public ::testing::Test {
 protected:
  ~WorkerTest() override {
    if (worker_ > 0) Kill(SIGKILL);
  }

  void StartWorker(int slots = 2) {
    const std::string count = absl::StrCat(slots);
    worker_ = fork();
    if (worker_ == 0) {
      execl(SAB_WORKER, SAB_WORKER, "--coordinator", coordinator_.address().c_str(), "--state-dir", state_.c_str(),
            "--slots", count.c_str(), "--device", "cpu", "--trainer", SAB_FAKE_TRAINER, "--metrics-listen",
            "127.0.0.1:0", "--metrics-address-file", metrics_file_.c_str(), "--ready-file", ready_file_.c_str(),
            nullptr);
      _exit(127);
    }
  }
  // Returns the exit status.
  int Kill(int signal_number) {
    kill(worker_, signal_number);
    return Wait();
  }
  int Wait() {
    int status = 0;
    waitpid(worker_, &status, 0);
    worker_ = 0;
    return status;
  }

  static v1::TrainerAssignment Assignment(const TrainerKey& key, int64_t steps,
                                          std::map<std::string, std::string> settings = {}) {
    v1::TrainerAssignment assignment;
    *assignment.mutable_id() = key.ToId();
    assignment.set_world_size(1);
    assignment.set_worker_count(1);
    assignment.mutable_spec()->mutable_train()->set_steps(steps);
    assignment.mutable_spec()->mutable_eval()->set_every(10);
    assignment.mutable_spec()->mutable_eval()->add_lengths(20);
    assignment.mutable_spec()->mutable_checkpoint()->set_every(20);
    for (const auto& [name, value] : settings) (*assignment.mutable_spec()->mutable_labels())["fake." + name] = value;
    return assignment;
  }

  FakeCoordinator coordinator_;
  testing_util::TempDir dir_;
  std::string state_ = dir_.path() + "/state";
  const std::string metrics_file_ = dir_.path() + "/metrics-address";
  const std::string ready_file_ = dir_.path() + "/ready";
  const TrainerKey key_{"jobs/j", 1, 0};
  pid_t worker_ = 0;
};

TEST_F(WorkerTest, ReportsItsSlots) {
  StartWorker(3);
  const auto request = coordinator_.WaitForRequest([](const auto& r) { return r.sequence() > 0; });
  EXPECT_EQ(request.slots_size(), 3);
  EXPECT_EQ(request.host(), "127.0.0.1");
  EXPECT_GT(request.incarnation(), 0);
  EXPECT_TRUE(ParseWorkerName(request.worker()).ok());
}

TEST_F(WorkerTest, ATrainerSucceedsOnlyAfterAllItReportedHasArrived) {
  coordinator_.SetCheckpointDir(dir_.path() + "/shared");
  coordinator_.SetDesired({Assignment(key_, 50)});
  coordinator_.FailNext("RecordCheckpoint", grpc::Status(grpc::StatusCode::UNAVAILABLE, "later"), 5);
  StartWorker();
  const v1::TrainerStatus status = coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_SUCCEEDED);
  EXPECT_EQ(status.step(), 50);
  EXPECT_EQ(status.stop_reason(), "steps");
  ASSERT_EQ(coordinator_.recorded().size(), 3);  // 20, 40 and the end
  EXPECT_EQ(coordinator_.recorded()[2].step(), 50);
  EXPECT_TRUE(
      VerifyCheckpoint(CheckpointParent(dir_.path() + "/shared", "jobs/j") + "/" + MakeCheckpointId(50, 1)).ok());
  EXPECT_EQ(coordinator_.points().back().step(), 50);
  EXPECT_THAT(coordinator_.lines(), Contains(HasSubstr("trains to step 50")));
}

TEST_F(WorkerTest, AnEndIsReportedUntilItIsAnsweredAndThenForgotten) {
  coordinator_.SetDesired({Assignment(key_, 1)});
  StartWorker();
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_SUCCEEDED);
  coordinator_.SetDesired({});
  coordinator_.WaitForRequest([](const auto& request) { return request.trainers().empty(); });
}

TEST_F(WorkerTest, AFailureCarriesExitCodeAndLastWords) {
  coordinator_.SetDesired({Assignment(key_, 50, {{"fail_at_step", "3"}, {"exit_code", "9"}})});
  StartWorker();
  const v1::TrainerStatus status = coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_FAILED);
  EXPECT_THAT(status.failure(), HasSubstr("exited with code 9"));
  EXPECT_THAT(status.failure(), HasSubstr("fake trainer fails at step 3"));
  EXPECT_FALSE(status.permanent());
}

TEST_F(WorkerTest, AKilledTrainerIsReportedWithItsSignal) {
  coordinator_.SetDesired({Assignment(key_, 50, {{"fail_at_step", "3"}, {"fail_how", "kill"}})});
  StartWorker();
  EXPECT_THAT(coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_FAILED).failure(), HasSubstr("signal 9 (SIGKILL)"));
}

TEST_F(WorkerTest, APermanentFailureIsPassedOnInTheTrainersOwnWords) {
  coordinator_.SetDesired({Assignment(key_, 50, {{"fail_at_step", "3"}, {"fail_how", "permanent"}})});
  StartWorker();
  const v1::TrainerStatus status = coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_FAILED);
  EXPECT_EQ(status.failure(), "told to fail");
  EXPECT_TRUE(status.permanent());
}

TEST_F(WorkerTest, ExitCodeZeroWithoutAWordIsAFailure) {
  coordinator_.SetDesired({Assignment(key_, 50, {{"fail_at_step", "3"}, {"fail_how", "nothing"}})});
  StartWorker();
  EXPECT_THAT(coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_FAILED).failure(), HasSubstr("exited with code 0"));
}

TEST_F(WorkerTest, WhatIsNotWantedAnyMoreStopsAndItsSlotIsUsedAgain) {
  coordinator_.SetDesired({Assignment(key_, 1'000'000)});
  StartWorker(1);
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_TRAINING);
  const TrainerKey next{"jobs/k", 1, 0};
  coordinator_.SetDesired({Assignment(next, 5)});
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_STOPPED);
  coordinator_.WaitForPhase(next, v1::TRAINER_PHASE_SUCCEEDED);
}

TEST_F(WorkerTest, AnAnswerThatComesAfterANewerOneStopsNothing) {
  const TrainerKey key{"jobs/k", 1, 0};
  const v1::TrainerAssignment first = Assignment(key_, 20);
  v1::TrainerAssignment second = Assignment(key, 100, {{"step_ms", "5"}});
  second.set_slot(1);
  coordinator_.SetDesired({first});
  coordinator_.CrossNext({first, second});
  StartWorker();
  v1::TrainerPhase end = v1::TRAINER_PHASE_UNSPECIFIED;
  coordinator_.WaitForRequest([&](const auto& request) {
    for (const v1::TrainerStatus& status : request.trainers()) {
      const bool ended = status.phase() == v1::TRAINER_PHASE_SUCCEEDED || status.phase() == v1::TRAINER_PHASE_STOPPED ||
                         status.phase() == v1::TRAINER_PHASE_FAILED;
      if (TrainerKey::Of(status.id()) == key && ended) end = status.phase();
    }
    return end != v1::TRAINER_PHASE_UNSPECIFIED;
  });
  EXPECT_EQ(end, v1::TRAINER_PHASE_SUCCEEDED);
}

TEST_F(WorkerTest, ARankOnAnotherWorkerGetsTheRendezvousFromTheCoordinator) {
  const TrainerKey rank1{"jobs/j", 1, 1};
  v1::TrainerAssignment assignment = Assignment(rank1, 5);
  coordinator_.SetDesired({assignment});
  StartWorker();
  coordinator_.WaitForPhase(rank1, v1::TRAINER_PHASE_PREPARING);
  assignment.set_rendezvous("10.0.0.1:1234");
  coordinator_.SetDesired({assignment});
  coordinator_.WaitForPhase(rank1, v1::TRAINER_PHASE_SUCCEEDED);
}

TEST_F(WorkerTest, RanksOfOneWorkerMeetAndRankZeroPublishes) {
  const TrainerKey rank1{"jobs/j", 1, 1};
  v1::TrainerAssignment second = Assignment(rank1, 30);
  second.set_slot(1);
  coordinator_.SetDesired({Assignment(key_, 30), second});
  StartWorker();
  EXPECT_EQ(coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_SUCCEEDED).rendezvous(), "127.0.0.1:1");
  coordinator_.WaitForPhase(rank1, v1::TRAINER_PHASE_SUCCEEDED);
}

TEST_F(WorkerTest, WithoutASharedFolderItUploadsAndResumesFromADownload) {
  coordinator_.SetDesired({Assignment(key_, 40, {{"checkpoint_bytes", "2500000"}})});
  StartWorker();
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_SUCCEEDED);
  const v1::Checkpoint checkpoint = coordinator_.recorded().back();
  const std::string served = dir_.path() + "/served/" + MakeCheckpointId(40, 1);
  std::filesystem::create_directories(served);
  for (const auto& [name, content] : coordinator_.uploaded()) {
    if (name.rfind(checkpoint.name(), 0) != 0) continue;
    ASSERT_TRUE(WriteFileDurably(served + name.substr(name.rfind('/')), content).ok());
  }
  coordinator_.ServeCheckpointsFrom(dir_.path() + "/served");
  std::filesystem::remove_all(state_ + "/checkpoints/jobs");  // as another worker, which has nothing yet
  const TrainerKey second{"jobs/j", 2, 0};
  v1::TrainerAssignment assignment = Assignment(second, 60);
  *assignment.mutable_resume_from() = checkpoint;
  coordinator_.SetDesired({assignment});
  EXPECT_EQ(coordinator_.WaitForPhase(second, v1::TRAINER_PHASE_SUCCEEDED).step(), 60);
  EXPECT_THAT(coordinator_.lines(), Contains("resumed at step 40"));
}

TEST_F(WorkerTest, TrainersGoOnWhileTheCoordinatorIsAway) {
  coordinator_.SetDesired({Assignment(key_, 400)});
  StartWorker();
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_TRAINING);
  coordinator_.GoAway();
  coordinator_.ComeBack();
  EXPECT_EQ(coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_SUCCEEDED).step(), 400);
}

TEST_F(WorkerTest, OvertakenByANewerIncarnationItStopsItsTrainersAndExits) {
  coordinator_.SetDesired({Assignment(key_, 1'000'000)});
  StartWorker();
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_TRAINING);
  const auto request = coordinator_.WaitForRequest([](const auto& r) { return r.sequence() > 0; });
  coordinator_.AbortUpTo(request.incarnation());
  const int status = Wait();
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_TRUE(std::filesystem::is_empty(state_ + "/trainers"));
}

TEST_F(WorkerTest, AfterSigkillANewAgentKeepsTheIdAndReportsTheOldTrainersAsFailed) {
  coordinator_.SetDesired({Assignment(key_, 1'000'000)});
  StartWorker();
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_TRAINING);
  const auto before = coordinator_.WaitForRequest([](const auto& r) { return r.sequence() > 0; });
  Kill(SIGKILL);
  StartWorker();
  const auto after = coordinator_.WaitForRequest([&](const auto& r) { return r.incarnation() > before.incarnation(); });
  EXPECT_EQ(after.worker(), before.worker());
  EXPECT_THAT(coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_FAILED).failure(), HasSubstr("agent was restarted"));
}

TEST_F(WorkerTest, SigtermStopsTrainersSaysGoodbyeAndExitsWithZero) {
  coordinator_.SetDesired({Assignment(key_, 1'000'000)});
  StartWorker();
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_TRAINING);
  const int status = Kill(SIGTERM);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  const auto last = coordinator_.WaitForRequest([](const auto& r) { return r.slots().empty(); });
  ASSERT_EQ(last.trainers_size(), 1);
  EXPECT_EQ(last.trainers(0).phase(), v1::TRAINER_PHASE_FAILED);
  EXPECT_THAT(last.trainers(0).failure(), HasSubstr("shut down"));
}

TEST_F(WorkerTest, ServesItsMetricsAndIsReadyOnceTheCoordinatorHasAnswered) {
  coordinator_.SetDesired({Assignment(key_, 1'000'000)});
  StartWorker();
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_TRAINING);
  coordinator_.WaitUntil([&] { return std::filesystem::exists(ready_file_); });
  EXPECT_THAT(*ReadFile(ready_file_), testing::StartsWith("workers/"));
  const std::string address = *ReadFile(metrics_file_);
  EXPECT_THAT(testing_util::HttpGet(address, "/readyz"), testing::StartsWith("HTTP/1.1 200"));
  const std::string metrics = testing_util::HttpGet(address, "/metrics");
  EXPECT_THAT(metrics, HasSubstr("sab_worker_slots{device=\"cpu\"} 2"));
  EXPECT_THAT(metrics, HasSubstr("sab_worker_trainers{state=\"training\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("sab_worker_slot_step{slot=\"0\"} "));
  EXPECT_THAT(metrics, HasSubstr("sab_worker_trainer_exits_total{outcome=\"failed\"} 0"));
}

TEST_F(WorkerTest, IsNotReadyWithoutACoordinatorAndSaysWhy) {
  coordinator_.GoAway();
  StartWorker();
  coordinator_.WaitUntil([&] { return std::filesystem::exists(metrics_file_); });
  const std::string answer = testing_util::HttpGet(*ReadFile(metrics_file_), "/readyz");
  EXPECT_THAT(answer, testing::StartsWith("HTTP/1.1 503"));
  EXPECT_FALSE(std::filesystem::exists(ready_file_));
}

TEST_F(WorkerTest, AnUnfinishedCheckpointGoesWithTheTrainerThatWroteIt) {
  const std::string parent = CheckpointParent(dir_.path(), "jobs/j");
  coordinator_.SetCheckpointDir(dir_.path());
  coordinator_.SetDesired({Assignment(key_, 1'000'000)});
  StartWorker();
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_TRAINING);
  std::filesystem::create_directories(parent + "/.000000000999-a1.tmp-77");
  std::filesystem::create_directories(parent + "/.000000000999-a2.tmp-77");
  coordinator_.SetDesired({});
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_STOPPED);
  EXPECT_FALSE(std::filesystem::exists(parent + "/.000000000999-a1.tmp-77"));
  EXPECT_TRUE(std::filesystem::exists(parent + "/.000000000999-a2.tmp-77"));
}

TEST_F(WorkerTest, ALongStateFolderIsNoObstacleForTheSocket) {
  state_ = absl::StrCat(dir_.path(), "/", std::string(200, 's'));
  coordinator_.SetDesired({Assignment(key_, 3)});
  StartWorker();
  coordinator_.WaitForPhase(key_, v1::TRAINER_PHASE_SUCCEEDED);
}

}  // namespace
}  // namespace sab::agent
