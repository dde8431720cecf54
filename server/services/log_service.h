#pragma once

#include "sab/v1/log_service.grpc.pb.h"
#include "server/coordinator/coordinator.h"
#include "server/services/watch_reactor.h"
#include "server/store/log_store.h"

namespace sab::server {

// sab.v1.LogService over the coordinator and the stored lines.
class LogService final : public v1::LogService::WithCallbackMethod_TailLogs<v1::LogService::Service> {
 public:
  LogService(Coordinator* coordinator, LogStore* store, ServiceContext context)
      : coordinator_(coordinator), store_(store), context_(context) {}

  grpc::ServerWriteReactor<v1::TailLogsResponse>* TailLogs(grpc::CallbackServerContext*,
                                                           const v1::TailLogsRequest*) override;

 private:
  Coordinator* const coordinator_;
  LogStore* const store_;
  const ServiceContext context_;
};

}  // namespace sab::server
