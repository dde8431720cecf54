#pragma once

#include "sab/v1/metric_service.grpc.pb.h"
#include "server/coordinator/coordinator.h"
#include "server/services/watch_reactor.h"
#include "server/store/metric_store.h"

namespace sab::server {

// sab.v1.MetricService over the coordinator and the stored figures.
class MetricService final : public v1::MetricService::WithCallbackMethod_WatchMetrics<v1::MetricService::Service> {
 public:
  MetricService(Coordinator* coordinator, MetricStore* store, ServiceContext context)
      : coordinator_(coordinator), store_(store), context_(context) {}

  grpc::Status ListMetrics(grpc::ServerContext*, const v1::ListMetricsRequest*, v1::ListMetricsResponse*) override;
  grpc::ServerWriteReactor<v1::WatchMetricsResponse>* WatchMetrics(grpc::CallbackServerContext*,
                                                                   const v1::WatchMetricsRequest*) override;

 private:
  Coordinator* const coordinator_;
  MetricStore* const store_;
  const ServiceContext context_;
};

}  // namespace sab::server
