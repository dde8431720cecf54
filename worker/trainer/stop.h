#pragma once

#include <functional>
#include <string>

#include "absl/time/time.h"
#include "common/base/mutex.h"

namespace sab::trainer {

// The wish that this process leaves: SIGTERM, an agent that is gone, an attempt that is not wanted any more.
// Thread-safe.
class StopRequest {
 public:
  // The first request counts. Calls the action, if there is one.
  void Request(const std::string& reason) ABSL_LOCKS_EXCLUDED(mutex_);
  bool requested() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::string reason() const ABSL_LOCKS_EXCLUDED(mutex_);
  // True when it was requested within `timeout`.
  bool Await(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mutex_);

  // What interrupts the work of the moment; called at once when the request is there already. Short, and does not call
  // back. An empty action takes the last one away: when that returns it is not running and will not.
  void SetAction(std::function<void()> action) ABSL_LOCKS_EXCLUDED(mutex_);

  // The wish that it leaves in its own time, with a checkpoint. The same rules.
  void RequestLeave() ABSL_LOCKS_EXCLUDED(mutex_);
  void SetLeaveAction(std::function<void()> action) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  bool requested_ ABSL_GUARDED_BY(mutex_) = false;
  std::string reason_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> action_ ABSL_GUARDED_BY(mutex_);
  bool leave_requested_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<void()> leave_action_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sab::trainer
