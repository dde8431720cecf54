#pragma once

#include "absl/time/time.h"

namespace sab {

// Time, passed in. Decisions take `now` as an argument; only the edges of a program ask a Clock. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;

  // Wall-clock time: what is shown and stored. It may jump.
  virtual absl::Time Now() const = 0;

  // Time since an arbitrary start, never jumping: what leases and deadlines are measured with.
  virtual absl::Duration Monotonic() const = 0;
};

// The machine's clocks. Lives for ever.
const Clock& SystemClock();

}  // namespace sab
