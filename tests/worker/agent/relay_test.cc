#include "worker/agent/relay.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/base/ids.h"
#include "common/checkpoint/checkpoint.h"
#include "common/rpc/channel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/util/temp_dir.h"
#include "tests/worker/agent/fake_coordinator.h"

namespace sab::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const TrainerKey kKey{"jobs/j", 1, 0};

class RelayTest : public ::testing::Test {
 protected:
  void Start(bool upload = false) {
    Relay::Options options{.worker = "workers/w",
                           .key = kKey,
                           .checkpoint_parent = dir_.path(),
                           .upload = upload,
                           .batch_interval = absl::ZeroDuration()};
    relay_ = std::make_unique<Relay>(options, stub_.get(), &metrics_, [this] {
      MutexLock lock(&mutex_);
      drained_ = true;
      changed_.NotifyAll();
    });
  }
  void AddPoints(int64_t from, int64_t to, const char* split = "train") {
    google::protobuf::RepeatedPtrField<v1::MetricPoint> points;
    for (int64_t step = from; step <= to; ++step) {
      v1::MetricPoint* point = points.Add();
      point->set_step(step);
      point->set_split(split);
    }
    relay_->AddPoints(points, to);
  }
  void FinishAndWait() {
    relay_->Finish();
    MutexLock lock(&mutex_);
    while (!drained_) changed_.Wait(&mutex_);
  }
  v1::Checkpoint Write(int64_t step, size_t bytes = 100) {
    v1::Checkpoint header;
    header.set_name(absl::StrCat("jobs/j/checkpoints/", MakeCheckpointId(step, 1)));
    header.set_step(step);
    header.set_attempt(1);
    auto writer = CheckpointWriter::Create(dir_.path(), header);
    EXPECT_TRUE(writer->AddFile(kStateFile, std::string(bytes, static_cast<char>('a' + step % 26))).ok());
    return *writer->Commit();
  }

  FakeCoordinator coordinator_;
  testing_util::TempDir dir_;
  std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  AgentMetrics metrics_{registry_};
  std::unique_ptr<v1::AgentService::Stub> stub_ = v1::AgentService::NewStub(rpc::MakeChannel(coordinator_.address()));
  Mutex mutex_;
  CondVar changed_;
  bool drained_ = false;
  std::unique_ptr<Relay> relay_;
};

TEST_F(RelayTest, EverythingArrivesInOrderBeforeItIsDrained) {
  Start();
  AddPoints(1, 100);
  relay_->AddLines({"one", "two"});
  AddPoints(101, 200);
  relay_->AddLines({"three"});
  FinishAndWait();
  const auto points = coordinator_.points();
  ASSERT_EQ(points.size(), 200);
  for (size_t i = 0; i < points.size(); ++i) EXPECT_EQ(points[i].step(), static_cast<int64_t>(i) + 1);
  EXPECT_THAT(coordinator_.lines(), ElementsAre("one", "two", "three"));
  EXPECT_EQ(coordinator_.batches().back().step(), 200);
}

TEST_F(RelayTest, ARepeatedBatchKeepsItsNumberAndContent) {
  coordinator_.FailNext("ReportMetrics", grpc::Status(grpc::StatusCode::UNAVAILABLE, "later"), 2);
  Start();
  AddPoints(1, 10);
  FinishAndWait();
  ASSERT_EQ(coordinator_.points().size(), 10);
  int64_t expected = 1;
  for (const auto& batch : coordinator_.batches()) EXPECT_EQ(batch.batch_id(), expected++);
}

TEST_F(RelayTest, AStaleAttemptDropsFiguresAndKeepsLines) {
  coordinator_.FailNext("ReportMetrics", grpc::Status(grpc::StatusCode::ABORTED, "stale"), 1);
  Start();
  AddPoints(1, 10);
  relay_->AddLines({"last words"});
  FinishAndWait();
  EXPECT_TRUE(coordinator_.points().empty());
  EXPECT_THAT(coordinator_.lines(), ElementsAre("last words"));
}

TEST_F(RelayTest, WithNothingToSayItIsDrainedAtOnce) {
  Start();
  EXPECT_FALSE(relay_->IsDrained());
  FinishAndWait();
  EXPECT_TRUE(relay_->IsDrained());
}

TEST_F(RelayTest, ACheckpointIsRepeatedUntilItIsRecorded) {
  coordinator_.FailNext("RecordCheckpoint", grpc::Status(grpc::StatusCode::UNAVAILABLE, "later"), 3);
  Start();
  relay_->AddCheckpoint(Write(5));
  relay_->AddCheckpoint(Write(6));
  FinishAndWait();
  ASSERT_EQ(coordinator_.recorded().size(), 2);
  EXPECT_EQ(coordinator_.recorded()[0].step(), 5);
  EXPECT_EQ(relay_->CheckpointError(), "");
  EXPECT_TRUE(std::filesystem::exists(dir_.path() + "/" + MakeCheckpointId(5, 1)));
}

TEST_F(RelayTest, ALastCheckpointThatIsRefusedIsAnError) {
  coordinator_.FailNext("RecordCheckpoint", grpc::Status(grpc::StatusCode::DATA_LOSS, "state.json is missing"), 100);
  Start();
  relay_->AddCheckpoint(Write(5));
  FinishAndWait();
  EXPECT_THAT(relay_->CheckpointError(), HasSubstr("state.json is missing"));
}

TEST_F(RelayTest, WithoutASharedFolderFilesAreSentWithTheManifestLast) {
  coordinator_.FailNext("UploadCheckpoint", grpc::Status(grpc::StatusCode::DATA_LOSS, "damaged"), 1);
  Start(/*upload=*/true);
  const v1::Checkpoint first = Write(5, 3'000'000);
  relay_->AddCheckpoint(first);
  relay_->AddCheckpoint(Write(6));
  FinishAndWait();
  ASSERT_EQ(coordinator_.recorded().size(), 2);
  const auto uploaded = coordinator_.uploaded();
  EXPECT_EQ(uploaded.at(first.name() + "/state.json").size(), 3'000'000);
  EXPECT_EQ(uploaded.count(first.name() + "/manifest.json"), 1);
}

TEST_F(RelayTest, OfUploadedCheckpointsOnlyTheNewestStaysHere) {
  Start(/*upload=*/true);
  for (int64_t step : {5, 6, 7}) relay_->AddCheckpoint(Write(step));
  FinishAndWait();
  EXPECT_FALSE(std::filesystem::exists(dir_.path() + "/" + MakeCheckpointId(6, 1)));
  EXPECT_TRUE(VerifyCheckpoint(dir_.path() + "/" + MakeCheckpointId(7, 1)).ok());
}

TEST_F(RelayTest, CancelEndsItWhateverWaits) {
  coordinator_.GoAway();
  Start(/*upload=*/true);
  AddPoints(1, 10);
  relay_->AddCheckpoint(Write(5));
  relay_->Finish();
  EXPECT_FALSE(relay_->IsDrained());
  relay_->Cancel();
  EXPECT_TRUE(relay_->IsDrained());
  relay_.reset();
}

TEST_F(RelayTest, WhatWaitsArrivesWhenTheCoordinatorIsBack) {
  coordinator_.GoAway();
  Start();
  AddPoints(1, 10);
  relay_->AddLines({"x"});
  coordinator_.ComeBack();
  FinishAndWait();
  EXPECT_EQ(coordinator_.points().size(), 10);
  EXPECT_THAT(coordinator_.lines(), ElementsAre("x"));
}

}  // namespace
}  // namespace sab::agent
