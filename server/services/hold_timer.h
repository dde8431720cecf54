#pragma once

#include <map>
#include <memory>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "server/events/worker_thread.h"

namespace sab::server {

// Tells held calls when their time is up. Not grpc::Alarm: gRPC's timers wait for points of the wall clock, and one
// that is set back meanwhile would let leases end that are renewed by these calls. Thread-safe.
class HoldTimer {
 public:
  class Call {
   public:
    virtual ~Call() = default;
    // On the timer's thread: must not block.
    virtual void OnHoldOver() = 0;
  };
  HoldTimer();

  // After `hold` from now, unless the call is gone by then.
  void Add(absl::Duration hold, const std::weak_ptr<Call>& call);

 private:
  absl::Duration TellDue();

  Mutex mutex_;
  std::multimap<absl::Duration, std::weak_ptr<Call>> due_ ABSL_GUARDED_BY(mutex_);  // monotonic
  WorkerThread thread_;
};

}  // namespace sab::server
