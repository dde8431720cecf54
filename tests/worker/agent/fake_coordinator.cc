#include "tests/worker/agent/fake_coordinator.h"

#include <zlib.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/checkpoint.h"
#include "common/rpc/channel.h"
#include "grpcpp/security/server_credentials.h"

namespace sab::agent {

FakeCoordinator::FakeCoordinator() {
  Listen("127.0.0.1:0");
}
FakeCoordinator::~FakeCoordinator() {
  GoAway();
}

void FakeCoordinator::Listen(const std::string& address) {
  grpc::ServerBuilder builder;
  rpc::ConfigureServer(builder);
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(static_cast<v1::AgentService::Service*>(this));
  builder.RegisterService(static_cast<v1::CheckpointService::Service*>(this));
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) std::abort();
  address_ = absl::StrCat("127.0.0.1:", port);
}

void FakeCoordinator::GoAway() {
  {
    MutexLock lock(&mutex_);
    away_ = true;
    changed_.NotifyAll();
  }
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
}

void FakeCoordinator::ComeBack() {
  {
    MutexLock lock(&mutex_);
    away_ = false;
  }
  Listen(address_);
}

void FakeCoordinator::SetCheckpointDir(const std::string& dir) {
  MutexLock lock(&mutex_);
  checkpoint_dir_ = dir;
}

void FakeCoordinator::ServeCheckpointsFrom(const std::string& folder) {
  MutexLock lock(&mutex_);
  served_folder_ = folder;
}

void FakeCoordinator::SetDesired(std::vector<v1::TrainerAssignment> desired) {
  MutexLock lock(&mutex_);
  desired_ = std::move(desired);
  ++version_;
  changed_.NotifyAll();
}

void FakeCoordinator::CrossNext(std::vector<v1::TrainerAssignment> desired) {
  MutexLock lock(&mutex_);
  crossing_ = std::move(desired);
}

bool FakeCoordinator::Reported(const std::vector<v1::TrainerAssignment>& trainers) {
  return std::all_of(trainers.begin(), trainers.end(), [&](const v1::TrainerAssignment& wanted) {
    return std::any_of(last_.trainers().begin(), last_.trainers().end(), [&](const v1::TrainerStatus& status) {
      return TrainerKey::Of(status.id()) == TrainerKey::Of(wanted.id());
    });
  });
}

void FakeCoordinator::Answer(v1::SynchronizeResponse* response) {
  for (const auto& assignment : desired_) *response->add_desired() = assignment;
  response->set_desired_version(version_);
  response->mutable_lease()->set_seconds(5);
  response->mutable_next_call()->set_nanos(500'000'000);
  response->set_checkpoint_dir(checkpoint_dir_);
}

void FakeCoordinator::FailNext(const std::string& method, grpc::Status status, int count) {
  MutexLock lock(&mutex_);
  failures_[method] = {std::move(status), count};
}

void FakeCoordinator::AbortUpTo(int64_t incarnation) {
  MutexLock lock(&mutex_);
  aborted_ = incarnation;
  ++version_;
  changed_.NotifyAll();
}

grpc::Status FakeCoordinator::Planned(const std::string& method) {
  MutexLock lock(&mutex_);
  auto it = failures_.find(method);
  if (it == failures_.end() || it->second.second == 0) return grpc::Status::OK;
  --it->second.second;
  changed_.NotifyAll();
  return it->second.first;
}

v1::SynchronizeRequest FakeCoordinator::WaitForRequest(
    const std::function<bool(const v1::SynchronizeRequest&)>& holds) {
  MutexLock lock(&mutex_);
  while (!holds(last_)) changed_.Wait(&mutex_);
  return last_;
}

v1::TrainerStatus FakeCoordinator::WaitForPhase(const TrainerKey& key, v1::TrainerPhase phase) {
  v1::TrainerStatus found;
  WaitForRequest([&](const v1::SynchronizeRequest& request) {
    for (const v1::TrainerStatus& status : request.trainers()) {
      if (TrainerKey::Of(status.id()) != key || status.phase() != phase) continue;
      found = status;
      return true;
    }
    return false;
  });
  return found;
}

void FakeCoordinator::WaitUntil(const std::function<bool()>& holds) {
  while (!holds()) {
    MutexLock lock(&mutex_);
    changed_.WaitFor(&mutex_, absl::Milliseconds(20));
  }
}

std::vector<v1::MetricPoint> FakeCoordinator::points() {
  MutexLock lock(&mutex_);
  std::vector<v1::MetricPoint> points;
  for (const auto& batch : batches_) points.insert(points.end(), batch.points().begin(), batch.points().end());
  return points;
}
std::vector<v1::ReportMetricsRequest> FakeCoordinator::batches() {
  MutexLock lock(&mutex_);
  return batches_;
}
std::vector<std::string> FakeCoordinator::lines() {
  MutexLock lock(&mutex_);
  return lines_;
}
std::vector<v1::Checkpoint> FakeCoordinator::recorded() {
  MutexLock lock(&mutex_);
  return recorded_;
}
std::map<std::string, std::string> FakeCoordinator::uploaded() {
  MutexLock lock(&mutex_);
  return uploaded_;
}

grpc::Status FakeCoordinator::Synchronize(grpc::ServerContext*, const v1::SynchronizeRequest* request,
                                          v1::SynchronizeResponse* response) {
  MutexLock lock(&mutex_);
  if (request->incarnation() <= aborted_) return grpc::Status(grpc::StatusCode::ABORTED, "a newer agent has called");
  const bool newest = request->incarnation() > last_.incarnation() || request->sequence() > last_.sequence();
  if (newest) last_ = *request;
  if (newest && held_ > 0 && !crossing_.empty()) {
    Answer(response);
    desired_ = std::exchange(crossing_, {});
    ++version_;
    const std::vector<v1::TrainerAssignment> followed = desired_;
    crossed_ = request->sequence();
    crossed_until_ = absl::InfiniteFuture();
    changed_.NotifyAll();
    while (!away_ && !Reported(followed)) changed_.Wait(&mutex_);
    crossed_until_ = absl::Now() + absl::Milliseconds(100);
    changed_.NotifyAll();
    return grpc::Status::OK;
  }
  changed_.NotifyAll();
  const absl::Duration hold =
      absl::Seconds(request->max_hold().seconds()) + absl::Nanoseconds(request->max_hold().nanos());
  const absl::Time until = absl::Now() + hold;
  ++held_;
  while (!away_ && request->known_version() == version_ && last_.sequence() == request->sequence() &&
         absl::Now() < until && request->incarnation() > aborted_) {
    changed_.WaitFor(&mutex_, until - absl::Now());
  }
  while (!away_ && request->sequence() > crossed_ && absl::Now() < crossed_until_) {
    changed_.WaitFor(&mutex_, std::min(crossed_until_ - absl::Now(), absl::Seconds(1)));
  }
  --held_;
  if (request->incarnation() <= aborted_) return grpc::Status(grpc::StatusCode::ABORTED, "a newer agent has called");
  Answer(response);
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::ReportMetrics(grpc::ServerContext*, const v1::ReportMetricsRequest* request,
                                            v1::ReportMetricsResponse*) {
  if (grpc::Status planned = Planned("ReportMetrics"); !planned.ok()) return planned;
  MutexLock lock(&mutex_);
  batches_.push_back(*request);
  changed_.NotifyAll();
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::ReportLogs(grpc::ServerContext*, const v1::ReportLogsRequest* request,
                                         v1::ReportLogsResponse*) {
  if (grpc::Status planned = Planned("ReportLogs"); !planned.ok()) return planned;
  MutexLock lock(&mutex_);
  for (const auto& line : request->lines()) lines_.push_back(line.text());
  changed_.NotifyAll();
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::RecordCheckpoint(grpc::ServerContext*, const v1::RecordCheckpointRequest* request,
                                               v1::RecordCheckpointResponse*) {
  if (grpc::Status planned = Planned("RecordCheckpoint"); !planned.ok()) return planned;
  MutexLock lock(&mutex_);
  recorded_.push_back(request->checkpoint());
  changed_.NotifyAll();
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::UploadCheckpoint(grpc::ServerContext*,
                                               grpc::ServerReader<v1::UploadCheckpointRequest>* reader,
                                               v1::UploadCheckpointResponse*) {
  if (grpc::Status planned = Planned("UploadCheckpoint"); !planned.ok()) return planned;
  v1::UploadCheckpointRequest message;
  if (!reader->Read(&message) || !message.has_header())
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no header");
  const v1::UploadCheckpointHeader header = message.header();
  std::string content;
  while (reader->Read(&message)) {
    const auto crc =
        crc32(0, reinterpret_cast<const Bytef*>(message.data().data()), static_cast<uInt>(message.data().size()));
    if (crc != message.crc32()) return grpc::Status(grpc::StatusCode::DATA_LOSS, "a chunk is damaged");
    content += message.data();
  }
  if (Sha256(content) != header.file().sha256())
    return grpc::Status(grpc::StatusCode::DATA_LOSS, "the digest is wrong");
  MutexLock lock(&mutex_);
  uploaded_[absl::StrCat(header.checkpoint(), "/", header.file().path())] = content;
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::DownloadCheckpoint(grpc::ServerContext*, const v1::DownloadCheckpointRequest* request,
                                                 grpc::ServerWriter<v1::DownloadCheckpointResponse>* writer) {
  std::string path;
  bool first = false;
  {
    MutexLock lock(&mutex_);
    path =
        absl::StrCat(served_folder_, "/", request->name().substr(request->name().rfind('/') + 1), "/", request->path());
    first = downloads_[path]++ == 0;
  }
  const auto content = ReadFile(path);
  if (!content.ok()) return grpc::Status(grpc::StatusCode::NOT_FOUND, path);
  std::string rest = content->substr(static_cast<size_t>(request->offset()));
  if (first) rest.resize(rest.size() / 2);
  v1::DownloadCheckpointResponse message;
  message.set_offset(request->offset());
  message.set_data(rest);
  message.set_crc32(
      static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(rest.data()), static_cast<uInt>(rest.size()))));
  writer->Write(message);
  return first ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "cut off") : grpc::Status::OK;
}

}  // namespace sab::agent
