#pragma once

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "common/base/status.h"
#include "server/coordinator_metrics.h"
#include "server/events/change_hub.h"
#include "server/services/open_streams.h"
#include "server/services/rpc_observer.h"

namespace sab::server {

// What every service needs. All outlive the server.
struct ServiceContext {
  ChangeHub* hub = nullptr;
  CoordinatorMetrics* metrics = nullptr;
  OpenStreams* streams = nullptr;
  const std::atomic<bool>* draining = nullptr;  // set, then ChangeHub::PublishAll: streams and held calls end
};

inline absl::Status DrainingError() {
  return WithReason(absl::UnavailableError("the coordinator is shutting down: try again"), "SHUTTING_DOWN");
}

// A stream that ends at once with `status`.
template <typename Response>
class FailedStream : public grpc::ServerWriteReactor<Response> {
 public:
  explicit FailedStream(const grpc::Status& status) { this->Finish(status); }
  void OnDone() override { delete this; }
};

// A server stream that follows something in time: it sends what there is, then waits, holding no thread, until told of
// a change. One message is under way at a time and nothing is queued: a slow reader costs one message of memory and
// delays no one, and one who takes nothing for the limit of OpenStreams is cut (CANCELLED). It owns itself until the
// RPC is over.
template <typename Response>
class WatchReactor : public grpc::ServerWriteReactor<Response>,
                     public Listener,
                     public OpenStreams::Stream,
                     public std::enable_shared_from_this<WatchReactor<Response>> {
 public:
  enum class Step { kSend, kWait, kEnd };

  // The RPC's reactor; `keys` are what wakes it.
  static grpc::ServerWriteReactor<Response>* Begin(std::shared_ptr<WatchReactor> watch,
                                                   grpc::CallbackServerContext* rpc, std::vector<std::string> keys) {
    if (absl::Status status = watch->context_.streams->Add(watch); !status.ok())
      return new FailedStream<Response>(watch->timer_.Done(status));
    watch->self_ = watch;
    watch->rpc_ = rpc;
    watch->keys_ = std::move(keys);
    for (const std::string& key : watch->keys_) watch->context_.hub->Subscribe(key, watch);
    watch->context_.metrics->watchers.Increment();
    WatchReactor* raw = watch.get();
    raw->Pump();
    return raw;
  }

  void OnWriteDone(bool ok) override {
    context_.streams->WriteEnded(this);
    {
      MutexLock lock(&mutex_);
      busy_ = false;
      if (!ok) cancelled_ = true;
    }
    Pump();
  }
  void OnCancel() override {
    {
      MutexLock lock(&mutex_);
      cancelled_ = true;
    }
    Pump();
  }
  void OnChange() override { Pump(); }
  void OnDone() override {
    {
      const std::lock_guard<std::recursive_mutex> lock(rpc_mutex_);
      rpc_ = nullptr;
    }
    context_.streams->Remove(this);
    for (const std::string& key : keys_) context_.hub->Unsubscribe(key, this);
    context_.metrics->watchers.Decrement();
    self_.reset();
  }
  // The write under way ends with an error, and the RPC with it.
  void Cut() override {
    const std::lock_guard<std::recursive_mutex> lock(rpc_mutex_);
    if (rpc_ != nullptr) rpc_->TryCancel();
  }

 protected:
  WatchReactor(ServiceContext context, const char* method) : context_(context), timer_(context.metrics, method) {}

  // Fills in the next message, or says that there is none yet, or none any more. One call at a time. Must not wait for
  // anything.
  virtual absl::StatusOr<Step> Next(Response* response) = 0;

 private:
  // True: the caller may go on alone.
  bool Enter() {
    MutexLock lock(&mutex_);
    again_ = true;
    if (busy_) return false;
    busy_ = true;
    return true;
  }

  void Pump() {
    if (!Enter()) return;
    for (;;) {
      bool cancelled;
      {
        MutexLock lock(&mutex_);
        again_ = false;
        cancelled = cancelled_;
      }
      // `busy_` stays set: nothing follows a Finish, and a write is followed by OnWriteDone.
      if (cancelled) return this->Finish(timer_.Done(absl::CancelledError("the client has gone")));
      if (context_.draining->load()) return this->Finish(timer_.Done(DrainingError()));
      response_.Clear();
      const absl::StatusOr<Step> step = Next(&response_);
      if (!step.ok()) return this->Finish(timer_.Done(step.status()));
      if (*step == Step::kEnd) return this->Finish(timer_.Done(absl::OkStatus()));
      if (*step == Step::kSend) {
        context_.streams->WriteBegins(this);
        return this->StartWrite(&response_);
      }
      MutexLock lock(&mutex_);
      if (again_ || cancelled_) continue;
      busy_ = false;
      return;
    }
  }

  const ServiceContext context_;
  const RpcTimer timer_;
  std::vector<std::string> keys_;
  std::shared_ptr<WatchReactor> self_;
  Response response_;  // used by whoever set busy_
  // Keeps the RPC there while it is being cancelled. Recursive: that may call OnDone on the same thread.
  std::recursive_mutex rpc_mutex_;
  grpc::CallbackServerContext* rpc_ = nullptr;
  Mutex mutex_;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;   // someone is in Pump, or a write is under way, or it is finished
  bool again_ ABSL_GUARDED_BY(mutex_) = false;  // something changed since Next was called
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sab::server
