#include "worker/trainer/pulse.h"

#include <algorithm>

namespace sab::trainer {

void PulseMeter::Close(absl::Duration now) {
  const absl::Duration took = now - since_;
  since_ = now;
  switch (activity_) {
    case v1::TRAINER_ACTIVITY_STEP:
      present_.longest = std::max(present_.longest, took);
      present_.compute += took;
      break;
    case v1::TRAINER_ACTIVITY_COLLECTIVE:
      present_.wait += took;
      break;
    case v1::TRAINER_ACTIVITY_EVALUATION:
      longest_evaluation_ = std::max(longest_evaluation_, took);
      break;
    case v1::TRAINER_ACTIVITY_CHECKPOINT:
      longest_checkpoint_ = std::max(longest_checkpoint_, took);
      break;
    default:
      break;
  }
}

void PulseMeter::Enter(v1::TrainerActivity activity) {
  const absl::Duration now = clock_->Monotonic();
  const MutexLock lock(&mutex_);
  Close(now);
  activity_ = activity;
}

void PulseMeter::StepDone() {
  const absl::Duration now = clock_->Monotonic();
  const MutexLock lock(&mutex_);
  Close(now);
  steps_[step_count_++ % kRemembered] = present_;
  present_ = {};
}

void PulseMeter::ForgetSteps() {
  const MutexLock lock(&mutex_);
  step_count_ = 0;
}

void PulseMeter::SetHoldsState(bool holds) {
  const MutexLock lock(&mutex_);
  holds_state_ = holds;
}

absl::Duration PulseMeter::Expected() const {
  if (activity_ == v1::TRAINER_ACTIVITY_EVALUATION) return longest_evaluation_;
  if (activity_ == v1::TRAINER_ACTIVITY_CHECKPOINT) return longest_checkpoint_;
  absl::Duration longest;
  if (activity_ != v1::TRAINER_ACTIVITY_STEP && activity_ != v1::TRAINER_ACTIVITY_COLLECTIVE) return longest;
  for (size_t i = 0; i < std::min(step_count_, kRemembered); ++i) longest = std::max(longest, steps_[i].longest);
  return longest;
}

v1::TrainerPulse PulseMeter::Read() const {
  const absl::Duration now = clock_->Monotonic();
  const MutexLock lock(&mutex_);
  Step sum;
  const size_t count = std::min(step_count_, kRemembered);
  for (size_t i = 0; i < count; ++i) {
    sum.compute += steps_[i].compute;
    sum.wait += steps_[i].wait;
  }
  v1::TrainerPulse pulse;
  pulse.set_activity(activity_);
  pulse.set_activity_seconds(absl::ToDoubleSeconds(now - since_));
  pulse.set_expected_seconds(absl::ToDoubleSeconds(Expected()));
  if (count > 0) {
    pulse.set_compute_seconds(absl::ToDoubleSeconds(sum.compute) / static_cast<double>(count));
    pulse.set_wait_seconds(absl::ToDoubleSeconds(sum.wait) / static_cast<double>(count));
  }
  pulse.set_holds_state(holds_state_);
  return pulse;
}

}  // namespace sab::trainer
