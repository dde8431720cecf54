#pragma once

#include <grpcpp/server.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "sab/v1/trainer_service.grpc.pb.h"

namespace sab::trainer {

// An agent for trainers of one job: serves TrainerService on a Unix socket and remembers what it is told.
class FakeAgent : public v1::TrainerService::Service {
 public:
  // `socket_path` must be short (Unix sockets: 107 bytes).
  FakeAgent(const std::string& socket_path, v1::GetAssignmentResponse assignment);
  ~FakeAgent() override;

  // "unix:PATH".
  const std::string& address() const { return address_; }

  // Before a trainer starts: it knows AwaitRelease. Without, as an agent that does not.
  void KnowRelease();
  // Tells trainers of earlier attempts to go on, from memory, as those of `attempt`.
  void Release(int64_t attempt);
  // From now on publishing a checkpoint blocks, until `false`.
  void HoldCheckpoints(bool hold);
  // Blocks until rank 0 is held so.
  void AwaitHeld();
  // From now on every call is answered ABORTED.
  void Abort();
  // Blocks until rank 0 has reported `step` or more.
  void AwaitStep(int64_t step);
  // Blocks until rank 0 has published a checkpoint.
  void AwaitCheckpoint();

  // What rank 0 has reported.
  std::vector<v1::MetricPoint> points() const;
  std::vector<v1::Checkpoint> checkpoints() const;
  // The last report of a rank.
  v1::ReportProgressRequest last(int rank) const;

  grpc::Status AwaitRelease(grpc::ServerContext*, const v1::AwaitReleaseRequest* request,
                            v1::AwaitReleaseResponse* response) override;
  grpc::Status GetAssignment(grpc::ServerContext*, const v1::GetAssignmentRequest* request,
                             v1::GetAssignmentResponse* response) override;
  grpc::Status PublishRendezvous(grpc::ServerContext*, const v1::PublishRendezvousRequest* request,
                                 v1::PublishRendezvousResponse*) override;
  grpc::Status AwaitRendezvous(grpc::ServerContext*, const v1::AwaitRendezvousRequest*,
                               v1::AwaitRendezvousResponse* response) override;
  grpc::Status ReportProgress(grpc::ServerContext*, const v1::ReportProgressRequest* request,
                              v1::ReportProgressResponse*) override;
  grpc::Status PublishCheckpoint(grpc::ServerContext*, const v1::PublishCheckpointRequest* request,
                                 v1::PublishCheckpointResponse*) override;

 private:
  grpc::Status Wanted() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string address_;
  const v1::GetAssignmentResponse assignment_;
  mutable Mutex mutex_;
  CondVar changed_;
  bool aborted_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool knows_release_ ABSL_GUARDED_BY(mutex_) = false;
  bool hold_ ABSL_GUARDED_BY(mutex_) = false;
  int held_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t attempt_ ABSL_GUARDED_BY(mutex_) = 0;  // the newest one that was released into
  std::string rendezvous_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::MetricPoint> points_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::Checkpoint> checkpoints_ ABSL_GUARDED_BY(mutex_);
  std::map<int, v1::ReportProgressRequest> last_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace sab::trainer
