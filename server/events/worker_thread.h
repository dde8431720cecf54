#pragma once

#include <functional>
#include <memory>
#include <thread>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "server/events/change_hub.h"

namespace sab::server {

// A thread that calls `run` again and again: when the time it returned has passed (InfiniteDuration: never), or on
// OnChange. Publish its key to a hub to wake it.
class WorkerThread : public Listener {
 public:
  explicit WorkerThread(std::function<absl::Duration()> run);
  // Waits for a call of `run` under way.
  ~WorkerThread() override;

  void OnChange() override;

 private:
  void Loop();

  const std::function<absl::Duration()> run_;
  Mutex mutex_;
  CondVar changed_;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sab::server
