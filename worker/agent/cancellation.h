#pragma once

#include <grpcpp/client_context.h>

#include <set>

#include "absl/time/time.h"
#include "common/base/mutex.h"

namespace sab::agent {

// Ends waits and RPCs of a thread from outside. Thread-safe.
class Cancellation {
 public:
  // Cancels every call in progress and all later ones.
  void Cancel() {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    for (grpc::ClientContext* context : calls_) context->TryCancel();
    changed_.NotifyAll();
  }
  bool cancelled() {
    MutexLock lock(&mutex_);
    return cancelled_;
  }
  // Sleeps for `duration`; false, at once, when cancelled.
  bool Sleep(absl::Duration duration) {
    MutexLock lock(&mutex_);
    while (!cancelled_) {
      if (!changed_.WaitFor(&mutex_, duration)) break;
    }
    return !cancelled_;
  }

  // While it lives, Cancel cancels `context`'s call.
  class Scope {
   public:
    Scope(Cancellation* cancellation, grpc::ClientContext* context) : cancellation_(cancellation), context_(context) {
      MutexLock lock(&cancellation_->mutex_);
      cancellation_->calls_.insert(context_);
      if (cancellation_->cancelled_) context_->TryCancel();
    }
    ~Scope() {
      MutexLock lock(&cancellation_->mutex_);
      cancellation_->calls_.erase(context_);
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Cancellation* const cancellation_;
    grpc::ClientContext* const context_;
  };

 private:
  Mutex mutex_;
  CondVar changed_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sab::agent
