// Jobs as users see them: creating, listing, cancelling, deleting, explaining.
#include <gmock/gmock.h>

#include <filesystem>

#include "common/base/status.h"
#include "tests/server/coordinator_fixture.h"

namespace sab::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class CoordinatorJobsTest : public CoordinatorFixture {
 protected:
  std::vector<std::string> List(const std::string& filter, int page_size = 0) {
    std::vector<std::string> names;
    v1::ListJobsRequest request;
    request.set_filter(filter);
    request.set_page_size(page_size);
    do {
      auto page = coordinator_->ListJobs(request);
      EXPECT_TRUE(page.ok()) << page.status();
      if (!page.ok()) return names;
      for (const auto& job : page->jobs()) names.push_back(job.name());
      request.set_page_token(page->next_page_token());
    } while (!request.page_token().empty());
    return names;
  }
};

TEST_F(CoordinatorJobsTest, ACreatedJobIsQueuedWithEveryDefaultResolvedAndSurvivesARestart) {
  const JobId id = Submit();
  EXPECT_EQ(State(id), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(Get(id).spec().train().batch_size(), 64);
  EXPECT_THAT(Get(id).state_reason(), HasSubstr("no worker is connected"));
  Start();
  EXPECT_EQ(State(id), v1::JOB_STATE_QUEUED);
}

TEST_F(CoordinatorJobsTest, AnInvalidSpecIsRefusedWithEveryViolation) {
  v1::CreateJobRequest request;
  *request.mutable_spec() = CopySpec();
  request.mutable_spec()->mutable_train()->set_steps(0);
  request.mutable_spec()->mutable_task()->set_length(0);
  const auto refused = coordinator_->CreateJob(request);
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status()));
  EXPECT_EQ(ReasonOf(refused.status()), "INVALID_SPEC");
  EXPECT_THAT(ViolationsOf(refused.status()), SizeIs(2));
}

TEST_F(CoordinatorJobsTest, ValidateOnlyCreatesNothing) {
  v1::CreateJobRequest request;
  *request.mutable_spec() = CopySpec();
  request.set_validate_only(true);
  const auto response = coordinator_->CreateJob(request);
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->job().name(), "");
  EXPECT_GT(response->cost().parameters(), 0);
  EXPECT_THAT(List(""), SizeIs(0));
}

TEST_F(CoordinatorJobsTest, ARepeatedRequestIdGivesTheSameJobEvenAfterARestart) {
  v1::CreateJobRequest request;
  *request.mutable_spec() = CopySpec();
  request.set_request_id("r1");
  const std::string name = coordinator_->CreateJob(request)->job().name();
  EXPECT_EQ(coordinator_->CreateJob(request)->job().name(), name);
  Start();
  EXPECT_EQ(coordinator_->CreateJob(request)->job().name(), name);
  request.mutable_spec()->set_name("other");
  const auto refused = coordinator_->CreateJob(request);
  EXPECT_TRUE(absl::IsAlreadyExists(refused.status()));
  EXPECT_EQ(ReasonOf(refused.status()), "REQUEST_ID_REUSED");
}

TEST_F(CoordinatorJobsTest, ListingIsNewestFirstAndPagesCoverEveryJobOnce) {
  const JobId a = Submit();
  const JobId b = Submit();
  const JobId c = Submit();
  EXPECT_THAT(List("", 2), ElementsAre(c.name(), b.name(), a.name()));
  EXPECT_THAT(List("", 1), ElementsAre(c.name(), b.name(), a.name()));
}

TEST_F(CoordinatorJobsTest, FiltersByStateNameAndLabel) {
  v1::JobSpec spec = CopySpec();
  spec.set_name("mine");
  (*spec.mutable_labels())["team"] = "x";
  const JobId mine = Submit(spec);
  const JobId other = Submit();
  ASSERT_TRUE(coordinator_->CancelJob(other).ok());
  EXPECT_THAT(List("state = CANCELLED"), ElementsAre(other.name()));
  EXPECT_THAT(List("name = mine AND labels.team = x"), ElementsAre(mine.name()));
  EXPECT_THAT(List("labels.team = y"), SizeIs(0));
  for (const char* bad : {"state = LOST", "team = x", "state", "labels. = x", "state ="}) {
    v1::ListJobsRequest request;
    request.set_filter(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(coordinator_->ListJobs(request).status())) << bad;
  }
}

TEST_F(CoordinatorJobsTest, APageTokenThatNoPageGaveIsRefused) {
  v1::ListJobsRequest request;
  request.set_page_token("nonsense");
  EXPECT_TRUE(absl::IsInvalidArgument(coordinator_->ListJobs(request).status()));
}

TEST_F(CoordinatorJobsTest, CancellingIsImmediateAndMayBeRepeated) {
  FakeAgent agent("workers/w", 1);
  Join(agent);
  const JobId id = Running(agent);
  EXPECT_EQ(coordinator_->CancelJob(id)->state(), v1::JOB_STATE_CANCELLED);
  EXPECT_TRUE(coordinator_->CancelJob(id).ok());
  EXPECT_EQ(Get(id).attempts(0).end_reason(), "cancelled");
  Settle(agent);
  EXPECT_FALSE(agent.Runs(id.name()));
}

TEST_F(CoordinatorJobsTest, AJobCancelledWhileItStartsNeverRuns) {
  FakeAgent agent("workers/w", 1);
  Join(agent);
  const JobId id = Submit();
  EXPECT_EQ(State(id), v1::JOB_STATE_STARTING);
  ASSERT_TRUE(coordinator_->CancelJob(id).ok());
  Settle(agent);
  EXPECT_FALSE(agent.Runs(id.name()));
  // Nobody had been told of it: its slot is free.
  Submit();
  Settle(agent);
  EXPECT_EQ(agent.size(), 1u);
}

TEST_F(CoordinatorJobsTest, AFinalJobCannotBeCancelledAndOnlyAFinalJobDeleted) {
  FakeAgent agent("workers/w", 1);
  Join(agent);
  const JobId id = Running(agent);
  EXPECT_EQ(ReasonOf(coordinator_->DeleteJob(id)), "JOB_NOT_FINAL");
  Set(agent, id, v1::TRAINER_PHASE_SUCCEEDED, 100);
  ASSERT_TRUE(Sync(agent).ok());
  EXPECT_EQ(ReasonOf(coordinator_->CancelJob(id).status()), "JOB_FINAL");
  EXPECT_TRUE(coordinator_->DeleteJob(id).ok());
}

TEST_F(CoordinatorJobsTest, DeletingRemovesFilesAndFiguresEvenIfTheCoordinatorIsRestartedBetween) {
  FakeAgent agent("workers/w", 1);
  Join(agent);
  const JobId id = Running(agent);
  Record(agent, id, 5);
  ASSERT_TRUE(metric_store_->Append({id, 1, 0}, 1, {v1::MetricPoint()}).ok());
  ASSERT_TRUE(coordinator_->CancelJob(id).ok());
  ASSERT_TRUE(coordinator_->DeleteJob(id).ok());
  EXPECT_TRUE(absl::IsNotFound(coordinator_->GetJob(id).status()));
  const std::string folder = checkpoint_dir() + "/" + id.name();
  EXPECT_TRUE(std::filesystem::exists(folder));
  Start();
  Background();
  EXPECT_FALSE(std::filesystem::exists(folder));
  EXPECT_THAT(*metric_store_->ReadAfter(id, 0, 10), SizeIs(0));
}

TEST_F(CoordinatorJobsTest, ExplainGivesThePlaceInTheQueueAndTheReason) {
  Submit(CopySpec(8));
  const JobId second = Submit(CopySpec(9));
  FakeAgent agent("workers/w", 2);
  Join(agent);
  const auto explained = coordinator_->ExplainJob(second);
  EXPECT_EQ(explained->queue_position(), 2);
  EXPECT_THAT(explained->reason(), HasSubstr("needs 9 cpu slots; the connected workers have 2"));
}

TEST_F(CoordinatorJobsTest, EveryVisibleChangeRaisesTheVersionAndARestartNeverLowersIt) {
  FakeAgent agent("workers/w", 1);
  Join(agent);
  const JobId id = Running(agent);
  const int64_t running = Get(id).version();
  Set(agent, id, v1::TRAINER_PHASE_TRAINING, 50);
  ASSERT_TRUE(Sync(agent).ok());
  const int64_t later = Get(id).version();
  EXPECT_GT(later, running);
  Start();
  EXPECT_GT(Get(id).version(), later);
  EXPECT_FALSE(coordinator_->GetJobUnlessVersion(id, Get(id).version())->has_value());
}

}  // namespace
}  // namespace sab::server
