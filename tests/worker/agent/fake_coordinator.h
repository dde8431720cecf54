#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/mutex.h"
#include "grpcpp/server.h"
#include "sab/v1/agent_service.grpc.pb.h"
#include "sab/v1/checkpoint_service.grpc.pb.h"
#include "worker/agent/reconcile.h"

namespace sab::agent {

// The coordinator's side of AgentService, told by a test what to want and what to answer. Remembers all it hears.
// Thread-safe.
class FakeCoordinator : public v1::AgentService::Service, public v1::CheckpointService::Service {
 public:
  // Listens on a free port of loopback.
  FakeCoordinator();
  ~FakeCoordinator() override;
  const std::string& address() const { return address_; }
  // As a coordinator that is restarted: the port is closed, then open again.
  void GoAway();
  void ComeBack();

  void SetCheckpointDir(const std::string& dir);
  void SetDesired(std::vector<v1::TrainerAssignment> desired);
  // When next a call overtakes one that is held: it is answered with what is wanted by then, but its answer comes only
  // after that of the older one, which has what is wanted from then on, has been followed: `desired`.
  void CrossNext(std::vector<v1::TrainerAssignment> desired);
  // The next `count` calls of `method` get this answer.
  void FailNext(const std::string& method, grpc::Status status, int count = 1);
  // All calls of Synchronize of incarnations up to this one are answered with ABORTED.
  void AbortUpTo(int64_t incarnation);

  // Waits until a request of Synchronize satisfies `holds`, and returns it. Looks at the last one first.
  v1::SynchronizeRequest WaitForRequest(const std::function<bool(const v1::SynchronizeRequest&)>& holds);
  // Waits until that trainer is reported in `phase`.
  v1::TrainerStatus WaitForPhase(const TrainerKey& key, v1::TrainerPhase phase);
  // Waits until `holds` does; it may look at the members below through the accessors.
  void WaitUntil(const std::function<bool()>& holds);

  std::vector<v1::MetricPoint> points();
  std::vector<v1::ReportMetricsRequest> batches();
  std::vector<std::string> lines();
  std::vector<v1::Checkpoint> recorded();
  // Content of an uploaded file, by "CHECKPOINT/path".
  std::map<std::string, std::string> uploaded();
  // What DownloadCheckpoint serves: files below this folder by the checkpoint's id. The first call of each file breaks
  // off in the middle.
  void ServeCheckpointsFrom(const std::string& folder);

  grpc::Status Synchronize(grpc::ServerContext* context, const v1::SynchronizeRequest* request,
                           v1::SynchronizeResponse* response) override;
  grpc::Status ReportMetrics(grpc::ServerContext*, const v1::ReportMetricsRequest* request,
                             v1::ReportMetricsResponse*) override;
  grpc::Status ReportLogs(grpc::ServerContext*, const v1::ReportLogsRequest* request, v1::ReportLogsResponse*) override;
  grpc::Status RecordCheckpoint(grpc::ServerContext*, const v1::RecordCheckpointRequest* request,
                                v1::RecordCheckpointResponse*) override;
  grpc::Status UploadCheckpoint(grpc::ServerContext*, grpc::ServerReader<v1::UploadCheckpointRequest>* reader,
                                v1::UploadCheckpointResponse*) override;
  grpc::Status DownloadCheckpoint(grpc::ServerContext*, const v1::DownloadCheckpointRequest* request,
                                  grpc::ServerWriter<v1::DownloadCheckpointResponse>* writer) override;

 private:
  void Listen(const std::string& address);
  void Answer(v1::SynchronizeResponse* response) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Reported(const std::vector<v1::TrainerAssignment>& trainers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  grpc::Status Planned(const std::string& method);

  std::string address_;
  std::unique_ptr<grpc::Server> server_;

  Mutex mutex_;
  CondVar changed_;
  bool away_ ABSL_GUARDED_BY(mutex_) = false;
  std::string checkpoint_dir_ ABSL_GUARDED_BY(mutex_);
  std::string served_folder_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> downloads_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::TrainerAssignment> desired_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::TrainerAssignment> crossing_ ABSL_GUARDED_BY(mutex_);  // empty: no answers cross
  int64_t crossed_ ABSL_GUARDED_BY(mutex_) = 0;  // sequence of the call whose answer comes late; later ones wait for it
  absl::Time crossed_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int held_ ABSL_GUARDED_BY(mutex_) = 0;  // calls of Synchronize
  int64_t version_ ABSL_GUARDED_BY(mutex_) = 1;
  int64_t aborted_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, std::pair<grpc::Status, int>> failures_ ABSL_GUARDED_BY(mutex_);
  v1::SynchronizeRequest last_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::ReportMetricsRequest> batches_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::Checkpoint> recorded_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> uploaded_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sab::agent
