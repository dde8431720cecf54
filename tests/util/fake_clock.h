#pragma once

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace sab::testing_util {

// A clock that moves only when told. Thread-safe.
class FakeClock : public Clock {
 public:
  absl::Time Now() const override {
    return absl::FromUnixSeconds(1767225600) + absl::Nanoseconds(nanos_.load() + stepped_nanos_.load());
  }
  absl::Duration Monotonic() const override { return absl::Seconds(1000) + absl::Nanoseconds(nanos_.load()); }
  // Sets the wall clock forwards or back.
  void StepWall(absl::Duration by) { stepped_nanos_ += absl::ToInt64Nanoseconds(by); }
  void Advance(absl::Duration duration) { nanos_ += absl::ToInt64Nanoseconds(duration); }

 private:
  std::atomic<int64_t> nanos_ = 0;
  std::atomic<int64_t> stepped_nanos_ = 0;
};

}  // namespace sab::testing_util
