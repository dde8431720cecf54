#include "server/services/hold_timer.h"

#include <vector>

#include "common/base/clock.h"

namespace sab::server {

HoldTimer::HoldTimer() : thread_([this] { return TellDue(); }) {}

void HoldTimer::Add(absl::Duration hold, const std::weak_ptr<Call>& call) {
  bool earliest;
  {
    MutexLock lock(&mutex_);
    const auto added = due_.emplace(SystemClock().Monotonic() + hold, call);
    earliest = added == due_.begin();
  }
  if (earliest) thread_.OnChange();
}

absl::Duration HoldTimer::TellDue() {
  std::vector<std::shared_ptr<Call>> over;
  absl::Duration next = absl::InfiniteDuration();
  const absl::Duration now = SystemClock().Monotonic();
  {
    MutexLock lock(&mutex_);
    while (!due_.empty() && due_.begin()->first <= now) {
      if (auto call = due_.begin()->second.lock()) over.push_back(std::move(call));
      due_.erase(due_.begin());
    }
    if (!due_.empty()) next = due_.begin()->first - now;
  }
  for (const auto& call : over) call->OnHoldOver();
  return next;
}

}  // namespace sab::server
