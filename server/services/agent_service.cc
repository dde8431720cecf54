#include "server/services/agent_service.h"

#include <algorithm>
#include <memory>

#include "server/coordinator/text.h"

namespace sab::server {
namespace {

// One call of Synchronize: answered when there is news for the worker, a newer call has come, or its time is up. Owns
// itself until the RPC is over.
class HeldSynchronize final : public grpc::ServerUnaryReactor,
                              public Listener,
                              public HoldTimer::Call,
                              public std::enable_shared_from_this<HeldSynchronize> {
 public:
  HeldSynchronize(Coordinator* coordinator, ServiceContext context, HoldTimer* hold_timer,
                  const v1::SynchronizeRequest* request, v1::SynchronizeResponse* response)
      : coordinator_(coordinator),
        context_(context),
        hold_timer_(hold_timer),
        request_(request),
        response_(response),
        timer_(context.metrics, "Synchronize") {}

  void Begin() {
    self_ = shared_from_this();
    const absl::Status status = coordinator_->Report(*request_);
    if (!status.ok()) return End(status);
    const absl::Duration hold = std::min(FromProto(request_->max_hold()), coordinator_->max_hold());
    // First subscribe, then look: nothing is missed.
    context_.hub->Subscribe(request_->worker(), weak_from_this());
    if (!TryAnswer(hold <= absl::ZeroDuration())) hold_timer_->Add(hold, weak_from_this());
  }

  void OnChange() override { TryAnswer(/*force=*/false); }
  void OnHoldOver() override { TryAnswer(/*force=*/true); }
  void OnCancel() override { End(absl::CancelledError("the agent has gone")); }
  void OnDone() override {
    context_.hub->Unsubscribe(worker_, this);
    self_.reset();
  }

 private:
  // True: it has been answered.
  bool TryAnswer(bool force) {
    MutexLock lock(&mutex_);
    if (ended_) return true;
    auto answer = coordinator_->Desired(*request_, force || context_.draining->load());
    if (answer.ok() && !answer->has_value()) return false;
    if (answer.ok()) *response_ = **std::move(answer);
    EndLocked(answer.status());
    return true;
  }

  void End(const absl::Status& status) {
    MutexLock lock(&mutex_);
    if (!ended_) EndLocked(status);
  }

  void EndLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    ended_ = true;
    worker_ = request_->worker();
    Finish(timer_.Done(status));
  }

  Coordinator* const coordinator_;
  const ServiceContext context_;
  HoldTimer* const hold_timer_;
  const v1::SynchronizeRequest* const request_;  // present until it has ended
  v1::SynchronizeResponse* const response_;
  const RpcTimer timer_;
  std::shared_ptr<HeldSynchronize> self_;
  std::string worker_;
  Mutex mutex_;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerUnaryReactor* AgentService::Synchronize(grpc::CallbackServerContext*, const v1::SynchronizeRequest* request,
                                                    v1::SynchronizeResponse* response) {
  auto call = std::make_shared<HeldSynchronize>(coordinator_, context_, &hold_timer_, request, response);
  call->Begin();
  return call.get();
}

grpc::Status AgentService::ReportMetrics(grpc::ServerContext*, const v1::ReportMetricsRequest* request,
                                         v1::ReportMetricsResponse*) {
  return Unary(context_.metrics, "ReportMetrics", [&] { return coordinator_->ReportMetrics(*request); });
}

grpc::Status AgentService::ReportLogs(grpc::ServerContext*, const v1::ReportLogsRequest* request,
                                      v1::ReportLogsResponse*) {
  return Unary(context_.metrics, "ReportLogs", [&] { return coordinator_->ReportLogs(*request); });
}

grpc::Status AgentService::RecordCheckpoint(grpc::ServerContext*, const v1::RecordCheckpointRequest* request,
                                            v1::RecordCheckpointResponse* response) {
  return Unary(context_.metrics, "RecordCheckpoint", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(*response->mutable_checkpoint(), coordinator_->RecordCheckpoint(*request));
    return absl::OkStatus();
  });
}

grpc::Status AgentService::UploadCheckpoint(grpc::ServerContext*,
                                            grpc::ServerReader<v1::UploadCheckpointRequest>* reader,
                                            v1::UploadCheckpointResponse*) {
  return Unary(context_.metrics, "UploadCheckpoint", [&]() -> absl::Status {
    v1::UploadCheckpointRequest message;
    if (!reader->Read(&message) || !message.has_header()) {
      return WithReason(absl::InvalidArgumentError("header: the first message must carry it"), "INVALID_REQUEST");
    }
    SAB_ASSIGN_OR_RETURN(const std::unique_ptr<CheckpointFiles::Upload> upload,
                         coordinator_->StartUpload(message.header()));
    while (reader->Read(&message)) {
      if (context_.draining->load()) return DrainingError();
      SAB_RETURN_IF_ERROR(upload->Add(message.data(), message.crc32()));
    }
    return upload->Finish();
  });
}

}  // namespace sab::server
