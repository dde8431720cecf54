#include "server/services/metric_service.h"

#include <algorithm>

#include "server/coordinator/text.h"

namespace sab::server {
namespace {

constexpr int64_t kPointsAtOnce = 2000;
constexpr int64_t kDefaultPage = 10000;
constexpr int64_t kMaxPage = 100000;

class MetricWatch final : public WatchReactor<v1::WatchMetricsResponse> {
 public:
  MetricWatch(Coordinator* coordinator, MetricStore* store, ServiceContext context, JobId job, int64_t after)
      : WatchReactor(context, "WatchMetrics"),
        coordinator_(coordinator),
        store_(store),
        job_(std::move(job)),
        after_(after) {}

 private:
  absl::StatusOr<Step> Next(v1::WatchMetricsResponse* response) override {
    // In this order: figures that come before the end are read after it was seen.
    SAB_ASSIGN_OR_RETURN(const v1::JobState state, coordinator_->GetState(job_));
    SAB_ASSIGN_OR_RETURN(const std::vector<v1::MetricPoint> points, store_->ReadAfter(job_, after_, kPointsAtOnce));
    if (points.empty()) return IsFinal(state) ? Step::kEnd : Step::kWait;
    after_ = points.back().sequence();
    *response->mutable_points() = {points.begin(), points.end()};
    return Step::kSend;
  }

  Coordinator* const coordinator_;
  MetricStore* const store_;
  const JobId job_;
  int64_t after_;
};

}  // namespace

grpc::Status MetricService::ListMetrics(grpc::ServerContext*, const v1::ListMetricsRequest* request,
                                        v1::ListMetricsResponse* response) {
  return Unary(context_.metrics, "ListMetrics", [&]() -> absl::Status {
    SAB_ASSIGN_OR_RETURN(const JobId id, ParseJobName(request->job()));
    SAB_RETURN_IF_ERROR(coordinator_->GetState(id).status());
    if (request->page_size() < 0)
      return WithReason(InvalidFields({{"page_size", "must not be negative"}}), "INVALID_REQUEST");
    const int64_t limit = request->page_size() == 0 ? kDefaultPage : std::min<int64_t>(request->page_size(), kMaxPage);
    SAB_ASSIGN_OR_RETURN(const MetricPage page, store_->List(id, {.split = request->split(),
                                                                  .metric = request->metric(),
                                                                  .limit = limit,
                                                                  .token = request->page_token()}));
    *response->mutable_points() = {page.points.begin(), page.points.end()};
    response->set_next_page_token(page.next_token);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchMetricsResponse>* MetricService::WatchMetrics(
    grpc::CallbackServerContext* rpc, const v1::WatchMetricsRequest* request) {
  const absl::StatusOr<JobId> id = ParseJobName(request->job());
  if (!id.ok())
    return new FailedStream<v1::WatchMetricsResponse>(RpcTimer(context_.metrics, "WatchMetrics").Done(id.status()));
  return MetricWatch::Begin(
      std::make_shared<MetricWatch>(coordinator_, store_, context_, *id, request->after_sequence()), rpc,
      {MetricsKey(*id), id->name()});
}

}  // namespace sab::server
