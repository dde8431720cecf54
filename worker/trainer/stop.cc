#include "worker/trainer/stop.h"

#include <chrono>

namespace sab::trainer {

void StopRequest::Request(const std::string& reason) {
  const MutexLock lock(&mutex_);
  if (requested_) return;
  requested_ = true;
  reason_ = reason;
  if (action_) action_();
  changed_.NotifyAll();
}

bool StopRequest::requested() const {
  const MutexLock lock(&mutex_);
  return requested_;
}

std::string StopRequest::reason() const {
  const MutexLock lock(&mutex_);
  return reason_;
}

bool StopRequest::Await(absl::Duration timeout) {
  const auto until = std::chrono::steady_clock::now() + absl::ToChronoMicroseconds(timeout);
  const MutexLock lock(&mutex_);
  while (!requested_) {
    const auto left = until - std::chrono::steady_clock::now();
    if (left.count() <= 0) return false;
    changed_.WaitFor(&mutex_, absl::FromChrono(left));
  }
  return true;
}

void StopRequest::SetAction(std::function<void()> action) {
  const MutexLock lock(&mutex_);
  action_ = std::move(action);
  if (requested_ && action_) action_();
}

void StopRequest::RequestLeave() {
  const MutexLock lock(&mutex_);
  if (leave_requested_) return;
  leave_requested_ = true;
  if (leave_action_) leave_action_();
}

void StopRequest::SetLeaveAction(std::function<void()> action) {
  const MutexLock lock(&mutex_);
  leave_action_ = std::move(action);
  if (leave_requested_ && leave_action_) leave_action_();
}

}  // namespace sab::trainer
