#pragma once

#include <array>
#include <cstddef>

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "sab/v1/agent_service.pb.h"

namespace sab::trainer {

// Keeps what a sign of life says: what the training thread is at, for how long, and how long such things have taken.
// The training thread enters activities, any thread reads.
class PulseMeter {
 public:
  explicit PulseMeter(const Clock* clock = &SystemClock()) : clock_(clock) {}

  // The activity of before has ended. Steps and evaluations are entered again after each collective call inside them.
  void Enter(v1::TrainerActivity activity) ABSL_LOCKS_EXCLUDED(mutex_);
  // A step is done.
  void StepDone() ABSL_LOCKS_EXCLUDED(mutex_);
  // Steps will take another time than so far: the length may have changed.
  void ForgetSteps() ABSL_LOCKS_EXCLUDED(mutex_);
  void SetHoldsState(bool holds) ABSL_LOCKS_EXCLUDED(mutex_);

  v1::TrainerPulse Read() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  static constexpr size_t kRemembered = 16;
  struct Step {
    absl::Duration longest;  // part without a collective call
    absl::Duration compute;
    absl::Duration wait;
  };
  void Close(absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration Expected() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Clock* const clock_;
  mutable Mutex mutex_;
  v1::TrainerActivity activity_ ABSL_GUARDED_BY(mutex_) = v1::TRAINER_ACTIVITY_PREPARE;
  absl::Duration since_ ABSL_GUARDED_BY(mutex_) = clock_->Monotonic();
  Step present_ ABSL_GUARDED_BY(mutex_);
  std::array<Step, kRemembered> steps_ ABSL_GUARDED_BY(mutex_);  // a ring
  size_t step_count_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Duration longest_evaluation_ ABSL_GUARDED_BY(mutex_);
  absl::Duration longest_checkpoint_ ABSL_GUARDED_BY(mutex_);
  bool holds_state_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace sab::trainer
