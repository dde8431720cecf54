#include "tests/worker/fake_trainer_agent.h"

#include <grpcpp/server_builder.h>

#include <chrono>

#include "common/rpc/channel.h"

namespace sab::trainer {

FakeAgent::FakeAgent(const std::string& socket_path, v1::GetAssignmentResponse assignment)
    : address_("unix:" + socket_path), assignment_(std::move(assignment)) {
  grpc::ServerBuilder builder;
  rpc::ConfigureServer(builder);
  builder.AddListeningPort(address_, grpc::InsecureServerCredentials());
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
}

FakeAgent::~FakeAgent() {
  {
    const MutexLock lock(&mutex_);
    closing_ = true;
    changed_.NotifyAll();
  }
  server_->Shutdown(std::chrono::system_clock::now());
}

void FakeAgent::Abort() {
  const MutexLock lock(&mutex_);
  aborted_ = true;
}

void FakeAgent::HoldCheckpoints(bool hold) {
  const MutexLock lock(&mutex_);
  hold_ = hold;
  changed_.NotifyAll();
}

void FakeAgent::AwaitHeld() {
  const MutexLock lock(&mutex_);
  while (held_ == 0) changed_.Wait(&mutex_);
}

void FakeAgent::KnowRelease() {
  const MutexLock lock(&mutex_);
  knows_release_ = true;
}

void FakeAgent::Release(int64_t attempt) {
  const MutexLock lock(&mutex_);
  attempt_ = attempt;
  rendezvous_.clear();
  changed_.NotifyAll();
}

grpc::Status FakeAgent::AwaitRelease(grpc::ServerContext*, const v1::AwaitReleaseRequest* request,
                                     v1::AwaitReleaseResponse* response) {
  const MutexLock lock(&mutex_);
  if (!knows_release_) return grpc::Status(grpc::UNIMPLEMENTED, "");
  while (!closing_ && attempt_ <= request->id().attempt()) changed_.Wait(&mutex_);
  if (closing_) return grpc::Status(grpc::ABORTED, "the test is over");
  *response->mutable_next() = request->id();
  response->mutable_next()->set_attempt(attempt_);
  return grpc::Status::OK;
}

void FakeAgent::AwaitStep(int64_t step) {
  const MutexLock lock(&mutex_);
  while (last_[0].step() < step) changed_.Wait(&mutex_);
}

void FakeAgent::AwaitCheckpoint() {
  const MutexLock lock(&mutex_);
  while (checkpoints_.empty()) changed_.Wait(&mutex_);
}

std::vector<v1::MetricPoint> FakeAgent::points() const {
  const MutexLock lock(&mutex_);
  return points_;
}

std::vector<v1::Checkpoint> FakeAgent::checkpoints() const {
  const MutexLock lock(&mutex_);
  return checkpoints_;
}

v1::ReportProgressRequest FakeAgent::last(int rank) const {
  const MutexLock lock(&mutex_);
  const auto found = last_.find(rank);
  return found == last_.end() ? v1::ReportProgressRequest() : found->second;
}

grpc::Status FakeAgent::Wanted() const {
  return aborted_ ? grpc::Status(grpc::ABORTED, "not wanted any more") : grpc::Status::OK;
}

grpc::Status FakeAgent::GetAssignment(grpc::ServerContext*, const v1::GetAssignmentRequest* request,
                                      v1::GetAssignmentResponse* response) {
  const MutexLock lock(&mutex_);
  *response = assignment_;
  *response->mutable_assignment()->mutable_id() = request->id();
  response->mutable_assignment()->set_from_memory(request->id().attempt() == attempt_);
  return Wanted();
}

grpc::Status FakeAgent::PublishRendezvous(grpc::ServerContext*, const v1::PublishRendezvousRequest* request,
                                          v1::PublishRendezvousResponse*) {
  const MutexLock lock(&mutex_);
  rendezvous_ = request->rendezvous();
  changed_.NotifyAll();
  return Wanted();
}

grpc::Status FakeAgent::AwaitRendezvous(grpc::ServerContext*, const v1::AwaitRendezvousRequest*,
                                        v1::AwaitRendezvousResponse* response) {
  const MutexLock lock(&mutex_);
  while (rendezvous_.empty()) changed_.Wait(&mutex_);
  response->set_rendezvous(rendezvous_);
  return Wanted();
}

grpc::Status FakeAgent::ReportProgress(grpc::ServerContext*, const v1::ReportProgressRequest* request,
                                       v1::ReportProgressResponse*) {
  const MutexLock lock(&mutex_);
  last_[request->id().rank()] = *request;
  points_.insert(points_.end(), request->points().begin(), request->points().end());
  changed_.NotifyAll();
  return Wanted();
}

grpc::Status FakeAgent::PublishCheckpoint(grpc::ServerContext*, const v1::PublishCheckpointRequest* request,
                                          v1::PublishCheckpointResponse*) {
  const MutexLock lock(&mutex_);
  if (hold_ && !closing_) {
    ++held_;
    changed_.NotifyAll();
    while (hold_ && !closing_) changed_.Wait(&mutex_);
    return grpc::Status(grpc::UNAVAILABLE, "held");
  }
  checkpoints_.push_back(request->checkpoint());
  changed_.NotifyAll();
  return Wanted();
}

}  // namespace sab::trainer
