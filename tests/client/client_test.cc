#include "client/api/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "absl/time/clock.h"
#include "common/base/status.h"
#include "tests/client/fake_service.h"

namespace sab::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ClientTest : public ::testing::Test {
 protected:
  ClientOptions Options(absl::Duration connect_timeout = absl::Seconds(10)) {
    return {.address = fake_.address(), .connect_timeout = connect_timeout};
  }
  static v1::Job JobAt(int64_t version, v1::JobState state) {
    v1::Job job;
    job.set_name("jobs/abc");
    job.set_version(version);
    job.set_state(state);
    return job;
  }

  FakeService fake_;
  const JobId id_ = JobId("abc");
};

TEST_F(ClientTest, ARetriedSubmissionCarriesTheSameRequestId) {
  std::vector<std::string> request_ids;
  fake_.create_job = [&](const v1::CreateJobRequest& request, v1::CreateJobResponse* response) {
    request_ids.push_back(request.request_id());
    if (request_ids.size() < 3) return absl::UnavailableError("restarting");
    response->mutable_job()->set_name("jobs/abc");
    return absl::OkStatus();
  };
  Client client(Options());
  ASSERT_TRUE(client.CreateJob({}).ok());
  ASSERT_EQ(request_ids.size(), 3);
  EXPECT_EQ(std::set<std::string>(request_ids.begin(), request_ids.end()).size(), 1);
  EXPECT_FALSE(request_ids[0].empty());
}

TEST_F(ClientTest, TwoSubmissionsHaveTwoRequestIds) {
  std::set<std::string> request_ids;
  fake_.create_job = [&](const v1::CreateJobRequest& request, v1::CreateJobResponse*) {
    request_ids.insert(request.request_id());
    return absl::OkStatus();
  };
  Client client(Options());
  ASSERT_TRUE(client.CreateJob({}).ok());
  ASSERT_TRUE(client.CreateJob({}).ok());
  EXPECT_EQ(request_ids.size(), 2);
}

TEST_F(ClientTest, NobodyAtTheAddressIsUnavailableAndSaysWhatToDo) {
  fake_.Stop();
  Client client(Options(absl::Milliseconds(200)));
  const absl::Status status = client.GetJob(id_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(fake_.address()));
  EXPECT_THAT(std::string(status.message()), HasSubstr("sabctl up"));
}

TEST_F(ClientTest, ACoordinatorThatComesWithinTheConnectTimeoutIsWaitedFor) {
  fake_.get_job = [](const v1::GetJobRequest&, v1::GetJobResponse* response) {
    response->mutable_job()->set_name("jobs/abc");
    return absl::OkStatus();
  };
  fake_.Stop();
  Client client(Options());
  absl::StatusOr<v1::Job> job = absl::UnknownError("");
  std::thread call([&] { job = client.GetJob(id_); });
  fake_.Restart();
  call.join();
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->name(), "jobs/abc");
}

TEST_F(ClientTest, ASlowAnswerEndsAtTheCallTimeout) {
  fake_.get_job = [](const v1::GetJobRequest&, v1::GetJobResponse*) {
    absl::SleepFor(absl::Milliseconds(300));
    return absl::OkStatus();
  };
  Client client({.address = fake_.address(), .call_timeout = absl::Milliseconds(50)});
  EXPECT_EQ(client.GetJob(id_).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ClientTest, ErrorsOfTheServiceComeAtOnceWithTheirDetails) {
  int calls = 0;
  fake_.get_job = [&](const v1::GetJobRequest&, v1::GetJobResponse*) {
    ++calls;
    return WithReason(absl::NotFoundError("jobs/abc does not exist"), "JOB_NOT_FOUND");
  };
  Client client(Options());
  const absl::Status status = client.GetJob(id_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReasonOf(status), "JOB_NOT_FOUND");
  EXPECT_EQ(calls, 1);
}

TEST_F(ClientTest, ADeletionWhoseAnswerWasLostIsDone) {
  int calls = 0;
  fake_.delete_job = [&](const v1::DeleteJobRequest&, v1::DeleteJobResponse*) {
    return ++calls == 1 ? absl::UnavailableError("cut off") : absl::NotFoundError("gone");
  };
  Client client(Options());
  EXPECT_TRUE(client.DeleteJob(id_).ok());
}

TEST_F(ClientTest, AWatchGoesOnFromTheLastVersionAfterABrokenConnection) {
  std::vector<int64_t> asked;
  fake_.watch_job = [&](const v1::WatchJobRequest& request, const auto& write) {
    asked.push_back(request.after_version());
    v1::WatchJobResponse response;
    *response.mutable_job() =
        JobAt(request.after_version() + 7, asked.size() < 3 ? v1::JOB_STATE_RUNNING : v1::JOB_STATE_SUCCEEDED);
    write(response);
    return asked.size() < 3 ? absl::UnavailableError("cut off") : absl::OkStatus();
  };
  Client client(Options());
  std::vector<int64_t> seen;
  const auto job = client.WatchJob(id_, [&](const v1::Job& job) { seen.push_back(job.version()); });
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(asked, ElementsAre(0, 7, 14));
  EXPECT_THAT(seen, ElementsAre(7, 14, 21));
}

TEST_F(ClientTest, AWatchThatEndsBeforeTheJobIsFinalIsOpenedAnew) {
  int calls = 0;
  fake_.watch_job = [&](const v1::WatchJobRequest& request, const auto& write) {
    v1::WatchJobResponse response;
    ++calls;
    *response.mutable_job() = JobAt(calls, calls == 1 ? v1::JOB_STATE_RUNNING : v1::JOB_STATE_CANCELLED);
    write(response);
    return absl::OkStatus();
  };
  Client client(Options());
  const auto job = client.WatchJob(id_, [](const v1::Job&) {});
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job->state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(ClientTest, AWatchOfAnUnknownJobEndsWithNotFound) {
  fake_.watch_job = [](const v1::WatchJobRequest&, const auto&) { return absl::NotFoundError("no such job"); };
  Client client(Options());
  EXPECT_EQ(client.WatchJob(id_, [](const v1::Job&) {}).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ClientTest, AWatchEndsAtItsDeadline) {
  fake_.watch_job = [](const v1::WatchJobRequest&, const auto& write) {
    v1::WatchJobResponse response;
    *response.mutable_job() = JobAt(1, v1::JOB_STATE_RUNNING);
    write(response);
    return absl::UnavailableError("again and again");
  };
  Client client(Options());
  const auto job = client.WatchJob(
      id_, [](const v1::Job&) {}, absl::Now() + absl::Milliseconds(300));
  EXPECT_EQ(job.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ClientTest, AWatchGivesUpWhenTheCoordinatorStaysAway) {
  fake_.watch_job = [](const v1::WatchJobRequest&, const auto&) { return absl::UnavailableError("going down"); };
  Client client(Options(absl::Milliseconds(300)));
  EXPECT_EQ(client.WatchJob(id_, [](const v1::Job&) {}).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ClientTest, FiguresComeOnceEachOverABrokenConnection) {
  int calls = 0;
  fake_.watch_metrics = [&](const v1::WatchMetricsRequest& request, const auto& write) {
    const int64_t last = ++calls == 1 ? 3 : 5;
    v1::WatchMetricsResponse response;
    for (int64_t sequence = request.after_sequence() + 1; sequence <= last; ++sequence) {
      response.add_points()->set_sequence(sequence);
    }
    write(response);
    return calls == 1 ? absl::UnavailableError("cut off") : absl::OkStatus();
  };
  Client client(Options());
  std::vector<int64_t> seen;
  ASSERT_TRUE(client
                  .WatchMetrics(id_,
                                [&](const auto& points) {
                                  for (const auto& point : points) seen.push_back(point.sequence());
                                })
                  .ok());
  EXPECT_THAT(seen, ElementsAre(1, 2, 3, 4, 5));
}

void AddLine(v1::TailLogsResponse* response, int64_t attempt, int rank, const std::string& text) {
  v1::LogLine* line = response->add_lines();
  line->set_attempt(attempt);
  line->set_rank(rank);
  line->set_text(text);
}

TEST_F(ClientTest, LogLinesComeOnceEachOverABrokenConnection) {
  int calls = 0;
  fake_.tail_logs = [&](const v1::TailLogsRequest&, const auto& write) {
    v1::TailLogsResponse response;
    AddLine(&response, 1, 0, "a");
    AddLine(&response, 1, 1, "b");
    if (++calls > 1) AddLine(&response, 1, 0, "c");
    write(response);
    return calls == 1 ? absl::UnavailableError("cut off") : absl::OkStatus();
  };
  Client client(Options());
  std::vector<std::string> seen;
  v1::TailLogsRequest request;
  request.set_follow(true);
  ASSERT_TRUE(client.TailLogs(request, [&](const v1::LogLine& line) { seen.push_back(line.text()); }).ok());
  EXPECT_THAT(seen, ElementsAre("a", "b", "c"));
}

TEST_F(ClientTest, FollowingTheLastLinesShowsThemOnceAndThenTheNewOnes) {
  fake_.tail_logs = [&](const v1::TailLogsRequest& request, const auto& write) {
    v1::TailLogsResponse response;
    for (const char* text : {"a", "b", "c"}) AddLine(&response, 1, 0, text);
    if (request.follow()) AddLine(&response, 1, 0, "d");
    write(response);
    return absl::OkStatus();
  };
  Client client(Options());
  std::vector<std::string> seen;
  v1::TailLogsRequest request;
  request.set_follow(true);
  request.set_tail_lines(2);
  ASSERT_TRUE(client.TailLogs(request, [&](const v1::LogLine& line) { seen.push_back(line.text()); }).ok());
  EXPECT_THAT(seen, ElementsAre("b", "c", "d"));
}

TEST_F(ClientTest, CancelEndsARunningWatch) {
  fake_.watch_job = [&](const v1::WatchJobRequest&, const auto& write) {
    v1::WatchJobResponse response;
    *response.mutable_job() = JobAt(1, v1::JOB_STATE_RUNNING);
    // Until the client is gone.
    while (write(response)) absl::SleepFor(absl::Milliseconds(5));
    return absl::OkStatus();
  };
  Client client(Options());
  const auto job = client.WatchJob(id_, [&](const v1::Job&) { client.Cancel(); });
  EXPECT_EQ(job.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(client.GetJob(id_).status().code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace sab::client
