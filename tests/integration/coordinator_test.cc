// The coordinator's API over gRPC (in process), with a scripted agent: streams, held calls, transfers.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <future>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/ids.h"
#include "common/base/status.h"
#include "common/checkpoint/checkpoint.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "sab/v1/agent_service.grpc.pb.h"
#include "sab/v1/checkpoint_service.grpc.pb.h"
#include "sab/v1/job_service.grpc.pb.h"
#include "sab/v1/log_service.grpc.pb.h"
#include "sab/v1/metric_service.grpc.pb.h"
#include "sab/v1/worker_service.grpc.pb.h"
#include "server/server.h"
#include "tests/util/fake_agent.h"
#include "tests/util/specs.h"
#include "tests/util/temp_dir.h"

namespace sab {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;
using testing_util::CopySpec;
using testing_util::FakeAgent;
using testing_util::TempDir;

constexpr absl::Duration kPatience = absl::Seconds(20);

// A client's context with a deadline, far beyond what any call here takes.
struct Context : grpc::ClientContext {
  Context() { rpc::SetDeadline(*this, kPatience); }
};

class CoordinatorIntegrationTest : public ::testing::Test {
 protected:
  CoordinatorIntegrationTest() : agent_("workers/a", 2) { Start(); }

  void Start() {
    if (server_ != nullptr) server_->Shutdown(absl::Seconds(1));
    server_.reset();
    auto server = server::Server::Start(
        {.state_dir = dir_.path() + "/state", .listen = "127.0.0.1:0", .lease = absl::Seconds(30)});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    auto channel = server_->InProcessChannel();
    jobs_ = v1::JobService::NewStub(channel);
    metrics_ = v1::MetricService::NewStub(channel);
    logs_ = v1::LogService::NewStub(channel);
    checkpoints_ = v1::CheckpointService::NewStub(channel);
    agents_ = v1::AgentService::NewStub(channel);
  }

  std::string Submit(const v1::JobSpec& spec = CopySpec()) {
    v1::CreateJobRequest request;
    *request.mutable_spec() = spec;
    v1::CreateJobResponse response;
    Context context;
    const grpc::Status status = jobs_->CreateJob(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.job().name();
  }
  v1::Job Get(const std::string& name) {
    v1::GetJobRequest request;
    request.set_name(name);
    v1::GetJobResponse response;
    Context context;
    EXPECT_TRUE(jobs_->GetJob(&context, request, &response).ok());
    return response.job();
  }
  grpc::Status Call(const v1::SynchronizeRequest& request, v1::SynchronizeResponse* response) {
    Context context;
    return agents_->Synchronize(&context, request, response);
  }
  void Sync(int times = 1) {
    for (int i = 0; i < times; ++i) {
      v1::SynchronizeResponse response;
      const grpc::Status status = Call(agent_.Request(), &response);
      ASSERT_TRUE(status.ok()) << status.error_message();
      agent_.Apply(response);
    }
  }
  std::string Running() {
    Sync(2);
    const std::string job = Submit();
    Sync(2);
    SetTrainer(job, v1::TRAINER_PHASE_TRAINING, 1);
    return job;
  }
  void SetTrainer(const std::string& job, v1::TrainerPhase phase, int64_t step) {
    agent_.Trainer(job).set_phase(phase);
    agent_.Trainer(job).set_step(step);
    Sync();
  }
  v1::TrainerId IdOf(const std::string& job) {
    v1::TrainerId id;
    id.set_job(job);
    id.set_attempt(1);
    return id;
  }
  void ReportMetrics(const std::string& job, int64_t batch, int64_t first_step, int count) {
    v1::ReportMetricsRequest request;
    request.set_worker("workers/a");
    *request.mutable_id() = IdOf(job);
    request.set_batch_id(batch);
    for (int i = 0; i < count; ++i) {
      v1::MetricPoint& point = *request.add_points();
      point.set_step(first_step + i);
      point.set_split("train");
      point.set_name("loss");
    }
    v1::ReportMetricsResponse response;
    Context context;
    const grpc::Status status = agents_->ReportMetrics(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  void ReportLogs(const std::string& job, int64_t first, const std::vector<std::string>& lines) {
    v1::ReportLogsRequest request;
    request.set_worker("workers/a");
    *request.mutable_id() = IdOf(job);
    request.set_first_line(first);
    for (const auto& line : lines) request.add_lines()->set_text(line);
    v1::ReportLogsResponse response;
    Context context;
    ASSERT_TRUE(agents_->ReportLogs(&context, request, &response).ok());
  }

  // A checkpoint in a folder of the agent's own.
  v1::Checkpoint Write(const std::string& job, int64_t step) {
    v1::Checkpoint header;
    header.set_name(absl::StrCat(job, "/checkpoints/", MakeCheckpointId(step, 1)));
    header.set_step(step);
    header.set_attempt(1);
    auto writer = CheckpointWriter::Create(agent_dir_.path(), header);
    EXPECT_TRUE(writer.ok());
    std::string model(3'000'000, 'm');
    for (size_t i = 0; i < model.size(); ++i) model[i] = static_cast<char>(i * 7 + i / 1000);
    EXPECT_TRUE(writer->AddFile(kModelFile, model).ok());
    EXPECT_TRUE(writer->AddFile(kStateFile, "{}").ok());
    return *writer->Commit();
  }
  grpc::Status Upload(const std::string& job, const v1::Checkpoint& checkpoint, const v1::CheckpointFile& file,
                      bool damage) {
    const std::string folder = agent_dir_.path() + "/" + ParseCheckpointName(checkpoint.name())->checkpoint;
    std::string bytes = *ReadFile(folder + "/" + file.path());
    Context context;
    v1::UploadCheckpointResponse response;
    auto writer = agents_->UploadCheckpoint(&context, &response);
    v1::UploadCheckpointRequest message;
    message.mutable_header()->set_worker("workers/a");
    *message.mutable_header()->mutable_id() = IdOf(job);
    message.mutable_header()->set_checkpoint(checkpoint.name());
    *message.mutable_header()->mutable_file() = file;
    writer->Write(message);
    for (size_t at = 0; at < bytes.size(); at += 1 << 20) {
      message.Clear();
      message.set_data(bytes.substr(at, 1 << 20));
      message.set_crc32(static_cast<uint32_t>(
          crc32(0, reinterpret_cast<const Bytef*>(message.data().data()), static_cast<uInt>(message.data().size()))));
      if (damage) (*message.mutable_data())[0] ^= 1;
      if (!writer->Write(message)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }
  grpc::Status Record(const std::string& job, const v1::Checkpoint& checkpoint) {
    v1::RecordCheckpointRequest request;
    request.set_worker("workers/a");
    *request.mutable_id() = IdOf(job);
    *request.mutable_checkpoint() = checkpoint;
    v1::RecordCheckpointResponse response;
    Context context;
    return agents_->RecordCheckpoint(&context, request, &response);
  }
  grpc::Status Download(const std::string& name, const std::string& path, int64_t offset, std::string* bytes) {
    v1::DownloadCheckpointRequest request;
    request.set_name(name);
    request.set_path(path);
    request.set_offset(offset);
    Context context;
    auto reader = checkpoints_->DownloadCheckpoint(&context, request);
    v1::DownloadCheckpointResponse response;
    while (reader->Read(&response)) {
      EXPECT_LE(response.data().size(), size_t{1} << 20);
      EXPECT_EQ(response.offset(), offset + static_cast<int64_t>(bytes->size()));
      EXPECT_EQ(response.crc32(), crc32(0, reinterpret_cast<const Bytef*>(response.data().data()),
                                        static_cast<uInt>(response.data().size())));
      *bytes += response.data();
    }
    return reader->Finish();
  }

  TempDir dir_;
  TempDir agent_dir_;
  FakeAgent agent_;
  std::unique_ptr<server::Server> server_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::MetricService::Stub> metrics_;
  std::unique_ptr<v1::LogService::Stub> logs_;
  std::unique_ptr<v1::CheckpointService::Stub> checkpoints_;
  std::unique_ptr<v1::AgentService::Stub> agents_;
};

TEST_F(CoordinatorIntegrationTest, ErrorsCarryReasonAndViolations) {
  v1::CreateJobRequest request;
  v1::CreateJobResponse response;
  Context context;
  const absl::Status status = rpc::FromGrpc(jobs_->CreateJob(&context, request, &response));
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(ReasonOf(status), "INVALID_SPEC");
  EXPECT_FALSE(ViolationsOf(status).empty());
  v1::GetJobRequest get;
  get.set_name("jobs/none");
  v1::GetJobResponse got;
  Context second;
  EXPECT_EQ(ReasonOf(rpc::FromGrpc(jobs_->GetJob(&second, get, &got))), "JOB_NOT_FOUND");
}

TEST_F(CoordinatorIntegrationTest, AHeldSynchronizeIsReleasedAtOnceByANewJob) {
  Sync(2);
  v1::SynchronizeRequest request = agent_.Request();
  request.mutable_max_hold()->set_seconds(5);
  auto held = std::async(std::launch::async, [&] {
    v1::SynchronizeResponse response;
    EXPECT_TRUE(Call(request, &response).ok());
    return std::pair(absl::Now(), response);
  });
  const std::string job = Submit();
  const absl::Time submitted = absl::Now();
  const auto [answered, response] = held.get();
  ASSERT_THAT(response.desired(), SizeIs(1));
  EXPECT_EQ(response.desired(0).id().job(), job);
  EXPECT_LT(answered - submitted, absl::Seconds(2));
}

TEST_F(CoordinatorIntegrationTest, ANewerCallOfTheSameAgentReleasesAHeldOne) {
  Sync(2);
  v1::SynchronizeRequest request = agent_.Request();
  request.mutable_max_hold()->set_seconds(6);
  auto held = std::async(std::launch::async, [&] {
    v1::SynchronizeResponse response;
    return Call(request, &response).ok();
  });
  const absl::Time start = absl::Now();
  Sync();
  EXPECT_TRUE(held.get());
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
}

TEST_F(CoordinatorIntegrationTest, WatchJobSendsEveryStateUntilTheEndAndNothingOldAfterAReconnection) {
  const std::string job = Running();
  v1::WatchJobRequest request;
  request.set_name(job);
  Context context;
  auto reader = jobs_->WatchJob(&context, request);
  v1::WatchJobResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.job().state(), v1::JOB_STATE_RUNNING);
  SetTrainer(job, v1::TRAINER_PHASE_TRAINING, 50);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.job().step(), 50);
  SetTrainer(job, v1::TRAINER_PHASE_SUCCEEDED, 100);
  while (response.job().state() != v1::JOB_STATE_SUCCEEDED) ASSERT_TRUE(reader->Read(&response));
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());

  request.set_after_version(Get(job).version());
  Context again;
  auto second = jobs_->WatchJob(&again, request);
  EXPECT_FALSE(second->Read(&response));
  EXPECT_TRUE(second->Finish().ok());
}

TEST_F(CoordinatorIntegrationTest, HundredsOfWatchersAreToldAndTheEndOfTheJobEndsThem) {
  const std::string job = Running();
  std::vector<std::unique_ptr<Context>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::WatchJobResponse>>> readers;
  v1::WatchJobRequest request;
  request.set_name(job);
  v1::WatchJobResponse response;
  for (int i = 0; i < 300; ++i) {
    readers.push_back(jobs_->WatchJob(contexts.emplace_back(std::make_unique<Context>()).get(), request));
    ASSERT_TRUE(readers.back()->Read(&response));
  }
  v1::CancelJobRequest cancel;
  cancel.set_name(job);
  v1::CancelJobResponse cancelled;
  Context context;
  ASSERT_TRUE(jobs_->CancelJob(&context, cancel, &cancelled).ok());
  for (auto& reader : readers) {
    ASSERT_TRUE(reader->Read(&response));
    EXPECT_EQ(response.job().state(), v1::JOB_STATE_CANCELLED);
    EXPECT_FALSE(reader->Read(&response));
    EXPECT_TRUE(reader->Finish().ok());
  }
}

TEST_F(CoordinatorIntegrationTest, WatchMetricsGoesOnAfterTheLastSequenceSeen) {
  const std::string job = Running();
  ReportMetrics(job, 1, 1, 3);
  v1::WatchMetricsRequest request;
  request.set_job(job);
  request.set_after_sequence(2);
  Context context;
  auto reader = metrics_->WatchMetrics(&context, request);
  v1::WatchMetricsResponse response;
  ASSERT_TRUE(reader->Read(&response));
  ASSERT_THAT(response.points(), SizeIs(1));
  EXPECT_EQ(response.points(0).sequence(), 3);
  ReportMetrics(job, 2, 4, 2);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.points(0).sequence(), 4);
  SetTrainer(job, v1::TRAINER_PHASE_SUCCEEDED, 100);
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(CoordinatorIntegrationTest, AReaderThatReadsNothingDelaysNobody) {
  const std::string job = Running();
  v1::WatchMetricsRequest request;
  request.set_job(job);
  Context idle;
  auto unread = metrics_->WatchMetrics(&idle, request);
  for (int batch = 1; batch <= 20; ++batch) ReportMetrics(job, batch, batch * 2000, 2000);
  Context context;
  auto reader = metrics_->WatchMetrics(&context, request);
  v1::WatchMetricsResponse response;
  int points = 0;
  while (points < 40000 && reader->Read(&response)) points += response.points_size();
  EXPECT_EQ(points, 40000);
  context.TryCancel();
  idle.TryCancel();
}

TEST_F(CoordinatorIntegrationTest, ListMetricsPages) {
  const std::string job = Running();
  ReportMetrics(job, 1, 1, 25);
  v1::ListMetricsRequest request;
  request.set_job(job);
  request.set_page_size(10);
  int pages = 0;
  int points = 0;
  do {
    v1::ListMetricsResponse response;
    Context context;
    ASSERT_TRUE(metrics_->ListMetrics(&context, request, &response).ok());
    ++pages;
    points += response.points_size();
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  EXPECT_EQ(pages, 3);
  EXPECT_EQ(points, 25);
}

TEST_F(CoordinatorIntegrationTest, LogsAreFollowedUntilTheJobIsFinal) {
  const std::string job = Running();
  ReportLogs(job, 0, {"one", "two", "three"});
  v1::TailLogsRequest request;
  request.set_job(job);
  request.set_tail_lines(2);
  request.set_follow(true);
  Context context;
  auto reader = logs_->TailLogs(&context, request);
  v1::TailLogsResponse response;
  std::vector<std::string> texts;
  ASSERT_TRUE(reader->Read(&response));
  for (const auto& line : response.lines()) texts.push_back(line.text());
  ReportLogs(job, 3, {"four"});
  ASSERT_TRUE(reader->Read(&response));
  for (const auto& line : response.lines()) texts.push_back(line.text());
  SetTrainer(job, v1::TRAINER_PHASE_SUCCEEDED, 100);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_THAT(texts, ElementsAre("two", "three", "four"));
}

TEST_F(CoordinatorIntegrationTest, AnUploadedCheckpointIsRecordedAndDownloadedFromAnyOffset) {
  const std::string job = Running();
  const v1::Checkpoint checkpoint = Write(job, 1);
  EXPECT_EQ(ReasonOf(rpc::FromGrpc(Upload(job, checkpoint, checkpoint.files(0), /*damage=*/true))), "CHUNK_DAMAGED");
  EXPECT_EQ(Record(job, checkpoint).error_code(), grpc::StatusCode::DATA_LOSS);
  for (const auto& file : checkpoint.files()) {
    const grpc::Status status = Upload(job, checkpoint, file, false);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  const grpc::Status recorded = Record(job, checkpoint);
  ASSERT_TRUE(recorded.ok()) << recorded.error_message();

  const std::string folder = agent_dir_.path() + "/" + ParseCheckpointName(checkpoint.name())->checkpoint;
  const std::string original = *ReadFile(folder + "/" + std::string(kModelFile));
  for (int64_t offset : {int64_t{0}, int64_t{1}, int64_t{1} << 20, static_cast<int64_t>(original.size())}) {
    std::string bytes;
    ASSERT_TRUE(Download(checkpoint.name(), std::string(kModelFile), offset, &bytes).ok());
    EXPECT_TRUE(bytes == original.substr(static_cast<size_t>(offset))) << offset;
  }
}

TEST_F(CoordinatorIntegrationTest, OnlyRecordedFilesCanBeDownloaded) {
  const std::string job = Running();
  const v1::Checkpoint checkpoint = Write(job, 1);
  for (const auto& file : checkpoint.files()) ASSERT_TRUE(Upload(job, checkpoint, file, false).ok());
  ASSERT_TRUE(Record(job, checkpoint).ok());
  std::string bytes;
  for (const char* path : {"../../../../coordinator.db", "/etc/passwd", ""}) {
    EXPECT_EQ(Download(checkpoint.name(), path, 0, &bytes).error_code(), grpc::StatusCode::NOT_FOUND) << path;
  }
  EXPECT_EQ(Download(checkpoint.name(), std::string(kModelFile), 4'000'000, &bytes).error_code(),
            grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(Download(job + "/checkpoints/none", std::string(kModelFile), 0, &bytes).error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(bytes, "");
}

TEST_F(CoordinatorIntegrationTest, AnOversizedMessageIsRefusedAndTheServerGoesOn) {
  v1::CreateJobRequest request;
  *request.mutable_spec() = CopySpec();
  (*request.mutable_spec()->mutable_labels())["x"] = std::string(5 << 20, 'x');
  v1::CreateJobResponse response;
  // Over a socket: the bound belongs to the transport.
  auto stub = v1::JobService::NewStub(rpc::MakeChannel(server_->address()));
  Context context;
  EXPECT_EQ(stub->CreateJob(&context, request, &response).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_FALSE(Submit().empty());
}

TEST_F(CoordinatorIntegrationTest, ShutdownEndsStreamsAndHeldCallsAtOnceAndARestartKeepsEverything) {
  const std::string job = Running();
  v1::WatchJobRequest request;
  request.set_name(job);
  // Over a socket: the in-process transport closes under its streams.
  auto stub = v1::JobService::NewStub(rpc::MakeChannel(server_->address()));
  Context context;
  auto reader = stub->WatchJob(&context, request);
  v1::WatchJobResponse response;
  ASSERT_TRUE(reader->Read(&response));
  const absl::Time start = absl::Now();
  auto ended = std::async(std::launch::async, [&] {
    while (reader->Read(&response)) {
    }
    return reader->Finish();
  });
  server_->Shutdown(absl::Seconds(15));
  const absl::Status status = rpc::FromGrpc(ended.get());
  EXPECT_EQ(ReasonOf(status), "SHUTTING_DOWN") << status;
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  Start();
  EXPECT_EQ(Get(job).state(), v1::JOB_STATE_UNREACHABLE);
  Sync();
  EXPECT_EQ(Get(job).state(), v1::JOB_STATE_RUNNING);
}

}  // namespace
}  // namespace sab
