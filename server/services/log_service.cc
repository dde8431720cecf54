#include "server/services/log_service.h"

#include <optional>

#include "server/coordinator/text.h"

namespace sab::server {
namespace {

class LogWatch final : public WatchReactor<v1::TailLogsResponse> {
 public:
  LogWatch(Coordinator* coordinator, LogStore* store, ServiceContext context, JobId job,
           const v1::TailLogsRequest& request)
      : WatchReactor(context, "TailLogs"),
        coordinator_(coordinator),
        store_(store),
        job_(std::move(job)),
        follow_(request.follow()),
        tail_lines_(request.tail_lines()) {
    if (request.has_rank()) rank_ = request.rank();
  }

 private:
  absl::StatusOr<Step> Next(v1::TailLogsResponse* response) override {
    // In this order: lines that come before the end are read after it was seen.
    SAB_ASSIGN_OR_RETURN(const v1::JobState state, coordinator_->GetState(job_));
    if (!started_ && tail_lines_ > 0) {
      SAB_ASSIGN_OR_RETURN(cursor_, store_->Tail(job_, rank_, tail_lines_));
    }
    started_ = true;
    std::vector<v1::LogLine> lines;
    for (bool at_end = false; !at_end && lines.empty();) {
      SAB_ASSIGN_OR_RETURN(at_end, store_->Read(job_, rank_, &cursor_, &lines));
    }
    if (lines.empty()) return follow_ && !IsFinal(state) ? Step::kWait : Step::kEnd;
    *response->mutable_lines() = {lines.begin(), lines.end()};
    return Step::kSend;
  }

  Coordinator* const coordinator_;
  LogStore* const store_;
  const JobId job_;
  const bool follow_;
  const int64_t tail_lines_;
  std::optional<int32_t> rank_;
  LogCursor cursor_;
  bool started_ = false;
};

}  // namespace

grpc::ServerWriteReactor<v1::TailLogsResponse>* LogService::TailLogs(grpc::CallbackServerContext* rpc,
                                                                     const v1::TailLogsRequest* request) {
  absl::StatusOr<JobId> id = ParseJobName(request->job());
  if (id.ok() && request->tail_lines() < 0) {
    id = WithReason(InvalidFields({{"tail_lines", "must not be negative"}}), "INVALID_REQUEST");
  }
  if (!id.ok()) return new FailedStream<v1::TailLogsResponse>(RpcTimer(context_.metrics, "TailLogs").Done(id.status()));
  return LogWatch::Begin(std::make_shared<LogWatch>(coordinator_, store_, context_, *id, *request), rpc,
                         {LogsKey(*id), id->name()});
}

}  // namespace sab::server
